package harness

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"
)

// post returns the answer whatever its status, its body empty or JSON.
func post(t *testing.T, client *http.Client, endpoint string, header http.Header, form url.Values) (int, http.Header, map[string]any) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	for name, values := range header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	require.NoError(t, err)
	answer := map[string]any{}
	if len(body) > 0 {
		require.NoError(t, json.Unmarshal(body, &answer), "%s", body)
	}
	return response.StatusCode, response.Header, answer
}

// authenticated is a form that carries the client's secret (client_secret_post, which
// the server takes of a client_secret_basic client too).
func authenticated(client Credentials, pairs ...string) url.Values {
	form := url.Values{"client_id": {client.ID}, "client_secret": {client.Secret}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return form
}

// verified checks a JWT access token with the keys that the server publishes.
func verified(t *testing.T, op *OIDCProvider, token string) jwt.Token {
	t.Helper()
	keys, err := jwk.Fetch(context.Background(), op.URL+"/jwks", jwk.WithHTTPClient(op.client))
	require.NoError(t, err)
	claims, err := jwt.Parse([]byte(token), jwt.WithKeySet(keys))
	require.NoError(t, err)
	message, err := jws.Parse([]byte(token))
	require.NoError(t, err)
	require.Equal(t, "at+jwt", message.Signatures()[0].ProtectedHeaders().Type())
	return claims
}

func newKey(t *testing.T) (private, public jwk.Key) {
	t.Helper()
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	private, err = jwk.FromRaw(raw)
	require.NoError(t, err)
	public, err = private.PublicKey()
	require.NoError(t, err)
	return private, public
}

func keyThumbprint(t *testing.T, key jwk.Key) string {
	t.Helper()
	sum, err := key.Thumbprint(crypto.SHA256)
	require.NoError(t, err)
	return base64.RawURLEncoding.EncodeToString(sum)
}

// dpopProof is RFC 9449 4.2's.
func dpopProof(t *testing.T, private, public jwk.Key, endpoint, challenge string) string {
	t.Helper()
	builder := jwt.NewBuilder().JwtID(rand.Text()).IssuedAt(time.Now()).Claim("htm", http.MethodPost).Claim("htu", endpoint)
	if challenge != "" {
		builder = builder.Claim("nonce", challenge)
	}
	token, err := builder.Build()
	require.NoError(t, err)
	headers := jws.NewHeaders()
	require.NoError(t, headers.Set(jws.TypeKey, "dpop+jwt"))
	require.NoError(t, headers.Set(jws.JWKKey, public))
	signed, err := jwt.Sign(token, jwt.WithKey(jwa.ES256, private, jws.WithProtectedHeaders(headers)))
	require.NoError(t, err)
	return string(signed)
}

func requireJSON(t *testing.T, want string, got any) {
	t.Helper()
	content, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, want, string(content))
}
