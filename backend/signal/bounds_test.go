package signal

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A transmitter names what it sends as it likes, and as long as an answer may be: what is
// remembered of many names is small all the same.
func TestLongNamesAreNotKept(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r := &Receiver{
		later: map[string]time.Time{}, told: map[string]bool{}, errs: map[string]setErr{},
		deps: Deps{Now: func() time.Time { return now }, Count: func(string, string) {}, Warn: func(string, ...any) {}},
	}
	long := strings.Repeat("x", 1<<20)
	wait := &Refusal{Code: codeKey, Later: true, Last: unknownKeyFor}
	require.True(t, r.mayWait(long, wait))
	require.True(t, r.mayWait("short", wait))
	now = now.Add(unknownKeyFor)
	require.True(t, r.mayWait(long+"x", wait), "it is another one")
	require.False(t, r.mayWait(long, wait))
	require.True(t, r.refuse(long, OtherKind, wait))
	require.True(t, r.refuse(long+"x", OtherKind, wait))
	require.False(t, r.refuse(long, OtherKind, wait), "it is told again")
	for name := range r.told {
		require.LessOrEqual(t, len(name), 64)
	}
	for name := range r.later {
		require.LessOrEqual(t, len(name), 64)
	}
}
