package acceptance

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// opUser is the user that logs in at the OpenID Provider.
const opUser = "id1"

// atOP is a mount whose provider oauth2/op is the client OPJWT of the OpenID
// Provider, and whose issuer op is that server.
func atOP(t *testing.T, op *harness.OP, provider harness.Fields) *scene {
	t.Helper()
	vault := sharedVault(t)
	return onMount(t, vault, vault.Enable(t, ""), op, provider)
}

// onMount is atOP on a mount that is there already.
func onMount(t *testing.T, vault *harness.Vault, m *harness.Mount, op *harness.OP, provider harness.Fields) *scene {
	t.Helper()
	s := &scene{Mount: m, vault: vault, client: harness.OPJWT}
	s.Write(t, "issuers/op", harness.Fields{"oidc_discovery_url": op.URL, "bound_audiences": []string{harness.OPJWT.ID}})
	s.Write(t, "providers/oauth2/op", with(harness.Fields{
		"issuer": op.URL, "client_id": harness.OPJWT.ID, "client_secret": harness.OPJWT.Secret,
		"audience_parameter": "audience", "verify": "jwt", "exchange": "token-exchange",
		// The OP says invalid_client, and not RFC 6749 5.2's unauthorized_client, of a client
		// that may have no tokens of its own.
		"verify_connection": false,
	}, provider))
	return s
}

// exchangeRole writes a role that exchanges at oauth2/op.
func (s *scene) exchangeRole(t *testing.T, name string, more harness.Fields) {
	t.Helper()
	s.Write(t, "roles/"+name, with(harness.Fields{
		"provider": "oauth2/op", "mode": "exchange", "subject_issuers": "op",
		"scopes": []string{"openid", "email", "profile"}, "audiences": []string{harness.OPAPI.ID}, "ttl": "2m",
	}, more))
}

// verifiedAt is what a service finds in a token that it verifies by the OP's
// published keys; the error is its refusal.
func verifiedAt(t *testing.T, op *harness.OP, token, audience string) (jwt.Token, error) {
	t.Helper()
	keys, err := jwk.Fetch(context.Background(), op.URL+"/keys")
	require.NoError(t, err)
	return jwt.Parse([]byte(token), jwt.WithKeySet(keys), jwt.WithIssuer(op.URL), jwt.WithAudience(audience))
}

// jwk is the public key.
func (s *signer) jwk(t *testing.T) map[string]any {
	t.Helper()
	key, err := jwk.FromRaw(&s.key.PublicKey)
	require.NoError(t, err)
	require.NoError(t, key.Set(jwk.KeyIDKey, s.keyID()))
	require.NoError(t, key.Set(jwk.AlgorithmKey, jwa.ES256))
	require.NoError(t, key.Set(jwk.KeyUsageKey, "sig"))
	raw, err := json.Marshal(key)
	require.NoError(t, err)
	var members map[string]any
	require.NoError(t, json.Unmarshal(raw, &members))
	return members
}

// publish serves the signer's JWKS, and returns where.
func (s *signer) publish(t *testing.T) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"keys": []any{s.jwk(t)}})
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// person is a token of the signer's about somebody, for the broker and for
// audience; claims add to and replace the usual ones.
func (s *signer) person(t *testing.T, who, audience string, claims harness.Fields) string {
	t.Helper()
	return s.token(t, with(harness.Fields{
		"sub": who, "aud": []string{vaultAudience, audience}, "azp": "tests",
		"repository": nil, "repository_owner": nil, "exp": time.Now().Add(5 * time.Minute).Unix(),
	}, claims))
}
