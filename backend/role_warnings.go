package backend

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// warned is a response of nothing but warnings; nil if there are none.
func warned(warnings ...string) *logical.Response { return withWarnings(nil, warnings) }

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

// terms are the fields of a role that bound who may use it, and what it may be.
var terms = []string{
	"bound_entity_ids", "bound_group_names", "bound_entity_metadata", "bound_cidrs", "bound_subject_claims", "condition",
	"required_acr", "required_amr", "max_auth_age", "subject_single_use", "require_entity", "require_revocable",
}

// unbound warns of terms that a write has unset: an empty value does, and may come from an
// empty file, or from a variable that nobody has set.
func unbound(before, after *role.Role) (warnings []string) {
	was, is := map[string]any{}, map[string]any{}
	roleFields.Show(before, was)
	roleFields.Show(after, is)
	for _, name := range terms {
		if isSet(was[name]) && !isSet(is[name]) {
			warnings = append(warnings, name+" is unset now: the role does not ask for it any more")
		}
	}
	return warnings
}

func isSet(value any) bool {
	v := reflect.ValueOf(value)
	switch v.Kind() {
	case reflect.Invalid:
		return false
	case reflect.Map, reflect.Slice:
		return v.Len() > 0
	default:
		return !v.IsZero()
	}
}
