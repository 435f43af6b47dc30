package backend

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// neverRevoked is RFC 7009 2.2.1's answer of a server that revokes no access tokens.
func neverRevoked() authserver.Fault {
	return authserver.Answer(400, "application/json", `{"error":"unsupported_token_type"}`)
}

// A server that says that it revokes no access tokens is not asked for ever: what it
// refuses for good counts as what it is.
func TestATokenThatNothingCanRevokeIsNotTriedForEver(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointRevoke, neverRevoked())
	l := m.mustCreds(nil)
	require.NoError(t, m.revoke(l), "no retry of Vault's would do more")
	g := m.must(m.read("grants/" + l.grantID)).Data
	require.Equal(t, "expiry", g["revocation"])
	require.Equal(t, false, g["pending"])
	require.Contains(t, g["last_error"], "unsupported_token_type")
	_, err := m.renew(l, time.Hour)
	require.Error(t, err)

	asked := func() int { return m.server.Counts().Requests[authserver.EndpointRevoke] }
	m.start()
	m.periodicallyUntil(m.b.ledger.Loaded)
	m.clock.advance(20 * time.Minute)
	require.NoError(t, m.periodic())
	require.EqualValues(t, 0, m.sweep()["pending"])
	require.Equal(t, 1, asked(), "once")

	other := m.mustCreds(nil)
	counts := m.must(m.write("revoke/role/r", nil)).Data
	require.EqualValues(t, 0, counts["revoked"])
	require.EqualValues(t, 0, counts["pending"])
	require.EqualValues(t, 2, counts["expiry_only"])
	require.Positive(t, counts["residual_exposure_seconds"])
	require.Equal(t, 3, asked(), "an operator's kill tries also what was given up")

	m.server.Break(authserver.EndpointRevoke, nil)
	require.EqualValues(t, 1, m.must(m.write("revoke/grant/"+other.grantID, nil)).Data["revoked"], "a server that has been mended")
	require.False(t, m.server.Active(other.token))
}

// A token without an end that was handed out, and that its server turns out never to
// revoke, is on record as long as it may matter to anybody, and not for ever.
func TestATokenThatNeitherEndsNorCanBeRevokedIsNotOnRecordForEver(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"max_grants_per_entity": 1}})
	m.server.Break(authserver.EndpointToken, authserver.Drop("expires_in"))
	l, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	m.clock.advance(48 * time.Hour)
	require.NotEmpty(t, m.allGrants(), "while nobody has asked for its end it stays")
	m.server.Break(authserver.EndpointRevoke, neverRevoked())
	require.NoError(t, m.revoke(l))
	require.Equal(t, "expiry", m.must(m.read("grants/" + l.grantID)).Data["revocation"])

	m.clock.advance(grant.EndlessLife)
	m.sweep()
	require.Equal(t, []string{l.grantID}, m.allGrants())
	m.clock.advance(time.Second)
	m.start()
	m.sweep()
	require.Empty(t, m.allGrants())
	m.server.Break(authserver.EndpointToken, nil)
	_, err = m.credsBy(call{entity: alice})
	require.NoError(t, err, "its holder's quota is free again")
	require.Zero(t, m.must(m.write("revoke/role/r", nil)).Data["pending"])
}

// What is given up keeps nobody from giving up the provider.
func TestATokenThatNothingCanRevokeKeepsNoProvider(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointRevoke, neverRevoked())
	l := m.mustCreds(nil)
	resp := m.must(m.delete("providers/oauth2/p", map[string]any{"force": true}))
	require.EqualValues(t, 1, resp.Data["expiry_only"])
	require.Len(t, resp.Warnings, 1)
	require.Contains(t, resp.Warnings[0], "these roles name providers/oauth2/p", "and nothing is pending")
	require.Nil(t, m.must(m.read("providers/oauth2/p")))
	require.NoError(t, m.revoke(l), "Vault can end the lease")
	m.server.Kill(l.token) // it expires
	m.clock.advance(2 * time.Hour)
	m.sweep()
	require.Empty(t, m.allGrants())
}

// A check kills what it mints, so it knows what the kill is worth.
func TestACheckSaysThatWhatItMintsCannotBeRevoked(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointRevoke, neverRevoked())
	resp := m.must(m.write("providers/oauth2/p/check", nil))
	require.Equal(t, true, resp.Data["healthy"])
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "revocation=expiry")
	require.EqualValues(t, 0, m.sweep()["pending"])

	m.server.Break(authserver.EndpointRevoke, nil)
	require.Empty(t, m.must(m.write("providers/oauth2/p/check", nil)).Warnings)
}
