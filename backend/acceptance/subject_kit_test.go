package acceptance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// signer is a token issuer that is nothing but a key.
type signer struct {
	issuer string
	key    *ecdsa.PrivateKey
}

const vaultAudience = "https://vault.example.com"

func newSigner(t *testing.T, issuer string) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &signer{issuer: issuer, key: key}
}

// keyID names the key, which many servers want of a JWS.
func (s *signer) keyID() string { return "key-of-" + s.issuer }

// pem is the public key.
func (s *signer) pem(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// token is a JWT of the shape that CI systems issue; claims add to and replace
// the usual ones.
func (s *signer) token(t *testing.T, claims harness.Fields) string {
	t.Helper()
	id, err := uuid.GenerateUUID()
	require.NoError(t, err)
	now := time.Now()
	token := jwt.New()
	for name, value := range with(harness.Fields{
		"iss": s.issuer, "aud": vaultAudience, "sub": "repo:org/payments:ref:refs/heads/main", "jti": id,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		"repository": "org/payments", "repository_owner": "org",
	}, claims) {
		require.NoError(t, token.Set(name, value))
	}
	headers := jws.NewHeaders()
	require.NoError(t, headers.Set(jws.KeyIDKey, s.keyID()))
	signed, err := jwt.Sign(token, jwt.WithKey(jwa.ES256, s.key, jws.WithProtectedHeaders(headers)))
	require.NoError(t, err)
	return confidential("subject token", string(signed))
}

// trust writes the signer as an issuer of the mount.
func (s *signer) trust(t *testing.T, m *harness.Mount, name string) {
	t.Helper()
	m.Write(t, "issuers/"+name, harness.Fields{
		"jwks_pem": s.pem(t), "bound_issuer": s.issuer, "bound_audiences": vaultAudience,
	})
}
