package backend

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Whatever the type of the provider, every part of its answer is looked through for
// what must not be there: the parent's secrets and the caller's own tokens in the child,
// and any secret at all in what is recorded or shown in clear.

// brought are the caller's tokens that the provider has seen.
func (d *decided) brought() []secret.Text {
	if d.role.Mode != provider.ModeExchange {
		return nil // what is forwarded is the child, and a mint shows no token to anybody
	}
	return []secret.Text{d.ask.subjectToken, d.ask.actorToken}
}

// callers are all secrets of the caller's that came with the request.
func (d *decided) callers() []secret.Text {
	all := []secret.Text{d.ask.subjectToken, d.ask.actorToken}
	for _, proof := range d.ask.proofs {
		all = append(all, proof)
	}
	return all
}

// repeats says why the child must not be handed out, because the parent or a token of
// the caller's is in it. keep is true if it is more than these, so that it must be killed;
// else there is nothing to kill: no provider is told to revoke the parent, or what is the
// caller's own.
func repeats(parent *secret.Search, brought []secret.Text, child *provider.Child) (why *fault.Error, keep bool) {
	theirs := secret.NewSearch(brought...)
	for _, part := range child.Secrets {
		text := part.Reveal()
		switch {
		case parent.Is(part):
			why = errIsParent
		case parent.In(text):
			why, keep = errHoldsParent, true
		case theirs.Is(part):
			why = errIsBrought
		case theirs.In(text):
			why, keep = errHoldsBrought, true
		default:
			keep = keep || !part.Empty()
		}
	}
	handle := child.Handle.Reveal()
	switch {
	case parent.Is(child.Handle), parent.In(handle):
		return errHoldsParent, false
	case theirs.Is(child.Handle), theirs.In(handle):
		return errHoldsBrought, false
	}
	return why, keep
}

var (
	errIsParent     = fault.New(fault.ProviderViolation, "the provider answered with the parent credential itself, which is handed out to nobody: see what the server does for this grant")
	errHoldsParent  = fault.New(fault.ProviderViolation, "the provider answered with something that holds the parent credential, which is handed out to nobody: see what the server puts into its tokens")
	errIsBrought    = fault.New(fault.ProviderViolation, "the provider answered with the token that was to be exchanged: nothing became narrower, and nothing is handed out: see what the server lets this client exchange")
	errHoldsBrought = fault.New(fault.ProviderViolation, "the provider answered with something that holds the token that was to be exchanged, so nothing is handed out: see what the server puts into its tokens")
)

// diesAlone reports whether the kill of a child is meant to end nothing else that was
// handed out: not so if nothing can kill it, or it hangs on a lever that has a name.
func diesAlone(child *provider.Child) bool {
	return child.Class != provider.ClassExpiry && child.Lever == ""
}

// errGivenBefore is for a child that is to die alone and that the provider has given
// before: to kill it for one holder would be to kill it for another.
var errGivenBefore = fault.New(fault.ProviderViolation, "the provider answered with a token that it has given to another request before: it would die with either of them. Set revocation=lever on the provider, by which it dies with the last of them, give each role a client of its own, or set sharing=entity on the role where one entity is all that asks")

// isNothing reports whether nothing was answered that could be used or killed.
func isNothing(child *provider.Child) bool {
	if child == nil {
		return true
	}
	for _, part := range child.Secrets {
		if !part.Empty() {
			return false
		}
	}
	return child.Handle.Empty()
}

// unrecordable says why what a provider told of a child, beside its secrets, must be neither
// recorded nor shown, or "". flat is what was granted.
func (d *decided) unrecordable(child *provider.Child, flat []string) string {
	return unrecordable(d.provider.Secrets(), d.callers(), child, flat)
}

func unrecordable(parent *secret.Search, callers []secret.Text, child *provider.Child, flat []string) string {
	if sizeOf(flat)+len(child.Lever) > maxGranted {
		return fmt.Sprintf("the provider granted more than %d bytes of names, more than can be recorded", maxGranted)
	}
	others := secret.NewSearch(slices.AppendSeq(callers, maps.Values(child.Secrets))...)
	for where, text := range inClear(child, flat) {
		if parent.In(text) || others.In(text) {
			return "the provider repeats the parent credential, or a token, " + where + ", which is no secret"
		}
	}
	return ""
}

// inClear are the texts of a child that are recorded, or shown in a response, as no secret,
// each with where it is: a new member of Child belongs here or among the secrets. What was
// granted is flat.
func inClear(child *provider.Child, flat []string) iter.Seq2[string, string] {
	return func(yield func(where, text string) bool) {
		const granted = "among what it granted"
		for _, name := range flat {
			_, value, _ := strings.Cut(name, ":") // without the dimension, as in a list of its own
			if !yield(granted, name) || !yield(granted, value) {
				return
			}
		}
		each := func(where string, value any) bool {
			return !anyText(value, func(text string) bool { return !yield(where, text) })
		}
		if !child.Granted.Details.IsNothing() && !each(granted, child.Granted.Details.JSON()) {
			return
		}
		for _, name := range child.Unverified {
			if !yield("in unverified", name) {
				return
			}
		}
		if !yield("in the name of its lever", child.Lever) ||
			!yield("in token_type", child.TokenType) ||
			!yield("in issued_token_type", child.IssuedTokenType) ||
			!yield("in the issuer's name", child.Issuer) {
			return
		}
		for name, value := range child.Extra {
			if !yield("in the name of a field", name) || !each("in the field "+name, value) {
				return
			}
		}
	}
}

// anyText reports whether so is true of any text in a value that a response can hold,
// names of members included.
func anyText(value any, so func(text string) bool) bool {
	switch v := value.(type) {
	case nil:
		return false
	case string:
		return so(v)
	case []string:
		return slices.ContainsFunc(v, so)
	case []any:
		return slices.ContainsFunc(v, func(inner any) bool { return anyText(inner, so) })
	case map[string]any:
		for name, inner := range v {
			if so(name) || anyText(inner, so) {
				return true
			}
		}
		return false
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return false // what has no JSON is in no response
	}
	var plain any
	if _ = json.Unmarshal(raw, &plain); plain == nil {
		return false
	}
	switch plain.(type) {
	case string, []any, map[string]any:
		return anyText(plain, so)
	}
	return so(string(raw)) // a number has more digits here
}
