package backend

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// exchanging is a mount whose role r exchanges tokens of the issuer i, which is the
// provider's own server.
func exchanging(t *testing.T, role map[string]any) *mount {
	t.Helper()
	m := newMount(t, setup{})
	m.must(m.write("issuers/i", map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": m.server.URL, "bound_audiences": "broker",
	}))
	fields := map[string]any{"mode": "exchange", "subject_issuers": "i"}
	for name, value := range role {
		fields[name] = value
	}
	m.must(m.write("roles/r", fields))
	return m
}

// trustedToken is a subject token that the server takes, too.
func (m *mount) trustedToken(jti string) string {
	token := m.subjectToken(jti, nil)
	m.server.Trust(token, authserver.Bearer{Subject: "user-1"})
	return token
}

func TestAnExchangeIsAGrant(t *testing.T) {
	m := exchanging(t, nil)
	l, err := m.creds(map[string]any{"subject_token": m.trustedToken("one"), "scopes": "read"})
	require.NoError(t, err)
	require.Equal(t, "user-1", l.data["subject"])
	require.Equal(t, "urn:ietf:params:oauth:token-type:access_token", l.data["issued_token_type"])
	require.Equal(t, []string{"read"}, l.data["scopes"])
	require.Equal(t, 10*time.Minute, l.secret.TTL, "no lease outlives the subject token")
	issued, _ := m.server.Lookup(l.token)
	require.Equal(t, "user-1", issued.Subject)
	require.Equal(t, "user-1", m.must(m.read("grants/" + l.grantID)).Data["subject"])
	require.NoError(t, m.revoke(l))
	require.False(t, m.server.Active(l.token))
}

// A server may take the actor token and answer with a token of the subject alone.
func TestAnActorThatTheTokenDoesNotShowIsUnverified(t *testing.T) {
	m := exchanging(t, map[string]any{"actor": "entity"})
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	m.server.AddToken(authserver.Token{Value: "a-child-of-the-subject", Client: parentClient, Expires: m.clock.Now().Add(time.Minute)})
	m.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusOK, "application/json",
		`{"access_token":"a-child-of-the-subject","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`))
	l, err := m.credsBy(call{path: "creds/r", entity: alice, data: map[string]any{"subject_token": m.trustedToken("one"), "scopes": "read"}})
	require.NoError(t, err)
	require.Equal(t, alice, l.data["actor"])
	require.Equal(t, []string{"actor"}, l.data["unverified"])
	require.NoError(t, m.revoke(l))
}

func TestAnExchangeGoneWrong(t *testing.T) {
	m := exchanging(t, map[string]any{"subject_single_use": true})
	token := m.trustedToken("one")
	m.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusBadRequest, "application/json", `{"error":"invalid_grant"}`))
	_, err := m.creds(map[string]any{"subject_token": token})
	requireCode(t, err, fault.InvalidGrant, "subject token")

	itself := m.trustedToken("two")
	m.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusOK, "application/json",
		`{"access_token":"`+itself+`","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`))
	_, err = m.creds(map[string]any{"subject_token": itself})
	requireCode(t, err, fault.ProviderViolation, "the very token")
	require.Zero(t, m.server.Counts().Requests[authserver.EndpointRevoke], "it is the caller's")

	m.server.Break(authserver.EndpointToken, authserver.Set("scope", "read write admin"))
	_, err = m.creds(map[string]any{"subject_token": m.trustedToken("three")})
	requireCode(t, err, fault.ProviderViolation, "scope:admin")
	require.Empty(t, m.server.Live(), "what is too wide is killed")

	m.server.Break(authserver.EndpointToken, nil)
	l, err := m.creds(map[string]any{"subject_token": token})
	require.NoError(t, err, "the first refusal had used nothing up")
	require.NoError(t, m.revoke(l))
}

func TestRolesThatCannotExchange(t *testing.T) {
	m := exchanging(t, nil)
	for name, test := range map[string]struct {
		mode       string
		parameters map[string]any
		words      []string
	}{
		"a parameter that is no type":   {"exchange", map[string]any{"subject_token_type": "jwt"}, []string{"subject_token_type", "URI"}},
		"a refresh token":               {"exchange", map[string]any{"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, []string{"refresh token"}},
		"a parameter for a mint":        {"mint", map[string]any{"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}, []string{"mode=exchange"}},
		"a parameter that is not known": {"exchange", map[string]any{"assertion": "x"}, []string{"assertion"}},
	} {
		_, err := m.write("roles/r", map[string]any{"mode": test.mode, "parameters": test.parameters})
		require.Error(t, err, name)
		requireCode(t, err, fault.InvalidRequest, test.words...)
	}
	m.must(m.write("providers/oauth2/p", map[string]any{"exchange": "jwt-bearer"}))
	_, err := m.write("roles/other", map[string]any{"provider": "oauth2/p", "scopes": "read", "mode": "exchange", "subject_issuers": "i", "actor": "entity"})
	requireCode(t, err, fault.InvalidRequest, "takes no actor")
}

// A token of another client cannot be killed, whatever the provider's class.
func TestWhatCannotBeKilledIsNotForwardedWhereItMustBe(t *testing.T) {
	m := exchanging(t, nil)
	m.must(m.write("roles/r", map[string]any{"mode": "forward", "audiences": "broker", "require_revocable": true}))
	token := func(client string) string {
		return m.server.SignClaims("at+jwt", map[string]any{
			"iss": m.server.URL, "sub": "user-1", "aud": "broker", "client_id": client, "scope": "read",
			"iat": m.clock.Now().Unix(), "exp": m.clock.Now().Add(10 * time.Minute).Unix(),
		})
	}
	_, err := m.creds(map[string]any{"subject_token": token("spa")})
	requireCode(t, err, fault.AccessDenied, "require_revocable", "mode=exchange")
	require.Empty(t, m.allGrants())

	ours := token(parentClient)
	m.server.AddToken(authserver.Token{Value: ours, Client: parentClient, Expires: m.clock.Now().Add(10 * time.Minute)})
	resp := m.must(m.do(call{op: logical.UpdateOperation, path: "creds/r", data: map[string]any{"subject_token": ours}}))
	require.Equal(t, ours, resp.Data["access_token"])
	require.NotNil(t, resp.WrapInfo, "for one pair of hands")
	require.NoError(t, m.revoke(m.leaseOf(resp)))
	require.False(t, m.server.Active(ours))
}

// An issuer that nothing binds to its iss is not the provider's own, also once the one
// that was is deleted.
func TestOnlyTheProvidersOwnTokensAreForwarded(t *testing.T) {
	m := exchanging(t, nil)
	m.must(m.write("issuers/loose", map[string]any{"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_audiences": "broker"}))
	m.must(m.write("roles/r", map[string]any{"mode": "forward", "audiences": "broker", "subject_issuers": "i,loose"}))
	token := m.subjectToken("one", map[string]any{"scope": "read", "client_id": parentClient})
	m.server.AddToken(authserver.Token{Value: token, Client: parentClient, Expires: m.clock.Now().Add(10 * time.Minute)})
	forward := func() error {
		_, err := m.creds(map[string]any{"subject_token": token})
		return err
	}
	require.NoError(t, forward())
	m.must(m.delete("issuers/i", nil))
	requireCode(t, forward(), fault.InvalidGrant, "provider's own issuer")
}

// What a provider grants is recorded and shown in clear, also in the audit log.
func TestNoTokenIsTakenForANameOfWhatWasGranted(t *testing.T) {
	m := exchanging(t, nil)
	m.must(m.write("providers/oauth2/p", map[string]any{"verify": "introspect", "client_secret": parentSecret}))
	subject := m.trustedToken("one")
	for child, echoed := range map[string]string{
		"a-child-token-of-some-length": subject, "another-token-of-some-length": "another-token-of-some-length",
	} {
		m.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusOK, "application/json",
			`{"access_token":"`+child+`","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`))
		m.server.Break(authserver.EndpointIntrospect, authserver.Answer(http.StatusOK, "application/json",
			`{"active":true,"scope":"read","aud":"x-`+echoed+`"}`))
		_, err := m.creds(map[string]any{"subject_token": subject, "scopes": "read"})
		requireCode(t, err, fault.ProviderViolation, "repeats")
		require.NotContains(t, err.Error(), echoed[:20])
	}
}
