package harness

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseUsage(t *testing.T) {
	const status = "Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
	got, err := parseUsage("42 (a ) b) S 1 42 42 0 -1 0 1 2 3 4 150 50 7 7 20 0", status)
	require.NoError(t, err)
	require.Equal(t, Usage{CPU: 2 * time.Second, RSS: 1 << 20, Peak: 2 << 20}, got)

	for name, row := range map[string]struct{ stat, status string }{
		"short":  {"42 (x) S 1", status},
		"no cpu": {"42 (x) S 1 42 42 0 -1 0 1 2 3 4 a b 7", status},
		"zombie": {"42 (x) Z 1 42 42 0 -1 0 1 2 3 4 1 2 7", "Name:\tx\n"},
	} {
		_, err := parseUsage(row.stat, row.status)
		require.Error(t, err, name)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u := usageOf(t, os.Getpid())
	require.Positive(t, u.RSS)
	require.GreaterOrEqual(t, u.Peak, u.RSS)
}
