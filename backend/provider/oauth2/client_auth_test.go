package oauth2

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
)

// accept makes the server take exactly these secrets from now on.
func (f *fixture) accept(secrets ...string) {
	client := registered()
	client.Secrets = secrets
	f.server.SetClient(client)
}

func (f *fixture) requests(e providertest.Endpoint) int { return f.server.Counts().Requests[e] }

func TestSecretsCanBeChangedAtTheServerWithoutDowntime(t *testing.T) {
	for _, method := range []string{authBasic, authPost} {
		t.Run(method, func(t *testing.T) {
			f := newFixture(t, providertest.Options{}, with{"client_secret_next": nextSecret, "auth_method": method, "verify": "introspect", "confirm_revocation": true})
			// The old one works: one request each.
			before := f.mustMint(scopes("read"))
			require.Equal(t, 1, f.requests(providertest.EndpointToken))

			// The server has switched: the next one is tried, and from then on it goes first.
			f.accept(nextSecret)
			f.mustMint(scopes("read"))
			require.Equal(t, 3, f.requests(providertest.EndpointToken))
			f.mustMint(scopes("read"))
			require.Equal(t, 4, f.requests(providertest.EndpointToken))
			require.NoError(t, f.Revoke(context.Background(), before.Handle))
			require.Equal(t, 1, f.requests(providertest.EndpointRevoke))

			// And back again.
			f.accept(testSecret)
			f.mustMint(scopes("read"))
			require.Equal(t, 6, f.requests(providertest.EndpointToken))
			f.mustMint(scopes("read"))
			require.Equal(t, 7, f.requests(providertest.EndpointToken))
		})
	}
}

func TestRevocationAndIntrospectionTryTheNextSecretToo(t *testing.T) {
	f := newFixture(t, providertest.Options{}, with{"client_secret_next": nextSecret})
	child := f.mustMint(scopes("read"))
	f.accept(nextSecret)
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.Equal(t, 2, f.requests(providertest.EndpointRevoke))
	require.Empty(t, f.server.Live())

	f = newFixture(t, providertest.Options{}, with{"client_secret_next": nextSecret, "verify": "introspect"})
	f.accept(testSecret, nextSecret)
	f.server.Break(providertest.EndpointIntrospect, providertest.Once(providertest.Answer(401, "text/plain", "")))
	f.mustMint(scopes("read"))
	require.Equal(t, 2, f.requests(providertest.EndpointIntrospect))
}

func TestBothSecretsRefused(t *testing.T) {
	f := newFixture(t, providertest.Options{}, with{"client_secret_next": nextSecret})
	f.accept("a third one")
	child, err := f.mint(scopes("read"))
	requireCode(t, err, fault.TemporarilyUnavailable, "parent credential", "invalid_client")
	require.Nil(t, child)
	require.Equal(t, 2, f.requests(providertest.EndpointToken))
}

func TestOnlyARefusedClientIsTriedAgain(t *testing.T) {
	for name, answer := range map[string]providertest.Fault{
		"invalid_scope":                  providertest.Answer(400, "application/json", `{"error":"invalid_scope"}`),
		"invalid_grant with 401":         providertest.Answer(401, "application/json", `{"error":"invalid_grant"}`),
		"invalid_client with 500":        providertest.Answer(500, "application/json", `{"error":"invalid_client"}`),
		"403":                            providertest.Answer(403, "text/html", ""),
		"200 with invalid_client":        providertest.Answer(200, "application/json", `{"error":"invalid_client"}`),
		"hang up":                        providertest.Hangup(),
		"slow":                           providertest.Slow(time.Minute),
		"invalid_client and a token too": providertest.Answer(401, "application/json", `{"error":"invalid_client","access_token":"seen"}`),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, providertest.Options{}, with{"client_secret_next": nextSecret})
			f.beImpatient(name)
			f.server.Break(providertest.EndpointToken, answer)
			_, err := f.mint(scopes("read"))
			require.Error(t, err)
			require.Equal(t, 1, f.requests(providertest.EndpointToken))
		})
	}
}

func TestAPublicClient(t *testing.T) {
	server := providertest.NewAuthServer(t, providertest.Options{RotateRefresh: true}, providertest.Client{ID: testClient, Scopes: []string{"read"}})
	f := newFixtureOn(t, server, with{"auth_method": "none", "grant": "refresh_token", "client_secret": "", "revocation": "token"})
	child := f.mustMint(scopes("read"))
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.False(t, server.Active(child.Token.Reveal()))
	for _, e := range []providertest.Endpoint{providertest.EndpointToken, providertest.EndpointRevoke} {
		r := server.LastRequest(e)
		require.Empty(t, r.Header.Get("Authorization"))
		require.Equal(t, testClient, r.Form().Get("client_id"))
		require.False(t, r.Form().Has("client_secret"))
	}
}
