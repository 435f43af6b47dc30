package authserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

var client = authserver.Client{ID: "a client", Secrets: []string{"p/w+d"}, Scopes: []string{"read", "write"}}

// A client that nobody here wrote understands the server, in both ways to
// authenticate, also over TLS.
func TestAnIndependentClientIsServed(t *testing.T) {
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams} {
		s := authserver.New(t, authserver.Options{TLS: true}, client)
		roots := x509.NewCertPool()
		require.True(t, roots.AppendCertsFromPEM([]byte(s.CAPEM)))
		ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		})
		config := clientcredentials.Config{
			ClientID: client.ID, ClientSecret: client.Secrets[0], Scopes: []string{"read"},
			TokenURL: s.Endpoint(authserver.EndpointToken), AuthStyle: style,
		}
		token, err := config.Token(ctx)
		require.NoError(t, err)
		require.True(t, s.Active(token.AccessToken))

		config.ClientSecret = "wrong"
		_, err = config.Token(ctx)
		var refused *oauth2.RetrieveError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "invalid_client", refused.ErrorCode)
		require.Equal(t, 1, s.Counts().Minted)
	}
}

func TestAReusedRefreshTokenKillsItsFamily(t *testing.T) {
	s := authserver.New(t, authserver.Options{RotateRefresh: true}, client)
	config := oauth2.Config{
		ClientID: client.ID, ClientSecret: client.Secrets[0],
		Endpoint: oauth2.Endpoint{TokenURL: s.Endpoint(authserver.EndpointToken), AuthStyle: oauth2.AuthStyleInHeader},
	}
	first := s.IssueRefreshToken(client.ID)
	use := func(refreshToken string) (*oauth2.Token, error) {
		return config.TokenSource(context.Background(), &oauth2.Token{RefreshToken: refreshToken}).Token()
	}
	second, err := use(first)
	require.NoError(t, err)
	require.NotEqual(t, first, second.RefreshToken)
	require.True(t, s.Active(second.AccessToken))
	_, err = use(first)
	require.Error(t, err)
	require.False(t, s.Active(second.AccessToken))
	_, err = use(second.RefreshToken)
	require.Error(t, err)
}

func TestTheServersOwnKeysVerifyItsJWTs(t *testing.T) {
	s := authserver.New(t, authserver.Options{JWT: true}, client)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.Endpoint(authserver.EndpointJWKS), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	document, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	keys, err := jwks.Static(document)
	require.NoError(t, err)
	_, header, err := keys.Verify(context.Background(), s.SignClaims("at+jwt", map[string]any{"sub": "x"}), []jwa.SignatureAlgorithm{jwa.ES256})
	require.NoError(t, err)
	require.Equal(t, "at+jwt", header.Type)
}
