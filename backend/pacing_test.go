package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestAMintKeepsChangesOutAndNobodyWaits(t *testing.T) {
	g := newGate()
	first, ok := g.enter()
	require.True(t, ok)
	second, ok := g.enter()
	require.True(t, ok, "mints do not keep each other out")
	_, ok = g.alone()
	require.False(t, ok)
	first()
	_, ok = g.alone()
	require.False(t, ok)
	second()
	done, ok := g.alone()
	require.True(t, ok)
	_, ok = g.enter()
	require.False(t, ok)
	_, ok = g.alone()
	require.False(t, ok)
	done()
	leave, ok := g.enter()
	require.True(t, ok)
	leave()
}

// mintThrough lets a mint through that its provider answers.
func mintThrough(t *testing.T, g *gate) {
	t.Helper()
	p, err := g.waitMint(t.Context(), time.Now, promptly, kind{})
	require.NoError(t, err)
	p.end(answered, time.Now())
}

func TestRevocationsGoBeforeMints(t *testing.T) {
	g := newGate()
	g.setLimit(20)
	now := time.Now()
	for range 20 { // use up the burst
		mintThrough(t, g)
	}
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 5 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			done, err := g.waitRevoke(context.Background(), now)
			if err != nil {
				t.Error(err)
				return
			}
			passed.Add(1)
			done()
		}()
	}
	waiting := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.waiting
	}
	// On a busy machine they may all be through before anybody has seen them wait.
	require.Eventually(t, func() bool { return waiting() > 0 || passed.Load() == 5 }, promptly, 100*time.Microsecond)
	mintThrough(t, g)
	require.Zero(t, waiting(), "revocations that the mint has overtaken")
	wg.Wait()
}

func TestAGateWithoutRoomSaysSo(t *testing.T) {
	g := newGate()
	g.setLimit(0.001)
	mintThrough(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	within(t, func() {
		_, err := g.waitMint(ctx, time.Now, promptly, kind{})
		require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
		_, err = g.waitRevoke(ctx, time.Now())
		require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
	})
	g.setLimit(0)
	mintThrough(t, g)
	done, err := g.waitRevoke(t.Context(), time.Now())
	require.NoError(t, err)
	done()
}

func TestTurnsAreTakenOneByOne(t *testing.T) {
	g := newGate()
	release, err := g.turn(t.Context(), promptly)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = g.turn(ctx, promptly)
	require.ErrorIs(t, err, context.Canceled)
	release()
	release, err = g.turn(t.Context(), promptly)
	require.NoError(t, err)
	release()
}

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
