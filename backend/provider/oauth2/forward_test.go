package oauth2

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// forwarding is a request to hand on janesAccess, which the server knows as issued.
func (f *fixture) forwarding(issued providertest.Token, claims map[string]any) provider.Request {
	issued.Value, issued.Subject = janesAccess, "jane"
	f.server.AddToken(issued)
	all := map[string]any{"sub": "jane", "client_id": issued.Client}
	maps.Copy(all, claims)
	return provider.Request{
		Access: access.Access{Scopes: access.Exactly("read"), Audiences: access.Exactly("https://api.test/")},
		Subject: &provider.Party{
			Issuer: f.server.URL, ID: "jane", Token: secret.New(janesAccess), Claims: all, ExpiresAt: issued.Expires,
		},
	}
}

func issuedTo(client string) providertest.Token {
	return providertest.Token{
		Client: client, Scopes: []string{"read"}, Audience: []string{"https://api.test/"},
		Expires: time.Now().Add(time.Hour).Truncate(time.Second),
	}
}

func TestForward(t *testing.T) {
	for _, verify := range []string{verifyResponse, verifyIntrospect} {
		for name, test := range map[string]struct {
			fields    with
			client    string
			claims    map[string]any
			revocable bool
		}{
			"our own client's":   {with{}, testClient, nil, true},
			"by azp":             {with{}, testClient, map[string]any{"client_id": "", "azp": testClient}, true},
			"another client's":   {with{}, "spa", nil, false},
			"nobody says whose":  {with{}, testClient, map[string]any{"client_id": ""}, false},
			"client_id counts":   {with{}, "spa", map[string]any{"azp": testClient}, false},
			"nothing is revoked": {with{"revocation": "expiry"}, testClient, nil, false},
			"death is confirmed": {with{"confirm_revocation": true}, testClient, nil, true},
		} {
			t.Run(verify+" "+name, func(t *testing.T) {
				fields := with{"verify": verify}
				maps.Copy(fields, test.fields)
				f := newFixture(t, providertest.Options{}, fields)
				r := f.forwarding(issuedTo(test.client), test.claims)
				child, err := f.Forward(context.Background(), r)
				require.NoError(t, err)
				require.Equal(t, janesAccess, child.Token.Reveal())
				require.Equal(t, "Bearer", child.TokenType)
				require.True(t, child.SelfContained)
				require.True(t, child.Granted.Equal(r.Access), "%v", child.Granted.Flat())
				require.True(t, child.Confirmed[access.DimScopes] && child.Confirmed[access.DimAudiences])
				require.True(t, child.ExpiresAt.Equal(r.Subject.ExpiresAt))
				require.Equal(t, test.revocable, !child.Handle.Empty())
				require.Zero(t, f.server.Counts().Requests[providertest.EndpointToken])
				if test.revocable {
					require.NoError(t, f.Revoke(context.Background(), child.Handle))
					require.False(t, f.server.Active(janesAccess))
				}
			})
		}
	}
}

func TestForwardBelievesIntrospection(t *testing.T) {
	f := newFixture(t, providertest.Options{}, with{"verify": "introspect"})
	wider := issuedTo(testClient)
	wider.Scopes = []string{"read", "admin"}
	r := f.forwarding(wider, nil)
	r.Subject.ExpiresAt = wider.Expires.Add(time.Hour)
	child, err := f.Forward(context.Background(), r)
	require.NoError(t, err)
	require.True(t, child.Granted.Scopes.Contains("admin"), "for the caller to refuse")
	require.True(t, child.ExpiresAt.Equal(wider.Expires))

	f.server.Kill(janesAccess)
	_, err = f.Forward(context.Background(), r)
	requireCode(t, err, fault.InvalidGrant, "inactive")

	f.server.Break(providertest.EndpointIntrospect, providertest.Answer(200, "application/json",
		`{"active":true,"scope":"read","authorization_details":[{"type":"payment"}]}`))
	child, err = f.Forward(context.Background(), r)
	require.NoError(t, err)
	require.False(t, child.Granted.Details.IsNothing(), "for the caller to refuse")
	require.True(t, child.Confirmed[access.DimDetails])

	for _, body := range []string{`{"active":true,"sub":"joe"}`, `{"active":true,"exp":1}`, `{"active":true,"aud":["\u0000"]}`, `{"active":true,"authorization_details":"all"}`} {
		f.server.Break(providertest.EndpointIntrospect, providertest.Answer(200, "application/json", body))
		_, err = f.Forward(context.Background(), r)
		requireCode(t, err, fault.ProviderViolation)
	}
	f.server.Break(providertest.EndpointIntrospect, providertest.HTML())
	_, err = f.Forward(context.Background(), r)
	requireCode(t, err, fault.ProviderViolation)
	require.NotContains(t, err.Error(), janesAccess)
	require.Zero(t, f.server.Counts().Revoked, "it stays the caller's affair")
}

func TestOnlyAccessTokensAreForwarded(t *testing.T) {
	f := newFixture(t, providertest.Options{}, with{})
	for _, claims := range []map[string]any{{"at_hash": "x"}, {"c_hash": "x"}, {"typ": "ID"}, {"token_use": "refresh"}} {
		_, err := f.Forward(context.Background(), f.forwarding(issuedTo(testClient), claims))
		requireCode(t, err, fault.InvalidGrant, "access token")
	}
	_, err := f.Forward(context.Background(), provider.Request{})
	requireCode(t, err, fault.InvalidRequest, "subject_token")
}
