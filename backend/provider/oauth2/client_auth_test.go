package oauth2

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// accept makes the server take exactly these secrets from now on.
func (f *fixture) accept(secrets ...string) {
	client := registered()
	client.Secrets = secrets
	f.server.SetClient(client)
}

func (f *fixture) requests(e authserver.Endpoint) int { return f.server.Counts().Requests[e] }

func TestSecretsCanBeChangedAtTheServerWithoutDowntime(t *testing.T) {
	for _, method := range []string{authBasic, authPost} {
		t.Run(method, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret, "auth_method": method, "verify": "introspect", "confirm_revocation": true})
			// The old one works: one request each.
			before := f.mustMint(scopes("read"))
			require.Equal(t, 1, f.requests(authserver.EndpointToken))

			// The server has switched: the next one is tried, and from then on it goes first.
			f.accept(nextSecret)
			f.mustMint(scopes("read"))
			require.Equal(t, 3, f.requests(authserver.EndpointToken))
			f.mustMint(scopes("read"))
			require.Equal(t, 4, f.requests(authserver.EndpointToken))
			require.NoError(t, f.Revoke(context.Background(), before.Handle))
			require.Equal(t, 1, f.requests(authserver.EndpointRevoke))

			// And back again.
			f.accept(testSecret)
			f.mustMint(scopes("read"))
			require.Equal(t, 6, f.requests(authserver.EndpointToken))
			f.mustMint(scopes("read"))
			require.Equal(t, 7, f.requests(authserver.EndpointToken))
		})
	}
}

func TestRevocationAndIntrospectionTryTheNextSecretToo(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
	child := f.mustMint(scopes("read"))
	f.accept(nextSecret)
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.Equal(t, 2, f.requests(authserver.EndpointRevoke))
	require.Empty(t, f.server.Live())

	f = newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret, "verify": "introspect"})
	f.accept(testSecret, nextSecret)
	f.server.Break(authserver.EndpointIntrospect, authserver.Once(authserver.Answer(401, "text/plain", "")))
	f.mustMint(scopes("read"))
	require.Equal(t, 2, f.requests(authserver.EndpointIntrospect))
}

func TestBothSecretsRefused(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
	f.accept("a third one")
	child, err := f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "parent credential", "invalid_client")
	require.Nil(t, child)
	require.Equal(t, 2, f.requests(authserver.EndpointToken))
}

func TestOnlyARefusedClientIsTriedAgain(t *testing.T) {
	for name, answer := range map[string]authserver.Fault{
		"invalid_scope":                  authserver.Answer(400, "application/json", `{"error":"invalid_scope"}`),
		"invalid_grant with 401":         authserver.Answer(401, "application/json", `{"error":"invalid_grant"}`),
		"invalid_client with 500":        authserver.Answer(500, "application/json", `{"error":"invalid_client"}`),
		"403":                            authserver.Answer(403, "text/html", ""),
		"200 with invalid_client":        authserver.Answer(200, "application/json", `{"error":"invalid_client"}`),
		"hang up":                        authserver.Hangup(),
		"slow":                           authserver.Slow(time.Minute),
		"invalid_client and a token too": authserver.Answer(401, "application/json", `{"error":"invalid_client","access_token":"seen"}`),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
			f.beImpatient(name)
			f.server.Break(authserver.EndpointToken, answer)
			_, err := f.mint(scopes("read"))
			require.Error(t, err)
			require.Equal(t, 1, f.requests(authserver.EndpointToken))
		})
	}
}

func TestAPublicClient(t *testing.T) {
	server := authserver.New(t, authserver.Options{RotateRefresh: true}, authserver.Client{ID: testClient, Scopes: []string{"read"}})
	f := newFixtureOn(t, server, with{"auth_method": "none", "grant": "refresh_token", "client_secret": "", "revocation": "token"})
	child := f.mustMint(scopes("read"))
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.False(t, server.Active(child.Token().Reveal()))
	for _, e := range []authserver.Endpoint{authserver.EndpointToken, authserver.EndpointRevoke} {
		r := server.LastRequest(e)
		require.Empty(t, r.Header.Get("Authorization"))
		require.Equal(t, testClient, r.Form().Get("client_id"))
		require.False(t, r.Form().Has("client_secret"))
	}
}
