package grant

import (
	"context"
	"maps"
	"time"
)

// liveKey names the grants that one quota counts.
type liveKey struct{ holder, role string }

// liveSet are the ids of a holder's grants of a role, with their tokens' ends. It
// is kept only where a quota needs it, which also bounds it.
type liveSet struct {
	ids   map[string]time.Time
	used  time.Time
	ready chan struct{} // closed once all are in
	err   error         // to be read when ready
}

// Watch makes LiveIDs able to answer, at once if it is already, or by reading the holder's
// records. now is when it was last used, for Unwatch.
func (l *Ledger) Watch(ctx context.Context, holder, role string, now time.Time) error {
	x := l.current()
	set, mine := x.watch(liveKey{holder, role}, now)
	if mine {
		// Others wait for it too: it does not end with the first one's patience.
		set.err = l.readLive(context.WithoutCancel(ctx), x, liveKey{holder, role}, set)
		x.settle(liveKey{holder, role}, set)
	}
	select {
	case <-set.ready:
		return set.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch is the set of k. mine means that the caller has to fill it. What is
// recorded from now on gets in by itself.
func (x *index) watch(k liveKey, now time.Time) (set *liveSet, mine bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if set := x.live[k]; set != nil {
		return set, false
	}
	set = &liveSet{ids: map[string]time.Time{}, used: now, ready: make(chan struct{})}
	x.live[k] = set
	if x.scanned && x.newer == nil && !x.hasRole(k) {
		close(set.ready)
		return set, false
	}
	return set, true
}

func (x *index) hasRole(k liveKey) bool {
	for _, c := range x.countsOf(k.holder) {
		if c.Role == k.role {
			return true
		}
	}
	return false
}

// settle lets those go on who wait for the set.
func (x *index) settle(k liveKey, set *liveSet) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if set.err != nil && x.live[k] == set {
		delete(x.live, k)
	}
	close(set.ready)
}

func (l *Ledger) readLive(ctx context.Context, x *index, k liveKey, set *liveSet) error {
	return l.ids(ctx, k.holder, "", everyOne, func(id string) (bool, error) {
		lock := l.lock(id)
		defer lock.Unlock()
		g, err := l.Get(ctx, id)
		switch {
		case passedOver(err):
			return true, nil
		case err != nil:
			return false, err
		}
		if s := g.Summary(); s.Role == k.role {
			x.mu.Lock()
			defer x.mu.Unlock()
			set.keep(&s)
		}
		return true, nil
	})
}

// keepLive takes a grant into the set that counts it, if there is one. The caller
// holds mu.
func (x *index) keepLive(s *Summary) {
	if set := x.live[liveKey{s.Holder, s.Role}]; set != nil {
		set.keep(s)
	}
}

func (set *liveSet) keep(s *Summary) {
	// What nobody has got counts too while it works, unless nobody knows until when.
	if s.Withheld && !s.Revocable && s.ExpiresAt.IsZero() {
		delete(set.ids, s.ID)
		return
	}
	set.ids[s.ID] = s.ExpiresAt
}

// LiveIDs are the ids of the holder's grants of a role whose tokens may still
// work at now; false if Watch has to be called first.
func (l *Ledger) LiveIDs(holder, role string, now time.Time) (map[string]bool, bool) {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	set := x.live[liveKey{holder, role}]
	if set == nil || !closed(set.ready) {
		return nil, false
	}
	set.used = now
	ids := map[string]bool{}
	for id, expires := range set.ids {
		if s := (Summary{ExpiresAt: expires}); !s.CertainlyExpired(now) {
			ids[id] = true
		}
	}
	return ids, true
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Unwatch gives up what no LiveIDs has asked for since then.
func (l *Ledger) Unwatch(since time.Time) {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.live, func(_ liveKey, set *liveSet) bool {
		return closed(set.ready) && set.used.Before(since)
	})
}
