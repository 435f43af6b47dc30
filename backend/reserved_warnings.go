package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
)

// reserveFor tells the decision what is reserved from the provider's children.
func (b *broker) reserveFor(ctx context.Context, ref string, s *decision.Situation) error {
	p, err := b.providers.MustOpen(ctx, ref)
	if err != nil {
		return err
	}
	s.Reserved, err = b.providers.ReservedFrom(ctx, p.Traits)
	return err
}

// maxNamedRoles bounds a warning.
const maxNamedRoles = 20

// warnOfReserved adds to resp, which may be nil, which roles cover an audience that has
// just been reserved by what: they were written before. It fails nothing, as what they
// were for is refused from now on whether it is told or not.
func (b *broker) warnOfReserved(ctx context.Context, resp *logical.Response, what string, added *downstream.Reserved) *logical.Response {
	covering, err := b.rolesCovering(ctx, added)
	if err != nil {
		b.Logger().Warn("the roles could not be held against what is reserved now", "by", what, "error", err)
	}
	if len(covering) == 0 {
		return resp
	}
	if resp == nil {
		resp = &logical.Response{}
	}
	told := covering
	if len(told) > maxNamedRoles {
		told = append(slices.Clone(told[:maxNamedRoles]), fmt.Sprintf("and %d more", len(covering)-maxNamedRoles))
	}
	resp.AddWarning(fmt.Sprintf("no token is issued any more for audiences at which the broker itself authenticates by %s: write these roles again without them: %s", what, strings.Join(told, ", ")))
	return resp
}

// rolesCovering are the roles whose ceilings cover something that is reserved, each
// with one such audience.
func (b *broker) rolesCovering(ctx context.Context, r *downstream.Reserved) ([]string, error) {
	names, err := b.storage.List(ctx, rolePrefix)
	if err != nil {
		return nil, storageFault(err)
	}
	var covering []string
	for _, name := range names {
		stored, err := b.readRole(ctx, name)
		if err != nil {
			return covering, err
		}
		if stored == nil {
			continue
		}
		p, err := b.providers.Open(ctx, stored.Provider)
		if err != nil || p == nil {
			continue // it issues nothing in any case
		}
		targets, err := r.Of(p.Traits)
		if err != nil {
			return covering, err
		}
		if target, found := stored.Covers(targets); found {
			covering = append(covering, fmt.Sprintf("%s (%s)", name, target))
		}
	}
	return covering, nil
}

// checkAudiences refuses a role that covers something reserved by any provider, not
// by its own alone: a token for another's server is no less a credential there.
func (b *broker) checkAudiences(ctx context.Context, r *role.Role, traits provider.Traits) error {
	all, err := b.providers.Reserved(ctx)
	if err != nil {
		return err
	}
	reserved, err := all.Of(traits)
	if err != nil {
		return err
	}
	return r.CheckAudiences(all.Endpoints(), reserved)
}
