package backend

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// A server that gives one token to all makes of class token a lie: whoever gives it up
// would take it from the others.
func TestATokenThatIsGivenTwiceIsNobodysAlone(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{OneToken: true}})
	first := m.mustCreds(nil)
	_, err := m.creds(nil)
	requireCode(t, err, fault.ProviderViolation)
	require.ErrorContains(t, err, "revocation=lever")
	require.ErrorContains(t, err, "sharing=entity")
	require.True(t, m.server.Active(first.token), "the first one's is not killed for it")
	require.Len(t, m.allGrants(), 1)

	// Not even where the second answer would be killed for what it grants.
	m.server.Break(authserver.EndpointToken, authserver.Set("scope", "read write admin"))
	_, err = m.creds(nil)
	requireCode(t, err, fault.ProviderViolation)
	require.True(t, m.server.Active(first.token))
	m.server.Break(authserver.EndpointToken, nil)

	resp := m.must(m.write("providers/oauth2/p/check", nil))
	require.Contains(t, resp.Warnings[0], "revocation=lever")

	require.NoError(t, m.revoke(first))
	require.False(t, m.server.Active(first.token))
	second := m.mustCreds(nil)
	require.NotEqual(t, first.token, second.token)
	require.True(t, m.server.Active(second.token))
}

// A check must not end the token that others have, because the server gives it once more.
func TestACheckDoesNotEndATokenThatIsAnothers(t *testing.T) {
	for _, revocation := range []string{"token", "lever"} {
		m := newMount(t, setup{server: authserver.Options{OneToken: true}, provider: map[string]any{"revocation": revocation}, role: map[string]any{"scopes": "read,write,admin"}})
		held := m.mustCreds(nil)
		resp := m.must(m.write("providers/oauth2/p/check", nil))
		require.True(t, m.server.Active(held.token))
		if revocation == "token" {
			require.Contains(t, resp.Warnings[0], "revocation=lever")
		}
	}
}

// With revocation=lever the token dies with the last lease on it.
func TestATokenOfManyDiesWithTheLastOfThem(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{OneToken: true}, provider: map[string]any{"revocation": "lever"}})
	m.sweep() // while the ledger is being read, nobody knows who is the last
	first, second := m.mustCreds(nil), m.mustCreds(nil)
	require.Equal(t, first.token, second.token)
	require.Equal(t, "lever", second.data["revocation"])
	require.NotEqual(t, first.grantID, second.grantID)

	require.NoError(t, m.revoke(first))
	require.True(t, m.server.Active(first.token))
	require.NoError(t, m.revoke(second))
	require.False(t, m.server.Active(first.token))
	require.Empty(t, m.allGrants())

	third, fourth := m.mustCreds(nil), m.mustCreds(nil)
	require.NotEqual(t, first.token, third.token)
	counts := m.must(m.write("revoke/grant/"+third.grantID, nil)).Data
	require.EqualValues(t, 1, counts["revoked"])
	require.EqualValues(t, 1, counts["bystanders"])
	require.False(t, m.server.Active(fourth.token))
	require.NoError(t, m.revoke(fourth))
}

// What was a lever's token yesterday is nobody's alone today.
func TestATokenOfALeverIsNoTokenOfItsOwnLater(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{OneToken: true}, provider: map[string]any{"revocation": "lever"}})
	l := m.mustCreds(nil)
	m.must(m.write("providers/oauth2/p", map[string]any{"revocation": "token"}))
	_, err := m.creds(nil)
	requireCode(t, err, fault.ProviderViolation, "revocation=lever")
	require.True(t, m.server.Active(l.token))
}

// A lever without a name is its child's own: two children cannot both have it.
func TestALeverWithoutANameIsNotShared(t *testing.T) {
	m, s := newSessionMount(t, nil)
	s.changing(func(_ int, answer map[string]any) {
		answer["class"], answer["handle"] = "lever", "sessions/session-1"
		answer["session_token"] = m.hide("one-session-token-for-all")
	})
	l := m.mustSession(call{entity: alice})
	_, err := m.session(call{entity: bob})
	requireCode(t, err, fault.ProviderViolation, "given to another request")
	require.Empty(t, s.killed)
	require.NoError(t, m.revoke(l))
}
