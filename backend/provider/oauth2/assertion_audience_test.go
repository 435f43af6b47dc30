package oauth2

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// wants refuses each assertion for another audience.
func wants(t *testing.T, audience string) authserver.Fault {
	return authserver.If(func(form url.Values) bool {
		token, err := jwt.ParseSigned(form.Get("client_assertion"), authserver.AssertionAlgorithms)
		require.NoError(t, err)
		var claims jwt.Claims
		require.NoError(t, token.UnsafeClaimsWithoutVerification(&claims))
		return !claims.Audience.Contains(audience)
	}, authserver.Answer(401, "application/json", `{"error":"invalid_client"}`))
}

// A server may want another audience at each endpoint (RFC 7523 3): a child that could
// be minted can be killed.
func TestAKillAuthenticatesAsWellAsTheMint(t *testing.T) {
	for name, at := range map[string]func(f *fixture, e authserver.Endpoint) string{
		"the issuer":         func(f *fixture, _ authserver.Endpoint) string { return f.server.URL },
		"its own URL":        func(f *fixture, e authserver.Endpoint) string { return f.server.Endpoint(e) },
		"the token endpoint": func(f *fixture, _ authserver.Endpoint) string { return f.server.Endpoint(authserver.EndpointToken) },
	} {
		for _, written := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				server := authserver.New(t, authserver.Options{AnyAudience: true}, registered())
				fields := with{"auth_method": authPrivateKeyJWT, "client_secret": "", "verify": "introspect"}
				if written {
					fields["assertion_audience"] = server.Endpoint(authserver.EndpointToken)
				}
				f := newFixtureOn(t, server, fields)
				f.register(f.jwks())
				for _, e := range []authserver.Endpoint{authserver.EndpointRevoke, authserver.EndpointIntrospect} {
					f.server.Break(e, wants(t, at(f, e)))
				}
				child := f.mustMint(scopes("read"))
				require.NoError(t, f.Revoke(context.Background(), child.Handle))
				require.Empty(t, f.server.Live())

				asked := f.requests(authserver.EndpointRevoke)
				require.NoError(t, f.Revoke(context.Background(), f.mustMint(scopes("read")).Handle))
				require.Equal(t, asked+1, f.requests(authserver.EndpointRevoke), "what has worked goes first")
			})
		}
	}
}

// A provider of a build that pinned the assertion_audience alone can be written without
// its key, and makes no assertion out to what is not pinned.
func TestAnIssuerThatIsNotPinnedIsNoAudience(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	token := server.Endpoint(authserver.EndpointToken)
	f := newFixtureOn(t, server, with{"auth_method": authPrivateKeyJWT, "client_secret": "", "assertion_audience": token})
	issuer := assertionFor + server.URL
	require.Contains(t, f.pinned.Destinations, issuer)
	require.Contains(t, f.audiencesAt(f.at.Revocation), server.URL)

	before := f.pinned
	before.Destinations = slices.DeleteFunc(slices.Clone(before.Destinations), func(d string) bool { return d == issuer })
	fields, err := json.Marshal(with{"issuer": server.URL, "client_id": testClient, "auth_method": authPrivateKeyJWT, "assertion_audience": token})
	require.NoError(t, err)
	change := provider.Change{
		Config: provider.Config{Fields: fields, Pinned: before}, Parent: f.store.Parent(),
		Written: map[string]bool{}, Client: f.deps.Client,
	}
	kept, err := Type{}.Configure(context.Background(), change)
	require.NoError(t, err)
	require.Equal(t, before.Destinations, kept.Destinations)
	f.pinned = *kept
	require.NotContains(t, f.audiencesAt(f.at.Revocation), server.URL)

	change.Written["private_key"] = true
	brought, err := Type{}.Configure(context.Background(), change)
	require.NoError(t, err)
	require.Contains(t, brought.Destinations, issuer)
}

// A client that is refused whatever the audience is refused, after a few tries.
func TestAKillThatIsRefusedForEveryAudience(t *testing.T) {
	f := keyed(t, authserver.Options{}, with{})
	child := f.mustMint(scopes("read"))
	f.server.Break(authserver.EndpointRevoke, wants(t, "https://elsewhere.test"))
	requireCode(t, f.Revoke(context.Background(), child.Handle), fault.TemporarilyUnavailable, "parent credential")
	require.Equal(t, 3, f.requests(authserver.EndpointRevoke))
	f.server.Break(authserver.EndpointRevoke, nil)
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
}
