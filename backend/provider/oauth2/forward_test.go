package oauth2

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// forwarding is a request to hand on janesAccess, which the server knows as issued.
func (f *fixture) forwarding(issued authserver.Token, claims map[string]any) provider.Request {
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

func issuedTo(client string) authserver.Token {
	return authserver.Token{
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
				f := newFixture(t, authserver.Options{}, fields)
				r := f.forwarding(issuedTo(test.client), test.claims)
				child, err := f.Forward(context.Background(), r)
				require.NoError(t, err)
				require.Equal(t, janesAccess, child.Token().Reveal())
				require.Equal(t, "Bearer", child.TokenType)
				require.True(t, child.SelfContained)
				require.True(t, child.Granted.Equal(r.Access), "%v", child.Granted.Flat())
				require.True(t, child.Confirmed[access.DimScopes] && child.Confirmed[access.DimAudiences])
				require.True(t, child.ExpiresAt.Equal(r.Subject.ExpiresAt))
				require.Equal(t, test.revocable, !child.Handle.Empty())
				require.Zero(t, f.server.Counts().Requests[authserver.EndpointToken])
				if test.revocable {
					require.NoError(t, f.Revoke(context.Background(), child.Handle))
					require.False(t, f.server.Active(janesAccess))
				}
			})
		}
	}
}

func TestForwardBelievesIntrospection(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"verify": "introspect"})
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

	f.server.Break(authserver.EndpointIntrospect, authserver.Answer(200, "application/json",
		`{"active":true,"scope":"read","authorization_details":[{"type":"payment"}]}`))
	child, err = f.Forward(context.Background(), r)
	require.NoError(t, err)
	require.False(t, child.Granted.Details.IsNothing(), "for the caller to refuse")
	require.True(t, child.Confirmed[access.DimDetails])

	for _, body := range []string{`{"active":true,"sub":"joe"}`, `{"active":true,"exp":1}`, `{"active":true,"aud":["\u0000"]}`, `{"active":true,"authorization_details":"all"}`} {
		f.server.Break(authserver.EndpointIntrospect, authserver.Answer(200, "application/json", body))
		_, err = f.Forward(context.Background(), r)
		requireCode(t, err, fault.ProviderViolation)
	}
	f.server.Break(authserver.EndpointIntrospect, authserver.HTML())
	_, err = f.Forward(context.Background(), r)
	requireCode(t, err, fault.ProviderViolation)
	require.NotContains(t, err.Error(), janesAccess)
	require.Zero(t, f.server.Counts().Revoked, "it stays the caller's affair")
}

func TestOnlyAccessTokensAreForwarded(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	for _, claims := range []map[string]any{{"at_hash": "x"}, {"c_hash": "x"}, {"typ": "ID"}, {"token_use": "refresh"}} {
		_, err := f.Forward(context.Background(), f.forwarding(issuedTo(testClient), claims))
		requireCode(t, err, fault.InvalidGrant, "access token")
	}
	_, err := f.Forward(context.Background(), provider.Request{})
	requireCode(t, err, fault.InvalidRequest, "subject_token")
}

// keyID is the key's thumbprint, as in cnf.jkt.
func keyID(t *testing.T, key *kit.SigningKey) string {
	t.Helper()
	proof, err := prove(key, "https://as.test/token", "", time.Now())
	require.NoError(t, err)
	return proof.thumbprint
}

// A token that is bound to a key is handed on to whoever proves to hold that key, and
// to nobody else.
func TestABoundTokenIsForwardedWithItsProof(t *testing.T) {
	key, other := agentKey(t), agentKey(t)
	id := keyID(t, key)
	jkt := map[string]any{"jkt": id}
	for name, test := range map[string]struct {
		fields with
		cnf    any
		says   string // of introspection
		proof  func(f *fixture) string
		words  string // "" if it is forwarded
	}{
		"with its proof":               {with{"dpop": true}, jkt, "", func(f *fixture) string { return f.proof(key, "") }, ""},
		"looked at":                    {with{"dpop": true, "verify": "introspect"}, jkt, `{"jkt":"` + id + `"}`, func(f *fixture) string { return f.proof(key, "") }, ""},
		"with another key's":           {with{"dpop": true}, jkt, "", func(f *fixture) string { return f.proof(other, "") }, "another key"},
		"without":                      {with{"dpop": true}, jkt, "", nil, "dpop_proof is missing"},
		"where no proof can be given":  {with{}, jkt, "", nil, "dpop=true"},
		"to a certificate":             {with{"dpop": true}, map[string]any{"x5t#S256": "x"}, "", nil, "bring a token that is not bound"},
		"to a certificate as well":     {with{"dpop": true}, map[string]any{"jkt": id, "x5t#S256": "x"}, "", func(f *fixture) string { return f.proof(key, "") }, "bring a token that is not bound"},
		"to what nobody knows":         {with{"dpop": true}, map[string]any{"jkt": id, "kid": "k"}, "", func(f *fixture) string { return f.proof(key, "") }, "bring a token that is not bound"},
		"to nothing that can be told":  {with{"dpop": true}, nil, "", nil, "bring a token that is not bound"},
		"as only the server tells":     {with{"dpop": true, "verify": "introspect"}, false, `{"jkt":"` + id + `"}`, nil, "bring a token that is not bound"},
		"otherwise than the server is": {with{"dpop": true, "verify": "introspect"}, jkt, `{"jkt":"x"}`, func(f *fixture) string { return f.proof(key, "") }, "bring a token that is not bound"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, test.fields)
			claims := map[string]any{"cnf": test.cnf}
			if test.cnf == false {
				claims = nil
			}
			r := f.forwarding(issuedTo(testClient), claims)
			if test.says != "" {
				f.server.Break(authserver.EndpointIntrospect, authserver.Answer(200, "application/json", `{"active":true,"scope":"read","cnf":`+test.says+`}`))
			}
			if test.proof != nil {
				r.Proofs = map[provider.ProofKind]secret.Text{provider.ProofDPoP: secret.New(test.proof(f))}
			}
			child, err := f.Forward(context.Background(), r)
			if test.words == "" {
				require.NoError(t, err)
				require.Equal(t, "DPoP", child.TokenType)
				return
			}
			require.Error(t, err)
			require.True(t, faulttest.Says(err.Error(), test.words), "%q does not say %q", err, test.words)
			require.Less(t, fault.CodeOf(err).Status(), 500, "it is the caller's to mend")
			require.Nil(t, child)
		})
	}
}
