package backend

import (
	"context"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
)

// signers begins the names of the providers whose tokens the broker had signed when
// records did not say by which key yet.
const signers = "jwt/"

// withdrawn reports whether the broker has signed the grant's token and takes it for its
// own no more: an emergency took its key back, or the issuer is called otherwise now.
func (b *broker) withdrawn(ctx context.Context, g *grant.Grant) (bool, error) {
	if g.KeyID == "" && !strings.HasPrefix(g.Provider, signers) {
		return false, nil
	}
	s, err := b.own.state(ctx)
	if err != nil {
		return false, err
	}
	if g.KeyID != "" {
		return g.Issuer != s.config.Issuer || !s.ring.Has(keyring.Child, g.KeyID), nil
	}
	// The record does not say which key signed. A key stays in the ring until all that it
	// signed has expired. So if the grant is older than the first signature of every key
	// that is there, its own key was taken back.
	oldest, ok := s.ring.Oldest(keyring.Child)
	return !ok || g.IssuedAt.Before(oldest.ActiveFrom), nil
}

// notWithdrawn refuses to prolong what nobody takes any more.
func (b *broker) notWithdrawn(ctx context.Context, g *grant.Grant) error {
	withdrawn, err := b.withdrawn(ctx, g)
	if err == nil && withdrawn {
		err = fault.New(fault.AccessDenied, "the token of this lease was withdrawn by a change of the broker's issuer or an emergency rotation of its keys: read creds again")
	}
	return err
}

// stillSigned refuses to hand out a token that was withdrawn while it was made.
func (b *broker) stillSigned(ctx context.Context, g *grant.Grant) error {
	withdrawn, err := b.withdrawn(ctx, g)
	if err == nil && withdrawn {
		err = fault.New(fault.TemporarilyUnavailable, "the broker's issuer or its keys were changed meanwhile: try again")
	}
	return err
}
