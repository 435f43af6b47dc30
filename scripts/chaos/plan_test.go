package chaos

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func take(seed uint64, lane string, n int) (steps []Fault) {
	for fault := range sequence(seed, lane, networkFaults, networkTempo) {
		if steps = append(steps, fault); len(steps) == n {
			break
		}
	}
	return steps
}

func TestASeedReproducesItsFaults(t *testing.T) {
	const n = 500
	first := take(7, "line careful", n)
	require.Equal(t, first, take(7, "line careful", n))
	require.NotEqual(t, first, take(8, "line careful", n))
	require.NotEqual(t, first, take(7, "line trusting", n))

	seen := map[Kind]bool{}
	for _, fault := range first {
		seen[fault.Kind] = true
		require.GreaterOrEqual(t, fault.Pause, networkTempo.pauseMin)
		require.LessOrEqual(t, fault.Pause, networkTempo.pauseMax)
		require.GreaterOrEqual(t, fault.For, networkTempo.lastMin)
		require.LessOrEqual(t, fault.For, networkTempo.lastMax)
	}
	require.Len(t, seen, len(networkFaults), "every kind occurs")
}
