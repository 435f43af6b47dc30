package backend

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestTheRateLimitHoldsForAllThatIsSent(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"rate_limit": 50, "timeout": 30}})
	started := time.Now()
	for range 40 {
		require.NoError(t, m.revoke(m.mustCreds(nil)))
	}
	// 80 calls at 50 a second, of which 50 may come at once.
	require.Greater(t, time.Since(started), 500*time.Millisecond)
	require.Equal(t, 40, m.server.Counts().Revoked)
}

func TestAnOverloadedTokenEndpointIsLeftAlone(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	m.server.Break(authserver.EndpointToken, authserver.Busy(time.Minute))
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.server.Break(authserver.EndpointToken, nil)
	before := m.server.Counts().Requests[authserver.EndpointToken]
	_, err = m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "left alone")
	require.Equal(t, before, m.server.Counts().Requests[authserver.EndpointToken])
	require.NoError(t, m.revoke(l), "that does not hold up revocations")
	m.clock.advance(61 * time.Second)
	m.mustCreds(nil)
}
