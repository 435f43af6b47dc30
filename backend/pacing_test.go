package backend

import (
	"errors"
	"fmt"
	"sync/atomic"
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

func TestTheCacheNeverKeepsWhatAWriteOverlapped(t *testing.T) {
	c := newCache[int]()
	value, err := c.get("k", func() (int, error) {
		c.drop("k") // a write in the middle of the load
		return 1, nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, value, "the loader may use it")
	value, err = c.get("k", func() (int, error) { return 2, nil })
	require.NoError(t, err)
	require.Equal(t, 2, value)
	value, err = c.get("k", func() (int, error) { return 3, nil })
	require.NoError(t, err)
	require.Equal(t, 2, value)
	c.clear()
	_, err = c.get("k", func() (int, error) { return 0, errors.New("no") })
	require.Error(t, err)
	value, err = c.get("k", func() (int, error) { return 4, nil })
	require.NoError(t, err, "an error is not kept")
	require.Equal(t, 4, value)
}

func TestTheCacheUnderManyWritersIsNeverOlderThanStorage(t *testing.T) {
	var stored atomic.Int64
	c := newCache[int64]()
	together(func(worker int) {
		for range 200 {
			if worker%4 == 0 {
				stored.Add(1)
				c.drop("k")
				continue
			}
			before := stored.Load()
			value, err := c.get("k", func() (int64, error) { return stored.Load(), nil })
			require.NoError(t, err)
			// A writer between its two steps may leave the value one behind.
			require.GreaterOrEqual(t, value+workers/4, before, fmt.Sprint(worker))
		}
	})
	c.drop("k")
	value, err := c.get("k", func() (int64, error) { return stored.Load(), nil })
	require.NoError(t, err)
	require.Equal(t, stored.Load(), value)
}
