package grant

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
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

type beforeWrite struct {
	logical.Storage
	do func()
}

func (s *beforeWrite) now() {
	if do := s.do; do != nil {
		s.do = nil
		do()
	}
}

func (s *beforeWrite) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.now()
	return s.Storage.Put(ctx, e)
}

func (s *beforeWrite) Delete(ctx context.Context, key string) error {
	s.now()
	return s.Storage.Delete(ctx, key)
}

// Who begins a hold while somebody else's change of the grant is on its way to storage reads
// the grant as it was before: nothing is written on the word of that hold.
func TestAHoldThatBeginsWithinAWriteUndoesNothing(t *testing.T) {
	for name, act := range map[string]func(l *Ledger, g *Grant) error{
		"removed": func(l *Ledger, g *Grant) error { return l.Remove(t.Context(), g) },
		"doomed":  func(l *Ledger, g *Grant) error { return l.Doom(t.Context(), g, func(d *Doom) { d.Cause = "c" }) },
		"changed": func(l *Ledger, g *Grant) error {
			_, err := l.Update(t.Context(), g.ID, func(g *Grant) error { g.Released = true; return nil })
			return err
		},
		"kept": func(l *Ledger, g *Grant) error {
			doomed := g.Clone()
			doomed.Doom = &Doom{Cause: "c"}
			return l.Keep(t.Context(), doomed)
		},
		"renewed": func(l *Ledger, g *Grant) error {
			after := g.Clone()
			after.MaxLease = after.MaxLease.Add(time.Hour)
			return l.Rewrite(t.Context(), l.Hold(g.ID), g, after)
		},
	} {
		s := &beforeWrite{Storage: &logical.InmemStorage{}}
		l := NewLedger(s)
		g := newGrant(t, "alice")
		require.NoError(t, l.Record(t.Context(), g))
		var h *Hold
		var seen *Grant
		s.do = func() {
			h = l.Hold(g.ID)
			var err error
			seen, err = l.Get(t.Context(), g.ID)
			require.NoError(t, err)
		}
		require.NoError(t, act(l, g), name)
		was, errWas := l.Get(t.Context(), g.ID)
		after := seen.Clone()
		after.LeaseEnds = after.LeaseEnds.Add(time.Minute)
		require.ErrorIs(t, l.Rewrite(t.Context(), h, seen, after), ErrChanged, name)
		is, errIs := l.Get(t.Context(), g.ID)
		require.Equal(t, was, is, name)
		require.Equal(t, errWas, errIs, name)
	}
}

// What was judged is what is changed, without being read again, but never what has become
// something else since.
func TestAnUpdateOfWhatWasSeen(t *testing.T) {
	l, _ := emptyLedger(t)
	g, other := newGrant(t, "alice"), newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	require.NoError(t, l.Record(t.Context(), other))
	renew := func(g *Grant, between func()) error {
		h := l.Hold(g.ID)
		defer l.EndHold(g.ID)
		seen, err := l.Get(t.Context(), g.ID)
		require.NoError(t, err)
		between()
		return l.UpdateSeen(t.Context(), h, seen, func(g *Grant) error {
			if g.Doom != nil {
				return errDying
			}
			g.LeaseEnds = g.LeaseEnds.Add(time.Minute)
			return nil
		})
	}
	require.NoError(t, renew(g, func() {}))
	require.NoError(t, renew(g, func() { require.NoError(t, renew(g, func() {})) }), "each minute counts")
	got, err := l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, g.LeaseEnds.Add(3*time.Minute), got.LeaseEnds)

	doom := func() { require.NoError(t, l.Doom(t.Context(), g, func(d *Doom) { d.Cause = "c" })) }
	require.ErrorIs(t, renew(g, doom), errDying)
	require.ErrorIs(t, renew(other, func() { require.NoError(t, l.Remove(t.Context(), other)) }), ErrGone)
	_, err = l.Get(t.Context(), other.ID)
	require.ErrorIs(t, err, ErrGone)
	require.Empty(t, l.holds)
}

var errDying = errors.New("it is to die")
