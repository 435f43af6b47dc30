package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i, n := range rand.Perm(100) {
		hundred[i] = time.Duration(n+1) * time.Millisecond
	}
	rows := []struct {
		latencies []time.Duration
		p         float64
		want      time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{7}, 0, 7},
		{[]time.Duration{7}, 99, 7},
		{[]time.Duration{4, 1, 3, 2}, 50, 2},
		{[]time.Duration{4, 1, 3, 2}, 75, 3},
		{[]time.Duration{4, 1, 3, 2}, 76, 4},
		{hundred, 50, 50 * time.Millisecond},
		{hundred, 99, 99 * time.Millisecond},
		{hundred, 100, 100 * time.Millisecond},
	}
	for _, row := range rows {
		require.Equal(t, row.want, newResult(time.Second, row.latencies).Percentile(row.p), "%v of %v", row.p, row.latencies)
	}
}

func TestRate(t *testing.T) {
	require.InDelta(t, 1.5, newResult(2*time.Second, make([]time.Duration, 3)).Rate(), 1e-9)
	require.Zero(t, Result{}.Rate())
}

// TestRunByCalls: as many calls as asked for, each number once, and all clients
// under way at the same time.
func TestRunByCalls(t *testing.T) {
	const clients, calls = 8, 1000
	var seen [calls]atomic.Int64
	var all sync.WaitGroup
	all.Add(clients)
	var first [clients]sync.Once
	result, err := Run(t.Context(), Options{Clients: clients, Calls: calls}, func(_ context.Context, client, n int) error {
		first[client].Do(func() { all.Done(); all.Wait() })
		seen[n].Add(1)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, calls, result.Calls())
	require.Positive(t, result.Rate())
	for n := range seen {
		require.EqualValues(t, 1, seen[n].Load(), n)
	}
}

func TestRunByDuration(t *testing.T) {
	const duration = 20 * time.Millisecond
	result, err := Run(t.Context(), Options{Clients: 2, Duration: duration}, func(context.Context, int, int) error {
		time.Sleep(time.Millisecond)
		return nil
	})
	require.NoError(t, err)
	require.Positive(t, result.Calls())
	require.GreaterOrEqual(t, result.Elapsed, duration)
	require.GreaterOrEqual(t, result.Percentile(50), time.Millisecond)
}

// TestRunFails with the first error, and stops everybody.
func TestRunFails(t *testing.T) {
	broken := errors.New("broken")
	_, err := Run(t.Context(), Options{Clients: 4, Duration: time.Hour}, func(ctx context.Context, _, n int) error {
		if n == 3 {
			return broken
		}
		if n > 3 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	require.ErrorIs(t, err, broken)

	_, err = Run(t.Context(), Options{Clients: 1}, nil)
	require.Error(t, err, "without an end")
}

func TestRunIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Run(ctx, Options{Clients: 1, Duration: time.Hour}, func(context.Context, int, int) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
}
