package backend

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// A token that nobody got, that nothing can revoke and of which nobody knows an end
// leaves a record with an end of its own, however often somebody tries.
func TestRecordsOfTokensThatNobodyGotEnd(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"revocation": "expiry", "verify": "introspect"}})
	m.server.Break(authserver.EndpointToken, authserver.Drop("expires_in"))
	m.server.Break(authserver.EndpointIntrospect, authserver.Answer(500, "text/plain", "down"))
	for range 3 {
		_, err := m.creds(nil)
		requireCode(t, err, fault.TemporarilyUnavailable)
	}
	m.must(m.write("providers/oauth2/p/check", nil)) // which mints one, too
	require.Len(t, m.allGrants(), 4)
	for range 2 { // as it is in memory, and as it is read after a start
		m.clock.advance(grant.EndlessLife / 2)
		m.sweep()
		require.Len(t, m.allGrants(), 4)
		_, err := m.delete("providers/oauth2/p", nil)
		requireCode(t, err, fault.InvalidRequest, "force=true")
		m.start()
	}
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, m.allGrants())
	m.must(m.delete("providers/oauth2/p", nil))
}
