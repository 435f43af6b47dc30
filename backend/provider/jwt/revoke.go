package jwt

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// handle says that the record alone is what kills the child: oauth/introspect
// answers by it. It is only in grants of class token.
const handle = `{"v":1}`

// Revoke implements provider.Revoker. Nobody needs to be told: the caller takes the
// grant off the record, and with that the token is inactive wherever it is asked
// for. It needs no setting of today's, so a change of revocation spares nobody.
func (p *Provider) Revoke(_ context.Context, text secret.Text) error {
	var h struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal([]byte(text.Reveal()), &h); err != nil || h.Version != 1 {
		return fault.New(fault.InvalidRequest, "the child's handle is not one that this version of the broker wrote")
	}
	return nil
}

// Check implements provider.Checker: an issuer is configured, what it signs verifies, and
// it does so by the keys that stand at the issuer's own URL, where services look for them.
// The tokens for that are never shown, name nobody, are for nobody and die at once.
func (p *Provider) Check(ctx context.Context) (provider.Health, error) {
	issuer, longest, err := p.signer.Issuer(ctx)
	if err != nil {
		return provider.Health{}, err
	}
	now := p.now()
	token, err := p.signer.Sign(ctx, provider.PurposeChild, map[string]any{
		"sub": "check", "aud": []string{"check"}, "client_id": "check", "jti": "check",
		"iat": now.Unix(), "exp": now.Add(time.Second).Unix(),
	})
	if err != nil {
		return provider.Health{}, err
	}
	verifier, ok := p.signer.(provider.Verifier)
	if !ok {
		return provider.Health{}, fault.New(fault.TemporarilyUnavailable, "nothing can verify what the broker signs: write config issuer=")
	}
	if _, err := verifier.Verify(ctx, token); err != nil {
		return provider.Health{}, fault.New(fault.TemporarilyUnavailable, "what the broker signs does not verify: rotate its keys (issuer/rotate)").Because(err)
	}
	actor, err := p.signer.Sign(ctx, provider.PurposeActor, map[string]any{"sub": "check", "aud": "check", "iat": now.Unix(), "exp": now.Add(time.Second).Unix()})
	if err != nil {
		return provider.Health{}, err
	}
	if err := p.announced(ctx, issuer, []secret.Text{token, actor}); err != nil {
		return provider.Health{}, err
	}
	return provider.Health{Detail: "a token signed as " + issuer + " verifies by the keys that are published there; tokens live for at most " + longest.String()}, nil
}
