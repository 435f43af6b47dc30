package oauth2

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // see names
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"time"

	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
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
	return c.key.Sign(c.key.names("JWT"), claims)
}

// clientKey signs client assertions and DPoP proofs.
type clientKey struct {
	*kit.SigningKey
	// certificate is the key's, by whose thumbprints a server finds it; nil for none.
	certificate *x509.Certificate
}

// names are the header's members by which a server finds the key: its kid, or the
// thumbprints of its certificate (RFC 7515 4.1.7 and 4.1.8). Beside these there is no kid
// but one that the key has brought: a server that looks for it first would find nothing.
func (k *clientKey) names(typ string) map[string]any {
	names := map[string]any{jws.TypeKey: typ, jws.KeyIDKey: k.ID}
	if k.certificate == nil {
		return names
	}
	if !k.Registered {
		delete(names, jws.KeyIDKey)
	}
	sum, sum256 := sha1.Sum(k.certificate.Raw), sha256.Sum256(k.certificate.Raw) //nolint:gosec // RFC 7515 4.1.7 wants SHA-1: a name, no proof
	names[jws.X509CertThumbprintKey] = base64.RawURLEncoding.EncodeToString(sum[:])
	names[jws.X509CertThumbprintS256Key] = base64.RawURLEncoding.EncodeToString(sum256[:])
	return names
}
