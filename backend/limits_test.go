package backend

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// limitsView counts what it is asked.
type limitsView struct {
	logical.StaticSystemView
	asked int
}

func (v *limitsView) DefaultLeaseTTL() time.Duration {
	v.asked++
	return v.DefaultLeaseTTLVal
}

// TestLeaseLimitsAreAskedNowAndThen: often enough for a tune to be seen, never on
// every request, and a failed call is neither kept nor hidden.
func TestLeaseLimitsAreAskedNowAndThen(t *testing.T) {
	view := &limitsView{StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 2 * time.Hour}}
	var limits leaseLimits
	now := time.Now()
	ask := func() [2]time.Duration {
		ttl, most := limits.get(view, now)
		return [2]time.Duration{ttl, most}
	}
	was := [2]time.Duration{time.Hour, 2 * time.Hour}
	for range 3 {
		require.Equal(t, was, ask())
	}
	require.Equal(t, 1, view.asked)

	view.DefaultLeaseTTLVal, view.MaxLeaseTTLVal = time.Minute, time.Hour
	now = now.Add(limitsAge - 1)
	require.Equal(t, was, ask())
	now = now.Add(1)
	require.Equal(t, [2]time.Duration{time.Minute, time.Hour}, ask())

	view.MaxLeaseTTLVal = 0
	now = now.Add(limitsAge)
	require.Equal(t, [2]time.Duration{}, ask())
	view.MaxLeaseTTLVal = time.Hour
	require.Equal(t, [2]time.Duration{time.Minute, time.Hour}, ask())

	asked := view.asked
	now = now.Add(-time.Hour)
	ask()
	require.Equal(t, asked+1, view.asked, "a clock that goes back makes nothing last")
}
