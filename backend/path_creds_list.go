package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const credsListHelp = `
Lists the roles that whoever asks may use, as far as can be told before anything is
asked for: the role's terms on who and where from, a condition that looks at nothing but
identity, what is frozen or disabled. key_info says of each its provider and mode, what
can be asked for (the ceilings), what must be brought, and which fields the answer has.
A role that is listed may refuse all the same, by its subject token, say; one that is
not listed refuses.
`

// maxLooked bounds the roles that one list looks at.
const maxLooked = 5000

func (b *broker) pathCredsList() *framework.Path {
	return &framework.Path{
		Pattern:         "creds/?$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "usable-roles"},
		HelpSynopsis:    "Lists the roles that the caller may use.",
		HelpDescription: strings.TrimSpace(credsListHelp),
		Fields:          pageFields(nil),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: b.listCreds, Summary: "List the roles that the caller may use.",
				Responses: listResponses("provider, mode, revocation", "the ceilings of what can be asked for", "ttl and max_ttl in seconds", "brings: what a request must bring", "fields of the answer"),
			},
		},
	}
}

func (b *broker) listCreds(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	names, err := b.roles.List(ctx, "")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	begin, found := slices.BinarySearch(names, after)
	if found {
		begin++
	}
	names = names[begin:]
	l := &rolesOfCaller{b: b, ask: ask{entityID: req.EntityID, remoteAddr: remoteAddr(req), vouched: true}, known: map[knowledge]whoAsks{}}
	keys, info := []string{}, map[string]any{}
	resp := &logical.Response{}
	for i, name := range names {
		if len(keys) == limit || i == maxLooked {
			tellMore(resp, req, names[i-1])
			break
		}
		usable, err := l.usable(ctx, name)
		switch {
		case err != nil:
			return nil, err
		case usable != nil:
			keys, info[name] = append(keys, name), usable
		}
	}
	if l.broken > 0 {
		resp.AddWarning(fmt.Sprintf("of %d role(s) it could not be told, which is for an operator to mend: creds/<role> says more", l.broken))
	}
	list := logical.ListResponseWithInfo(keys, info)
	list.Warnings = resp.Warnings
	return list, nil
}

// rolesOfCaller looks at one role after the other for one caller, who is asked for once.
type rolesOfCaller struct {
	b     *broker
	ask   ask
	known map[knowledge]whoAsks
	// broken are the roles of which nothing can be told, because of what they are
	// themselves: nobody can use them, and they hide no other one.
	broken int
}

// whoAsks is what Vault has said of the caller: stopped is true of one of whom there is
// nothing to be had.
type whoAsks struct {
	caller  decision.Caller
	stopped bool
}

// who asks Vault, and the freezer, unless that was done for another role.
func (l *rolesOfCaller) who(ctx context.Context, want knowledge) (w whoAsks, err error) {
	if w, ok := l.known[want]; ok {
		return w, nil
	}
	w.caller, err = l.b.caller(l.ask, want)
	if err != nil {
		w.stopped, err = true, unlessRefused(err)
	}
	if err == nil && !w.stopped {
		var frozen []*fault.Error
		frozen, err = l.b.freezer.Check(ctx, ending.Basis{Holder: holderOf(w.caller.EntityID)})
		w.stopped = len(frozen) > 0
	}
	if err == nil {
		l.known[want] = w
	}
	return w, err
}

// usable is what a caller needs to know of a role that it may use; nil for any other, and
// for one that nobody can use as it is.
func (l *rolesOfCaller) usable(ctx context.Context, name string) (map[string]any, error) {
	b := l.b
	compiled, err := b.roles.compiled(ctx, name)
	if err != nil {
		l.passOver(err)
		return nil, nil
	}
	p, err := b.providers.MustOpen(ctx, compiled.Provider)
	if err != nil {
		l.passOver(err)
		return nil, nil
	}
	w, err := l.who(ctx, needed(l.ask, compiled, p))
	if err != nil || w.stopped || len(stopped(p, compiled)) > 0 {
		return nil, err
	}
	for _, what := range []ending.Thing{{Kind: ending.KindRole, Name: compiled.name}, {Kind: ending.KindProvider, Name: p.Ref}} {
		if frozen, err := b.freezer.Frozen(ctx, what); err != nil || frozen {
			return nil, err
		}
	}
	if len(compiled.policy.CheckCaller(decision.Situation{Now: b.now(), Caller: w.caller})) > 0 {
		return nil, nil
	}
	info := map[string]any{"provider": p.Ref, "mode": string(compiled.Mode), "revocation": string(compiled.traits.Class), "fields": p.Answer.Names(), "brings": brings(compiled.policy)}
	callersFields.Show(compiled.Role, info)
	for _, unset := range []string{"ttl", "max_ttl"} {
		if info[unset] == int64(0) {
			delete(info, unset)
		}
	}
	return info, nil
}

// passOver counts a role that cannot be judged; one that refuses everybody is none.
func (l *rolesOfCaller) passOver(err error) {
	if unlessRefused(err) != nil {
		l.broken++
	}
}

// callersFields are those of a role that tell a caller what can be asked for, and of whom
// what must be brought.
var callersFields = slices.DeleteFunc(slices.Clone(roleFields), func(f stored.Field[role.Role]) bool {
	return !slices.Contains([]string{
		"scopes", "audiences", "resources", "permissions", "authorization_details", "default_scopes", "ttl", "max_ttl", "subject_issuers", "actor_issuers",
	}, f.Name)
})

// brings is what a request must bring.
func brings(p *decision.Policy) []string {
	all := []string{}
	if p.Subject != nil {
		all = append(all, "subject_token")
	}
	if p.Acts == decision.ActorToken {
		all = append(all, "actor_token")
	}
	return all
}

// unlessRefused is nil for what says that a role cannot be used: what remains is that
// this could not be told.
func unlessRefused(err error) error {
	if f := (*fault.Error)(nil); errors.As(err, &f) && f.Code != fault.TemporarilyUnavailable {
		return nil
	}
	return err
}
