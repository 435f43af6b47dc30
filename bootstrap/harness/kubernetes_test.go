package harness

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"
)

const kubernetesAudience = "https://kubernetes.example"

// tokenLife is of tokens that do not die of age while the test lasts.
const tokenLife = 30 * time.Minute

func TestKubernetes(t *testing.T) {
	slow(t)
	issuer := newTestIssuer(t)
	k := StartKubernetes(t, KubernetesOptions{OIDC: KubernetesOIDC{
		Issuer:         issuer.URL,
		ClientID:       kubernetesAudience,
		CA:             issuer.ca,
		UsernameClaim:  "sub",
		UsernamePrefix: "agent:",
		SigningAlgs:    []string{"ES256"},
	}})
	ready := time.Now()
	token := func(subject, audience string, life time.Duration) string {
		return issuer.token(t, subject, audience, time.Now().Add(life))
	}
	Eventually(t, Patience, "the API server knows the issuer", func() error {
		if _, accepted := k.User(t, token("builder", kubernetesAudience, tokenLife)); !accepted {
			return errors.New("its token is refused")
		}
		return nil
	})
	t.Logf("the first token is accepted %s after the API server is ready", time.Since(ready))

	t.Run("the administrator", func(t *testing.T) {
		user, accepted := k.User(t, k.Admin)
		require.True(t, accepted)
		require.Contains(t, user.Groups, "system:masters")
		status, version := k.Do(t, k.Admin, http.MethodGet, "/version", nil)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "v1.36.3", version["gitVersion"])
	})

	t.Run("a token is its subject's, who may what is allowed", func(t *testing.T) {
		bearer := token("reader", kubernetesAudience, tokenLife)
		user, accepted := k.User(t, bearer)
		require.True(t, accepted)
		require.Equal(t, "agent:reader", user.Username)

		status, _ := k.Do(t, bearer, http.MethodGet, "/api/v1/namespaces", nil)
		require.Equal(t, http.StatusForbidden, status)
		k.Allow(t, user.Username, "namespaces", "list")
		Eventually(t, Patience, "the permission has arrived", func() error {
			if status, _ = k.Do(t, bearer, http.MethodGet, "/api/v1/namespaces", nil); status != http.StatusOK {
				return errors.New("still refused")
			}
			return nil
		})
		status, _ = k.Do(t, bearer, http.MethodGet, "/api/v1/secrets", nil)
		require.Equal(t, http.StatusForbidden, status, "it was not allowed")
	})

	t.Run("what is refused", func(t *testing.T) {
		stranger := newTestIssuer(t)
		stranger.URL = issuer.URL
		for reason, bearer := range map[string]string{
			"expected audience":          token("reader", "https://other.example", tokenLife),
			"token is expired":           token("reader", kubernetesAudience, -time.Second),
			"failed to verify signature": stranger.token(t, "reader", kubernetesAudience, time.Now().Add(tokenLife)),
		} {
			before := k.refusals(t, reason)
			_, accepted := k.User(t, bearer)
			require.False(t, accepted, reason)
			require.Equal(t, before+1, k.refusals(t, reason), reason)
		}
		_, accepted := k.User(t, "no JWT")
		require.False(t, accepted)
	})

	t.Run("a token dies of age", func(t *testing.T) {
		const life = 5 * time.Second
		ends := time.Now().Add(life)
		bearer := token("reader", kubernetesAudience, life)
		if _, accepted := k.User(t, bearer); !accepted {
			require.True(t, time.Now().After(ends.Add(-time.Second)), "it is refused before its time")
		}
		Eventually(t, Patience, "the token is refused", func() error {
			if _, accepted := k.User(t, bearer); accepted {
				return errors.New("still accepted")
			}
			return nil
		})
	})
}

// refusals counts the tokens that were refused for a reason.
func (k *Kubernetes) refusals(t *testing.T, reason string) int {
	t.Helper()
	log, err := os.ReadFile(k.LogFile())
	require.NoError(t, err)
	return bytes.Count(log, []byte(reason))
}

// testIssuer is an OpenID Connect issuer with as much as an API server asks for.
type testIssuer struct {
	URL string
	ca  []byte
	key jwk.Key
}

func newTestIssuer(t *testing.T) *testIssuer {
	t.Helper()
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key, err := jwk.FromRaw(raw)
	require.NoError(t, err)
	require.NoError(t, key.Set(jwk.KeyIDKey, "the-key"))
	public, err := key.PublicKey()
	require.NoError(t, err)

	issuer := &testIssuer{key: key}
	mux := http.NewServeMux()
	answer := func(path string, content func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(content())
		})
	}
	answer("/.well-known/openid-configuration", func() any {
		return Fields{"issuer": issuer.URL, "jwks_uri": issuer.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}}
	})
	answer("/keys", func() any { return Fields{"keys": []any{public}} })
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	issuer.URL = server.URL
	issuer.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return issuer
}

func (i *testIssuer) token(t *testing.T, subject, audience string, expires time.Time) string {
	t.Helper()
	claims, err := jwt.NewBuilder().Issuer(i.URL).Subject(subject).Audience([]string{audience}).
		IssuedAt(time.Now()).Expiration(expires).Build()
	require.NoError(t, err)
	signed, err := jwt.Sign(claims, jwt.WithKey(jwa.ES256, i.key))
	require.NoError(t, err)
	return string(signed)
}
