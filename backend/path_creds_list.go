package backend

import (
	"context"
	"errors"
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
	a := ask{entityID: req.EntityID, remoteAddr: remoteAddr(req), vouched: true}
	keys, info := []string{}, map[string]any{}
	resp := &logical.Response{}
	for i, name := range names {
		if len(keys) == limit || i == maxLooked {
			tellMore(resp, req, names[i-1])
			break
		}
		usable, err := b.usable(ctx, a, name)
		switch {
		case err != nil:
			return nil, err
		case usable != nil:
			keys, info[name] = append(keys, name), usable
		}
	}
	list := logical.ListResponseWithInfo(keys, info)
	list.Warnings = resp.Warnings
	return list, nil
}

// usable is what a caller needs to know of a role that it may use; nil for any other, and
// for one that nobody can use as it is.
func (b *broker) usable(ctx context.Context, a ask, name string) (map[string]any, error) {
	compiled, err := b.roles.compiled(ctx, name)
	if err != nil {
		return nil, unlessRefused(err)
	}
	p, err := b.providers.MustOpen(ctx, compiled.Provider)
	if err != nil {
		return nil, unlessRefused(err)
	}
	caller, err := b.caller(a, needed(a, compiled, p))
	if err != nil {
		return nil, unlessRefused(err)
	}
	frozen, err := b.freezer.Check(ctx, ending.Basis{Holder: holderOf(caller.EntityID), Role: compiled.name, Provider: p.Ref})
	if err != nil {
		return nil, err
	}
	if len(stopped(p, compiled)) > 0 || len(frozen) > 0 || len(compiled.policy.CheckCaller(decision.Situation{Now: b.now(), Caller: caller})) > 0 {
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
