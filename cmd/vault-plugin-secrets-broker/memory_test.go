package main

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPercentFor(t *testing.T) {
	const mib = 1 << 20
	for lives, want := range map[uint64]int{
		0: 400, 4 * mib: 400, // of 4 MiB, which is the least that Go takes it of
		8 * mib: 200, 10 * mib: 160, 12 * mib: 133,
		room: 100, 300 * mib: 100, 8 << 30: 100,
	} {
		require.Equal(t, want, percentFor(lives), lives)
	}
}

// TestAPluginThatRemembersMuchTakesNoMore: once as much as room lives, Go collects as often as
// it does unasked.
func TestAPluginThatRemembersMuchTakesNoMore(t *testing.T) {
	t.Setenv("GOGC", "")
	paceCollector()
	require.Greater(t, percentNow(), 2*goPercent, "little lives here")
	collected := make(chan struct{}, 100)
	afterEachCollection(func() { collected <- struct{}{} })
	remembered := make([]byte, room)
	for range 3 { // cleared away after the first, and seen after the second
		runtime.GC()
		<-collected
	}
	require.Equal(t, goPercent, percentNow())
	runtime.KeepAlive(remembered)
}

func TestTheOperatorsWordOnCollectionsHolds(t *testing.T) {
	t.Setenv("GOGC", "150")
	before := percentNow()
	paceCollector()
	require.Equal(t, before, percentNow())
}

func percentNow() int {
	samples := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(samples)
	return int(samples[0].Value.Uint64())
}
