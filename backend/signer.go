package backend

import (
	"context"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// signer is the broker as an issuer, as the providers see it.
type signer struct{ b *broker }

var (
	_ provider.Signer   = signer{}
	_ provider.Verifier = signer{}
)

func (s signer) Issuer(ctx context.Context) (url string, longest time.Duration, err error) {
	return s.b.ownIssuer(ctx)
}

func (s signer) Sign(ctx context.Context, purpose provider.Purpose, claims map[string]any) (secret.Text, error) {
	compact, err := s.b.signToken(ctx, purpose, claims)
	return secret.New(compact), err
}

func (s signer) Verify(ctx context.Context, token secret.Text) (map[string]any, error) {
	return s.b.verifyOwn(ctx, token.Reveal())
}
