package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
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
	covering, err := b.roles.covering(ctx, added)
	if err != nil {
		b.Logger().Warn("the roles could not be held against what is reserved now", "by", what, "error", err)
	}
	if len(covering) == 0 {
		return resp
	}
	if resp == nil {
		resp = &logical.Response{}
	}
	resp.AddWarning(fmt.Sprintf("no token is issued any more for audiences at which the broker itself authenticates by %s: write these roles again without them: %s", what, someOf(covering)))
	return resp
}
