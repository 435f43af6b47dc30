package downstream

import (
	"errors"
	"maps"
	"slices"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// discreet keeps out of errors, and so out of answers, logs and records, what a type of
// provider must not have put there: the parent's secrets, and others that the call was
// about. Such an error keeps its code and what steers by it, and loses its words.
func (p *Provider) discreet(err error, others ...secret.Text) error {
	if err == nil {
		return nil
	}
	parent, more := p.Secrets(), secret.NewSearch(others...)
	if !inChain(err, func(text string) bool { return parent.In(text) || more.In(text) }) {
		return err
	}
	return fault.New(fault.CodeOf(err), "what the provider said cannot be shown, because a secret is in it").Because(hidden{err})
}

// hidden is an error whose words nobody sees.
type hidden struct{ inner error }

func (h hidden) Error() string        { return "an error with a secret in it" }
func (h hidden) Is(target error) bool { return errors.Is(h.inner, target) }
func (h hidden) As(target any) bool   { return errors.As(h.inner, target) }

// inChain reports whether the text of err, or of anything that it wraps, is so.
func inChain(err error, so func(text string) bool) bool {
	if err == nil {
		return false
	}
	if so(err.Error()) {
		return true
	}
	switch e := err.(type) { //nolint:errorlint // it walks the chain itself
	case interface{ Unwrap() error }:
		return inChain(e.Unwrap(), so)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(inner error) bool { return inChain(inner, so) })
	}
	return false
}

// secretsOf are what a mint was about, beside the parent.
func secretsOf(r provider.Request, child *provider.Child) []secret.Text {
	var all []secret.Text
	for _, party := range []*provider.Party{r.Subject, r.Actor} {
		if party != nil {
			all = append(all, party.Token)
		}
	}
	for _, proof := range r.Proofs {
		all = append(all, proof)
	}
	if child != nil {
		for _, part := range child.Secrets {
			all = append(all, part)
		}
	}
	return all
}

// show makes of what a check or rotation said what may be shown.
func (p *Provider) show(health provider.Health) provider.Health {
	var own []secret.Text
	for _, child := range health.Children {
		own = slices.AppendSeq(own, maps.Values(child.Secrets))
	}
	parent, children := p.Secrets(), secret.NewSearch(own...)
	confidential := func(text string) bool { return parent.In(text) || children.In(text) }
	if confidential(health.Detail) {
		health.Detail = ""
	}
	health.Grants = slices.DeleteFunc(slices.Clone(health.Grants), confidential)
	return health
}
