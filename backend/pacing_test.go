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

// A call may take several requests: the provider counts those.
func TestTheRateLimitCountsRequests(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"rate_limit": 20, "timeout": 30, "verify": "introspect", "confirm_revocation": true}})
	before, started := len(m.server.Requests()), time.Now()
	for range 10 {
		require.NoError(t, m.revoke(m.mustCreds(nil)))
		m.must(m.write("providers/oauth2/p/check", nil))
	}
	took, sent := time.Since(started), len(m.server.Requests())-before
	require.GreaterOrEqual(t, sent, 60, "tokens, introspections and revocations")
	// 20 of them may come at once.
	require.Greater(t, took, time.Duration(sent-20)*time.Second/20)
}

// A mint whose further request does not get its turn in time says so, and leaves nothing.
func TestAMintThatTheRateLimitKeepsFromItsEndLeavesNothing(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"verify": "introspect", "rate_limit": 0.001}})
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "no room in time")
	require.Zero(t, m.server.Counts().Requests[authserver.EndpointIntrospect])
	m.must(m.write("providers/oauth2/p", map[string]any{"rate_limit": 0}))
	m.clock.advance(time.Minute)
	m.sweep()
	require.Empty(t, m.server.Live())
	m.mustCreds(nil)
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
