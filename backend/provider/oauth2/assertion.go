package oauth2

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"time"

	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// assertionType is the client_assertion_type of RFC 7523 2.2.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertionLife bounds what a copy of an assertion is good for. Each request has
// one of its own: servers take a jti once (RFC 7523 3).
const assertionLife = time.Minute

// assertion makes the JWT of RFC 7523 3 that authenticates the client once.
func (p *Provider) assertion(ctx context.Context, c credential) (secret.Text, error) {
	now := p.deps.Now()
	claims := map[string]any{
		"sub": p.settings.ClientID,
		"aud": cmp.Or(c.audience, p.settings.assertionAudience()),
		"jti": rand.Text(),
		"iat": now.Unix(),
		"exp": now.Add(assertionLife).Unix(),
	}
	if p.settings.AssertionSigner == signerBroker {
		if p.settings.AssertionSubject != "" {
			claims["sub"] = p.settings.AssertionSubject
		}
		return p.deps.Signer.Sign(ctx, provider.PurposeAssertion, claims)
	}
	claims["iss"] = p.settings.ClientID
	return c.key.sign("JWT", claims)
}

// sign makes a compact JWS of the claims.
func (k *clientKey) sign(typ string, claims map[string]any) (secret.Text, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return secret.Text{}, err
	}
	headers := jws.NewHeaders()
	for name, value := range map[string]string{jws.TypeKey: typ, jws.KeyIDKey: k.id} {
		if err := headers.Set(name, value); err != nil {
			return secret.Text{}, err
		}
	}
	signed, err := jws.Sign(payload, jws.WithKey(k.alg, k.private, jws.WithProtectedHeaders(headers)))
	return secret.New(string(signed)), err
}
