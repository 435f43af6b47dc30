package grant

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever anybody else does with a grant ends the hold on it, also where storage does
// not let it happen; and then nothing is written on its word.
func TestNothingIsUndoneOnTheWordOfAHold(t *testing.T) {
	for name, act := range map[string]func(l *Ledger, g *Grant) error{
		"removed": func(l *Ledger, g *Grant) error { return l.Remove(t.Context(), g) },
		"doomed":  func(l *Ledger, g *Grant) error { return l.Doom(t.Context(), g, func(d *Doom) { d.Cause = "c" }) },
		"changed": func(l *Ledger, g *Grant) error {
			_, err := l.Update(t.Context(), g.ID, func(g *Grant) error { g.Shares = nil; return nil })
			return err
		},
		"kept":        func(l *Ledger, g *Grant) error { return l.Keep(t.Context(), g) },
		"to die":      func(l *Ledger, g *Grant) error { l.EndHold(g.ID); return nil },
		"invalidated": func(l *Ledger, _ *Grant) error { l.Invalidate(); return nil },
		"held anew":   func(l *Ledger, g *Grant) error { l.Hold(g.ID); return nil },
	} {
		for _, fails := range []bool{false, true} {
			l, s := emptyLedger(t)
			g := newGrant(t, "alice")
			h := l.Hold(g.ID)
			require.NoError(t, l.Record(t.Context(), g))
			after := g.Clone()
			after.SetShare("one", noon.Add(time.Hour))
			require.NoError(t, l.Rewrite(t.Context(), h, g, after), name)

			s.FailPut(fails).FailDelete(fails)
			if err := act(l, g); err != nil {
				require.True(t, fails, "%s: %v", name, err)
			}
			s.FailPut(false).FailDelete(false)
			was, errWas := l.Get(t.Context(), g.ID)
			again := after.Clone()
			again.SetShare("two", noon.Add(2*time.Hour))
			require.ErrorIs(t, l.Rewrite(t.Context(), h, after, again), ErrChanged, name)
			is, errIs := l.Get(t.Context(), g.ID)
			require.Equal(t, was, is, name)
			require.Equal(t, errors.Is(errWas, ErrGone), errors.Is(errIs, ErrGone), name)
		}
	}
}

func TestAHoldIsOnOneGrant(t *testing.T) {
	l, _ := emptyLedger(t)
	one, other := newGrant(t, "alice"), newGrant(t, "alice")
	h := l.Hold(one.ID)
	require.NoError(t, l.Record(t.Context(), one))
	require.NoError(t, l.Record(t.Context(), other))
	require.ErrorIs(t, l.Rewrite(t.Context(), h, other, other), ErrChanged)
	require.NoError(t, l.Remove(t.Context(), other))
	require.NoError(t, l.Rewrite(t.Context(), h, one, one))
	l.EndHold(one.ID)
	require.Empty(t, l.holds)
}
