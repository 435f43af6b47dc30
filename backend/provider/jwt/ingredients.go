package jwt

import (
	"context"
	"encoding/json"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Ingredients implements provider.Composer: the claims, templates filled, as today's
// issuer.
func (p *Provider) Ingredients(ctx context.Context, r provider.Request) (string, error) {
	issuer, longest, err := p.signer.Issuer(ctx)
	if err != nil {
		return "", err
	}
	c, err := p.claims(r, issuer, longest)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"jti", "iat", "exp"} {
		delete(c.values, name)
	}
	raw, err := json.Marshal([]any{issuer, c.values})
	if err != nil {
		return "", fault.New(fault.InvalidRequest, "no such token can be signed").Because(err)
	}
	return string(raw), nil
}
