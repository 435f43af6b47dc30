package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// warned is a response of nothing but warnings; nil if there are none.
func warned(warnings ...string) *logical.Response {
	if len(warnings) == 0 {
		return nil
	}
	resp := &logical.Response{}
	for _, w := range warnings {
		resp.AddWarning(w)
	}
	return resp
}

// warnOfRole says once, when a role is written, what would otherwise be found out with
// its first tokens, or said with each of them.
func (b *broker) warnOfRole(ctx context.Context, name string) *logical.Response {
	r, err := b.roles.compiled(ctx, name)
	if err != nil {
		return nil // somebody else has changed it already
	}
	warnings := r.Misread()
	for _, id := range r.BoundEntityIDs {
		if said := noEntityID(id); said != "" {
			warnings = append(warnings, "bound_entity_ids: "+said)
		}
	}
	switch r.traits.Class {
	case provider.ClassExpiry:
		warnings = append(warnings, "nothing can revoke the tokens of this role: each works until its expires_at, also after its lease has ended: keep ttl short. With require_revocable=true a role refuses such a provider")
	case provider.ClassLever:
		warnings = append(warnings, "more than the token may die when a lease of this role ends: such as the whole login that it came from, or others that were given the same one")
	}
	return warned(append(warnings, b.beyondReach(r)...)...)
}

// beyondReach tells which of the role's times are longer than any lease can be.
func (b *broker) beyondReach(r *compiledRole) (warnings []string) {
	for _, own := range []struct {
		field string
		wish  time.Duration
	}{{"ttl", r.TTL}, {"max_ttl", r.MaxTTL}} {
		for _, bound := range []struct {
			whose string
			most  time.Duration
		}{
			{"the provider allows (its max_ttl, or the longest life of its tokens)", r.policy.ProviderMaxTTL},
			{"the mount allows (vault secrets tune -max-lease-ttl)", b.System().MaxLeaseTTL()},
		} {
			if bound.most > 0 && own.wish > bound.most {
				warnings = append(warnings, fmt.Sprintf("%s is %s, longer than the %s that %s: no lease lives longer than that", own.field, stored.InWords(own.wish), stored.InWords(bound.most), bound.whose))
			}
		}
	}
	return warnings
}

// someOf names as many as anybody reads.
func someOf(names []string) string {
	told := names
	if len(told) > maxNamedRoles {
		told = append(slices.Clone(told[:maxNamedRoles]), fmt.Sprintf("and %d more", len(names)-maxNamedRoles))
	}
	return strings.Join(told, ", ")
}

// warnOfOrphans adds to resp, which may be nil, which roles are left without what was
// deleted. It fails nothing: they are refused whether it is told or not.
func (b *broker) warnOfOrphans(ctx context.Context, resp *logical.Response, what string, names func(*role.Role) bool) *logical.Response {
	roles, err := b.roles.that(ctx, names)
	if err != nil {
		b.Logger().Warn("which roles name what was deleted could not be told", "deleted", what, "error", err)
	}
	if len(roles) == 0 {
		return resp
	}
	if resp == nil {
		resp = &logical.Response{}
	}
	resp.AddWarning(fmt.Sprintf("these roles name %s, and get nothing by it until it is written again: write them without it, or delete them, if it is gone for good: %s", what, someOf(roles)))
	return resp
}

// that are the names of the roles of which something is true.
func (r *roles) that(ctx context.Context, is func(*role.Role) bool) (names []string, err error) {
	all, err := r.List(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		entry, err := r.Get(ctx, name)
		switch {
		case errors.Is(err, stored.ErrAbsent):
		case err != nil:
			return names, err
		case is(entry):
			names = append(names, name)
		}
	}
	return names, nil
}
