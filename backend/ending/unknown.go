package ending

import (
	"context"
	"maps"
	"slices"
	"time"
)

// A holder whom Vault does not know has been deleted, or Vault has lost sight of its
// entities, as some servers do for a while after a restart or a change of namespaces.
// One cannot be told from the other by looking once. Where many are unknown at once, the
// sweep looks again before it kills what they hold; who is disabled, merged or unfit is
// known, and waits for nothing.
const (
	// lookAgain is how long after the first look at a holder the second one may come.
	lookAgain = 30 * time.Second
	// More than fewUnknown holders, and one in unknownShare of those judged within
	// unknownWindow, are many.
	fewUnknown    = 10
	unknownShare  = 10
	unknownWindow = 10 * time.Minute
)

// looks is what one slice of a sweep has found out about whom Vault knows. unsaid are
// those of whom it could not say anything.
type looks struct {
	known, unknown, unsaid []string
}

// confirm returns those of the unknown who are to lose their grants now. all are the
// holders that can be judged, ordered. By hand somebody has looked at them already. If
// the first looks cannot be read, nobody is confirmed; if they cannot be written, they
// are remembered in memory.
func (k *Killer) confirm(ctx context.Context, seen looks, all []string, byHand bool) (map[string]bool, error) {
	f := &k.looks
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	now := k.now()
	f.count(now, seen)
	many := !byHand && f.many(all, k.ledger.Loaded())
	before := maps.Clone(f.at)
	for _, holder := range slices.Concat(seen.known, seen.unsaid) {
		delete(f.at, holder) // who fails between two looks may have lost sight anew
	}
	confirmed := map[string]bool{}
	for _, holder := range seen.unknown {
		first, looked := f.at[holder]
		switch {
		case byHand, !looked && !many, looked && now.Sub(first) >= lookAgain:
			confirmed[holder] = true
		case !looked, first.After(now): // the clock went back
			f.at[holder] = now
		}
	}
	if k.ledger.Loaded() {
		maps.DeleteFunc(f.at, func(holder string, _ time.Time) bool {
			_, held := slices.BinarySearch(all, holder)
			return !held
		})
	}
	k.tellUnknown(before, f.at, confirmed)
	if maps.Equal(before, f.at) {
		return confirmed, nil
	}
	return confirmed, f.save(ctx)
}

// tellUnknown says loudly that many are unknown, and what to do.
func (k *Killer) tellUnknown(before, after map[string]time.Time, confirmed map[string]bool) {
	k.meters.UnknownHolders(len(after))
	fresh, back := 0, 0
	for holder := range after {
		if _, had := before[holder]; !had {
			fresh++
		}
	}
	for holder := range before {
		if _, has := after[holder]; !has && !confirmed[holder] {
			back++
		}
	}
	if fresh > 0 {
		k.logger().Error("Vault does not know many holders of grants: if they were deleted, the next sweep kills what they hold, or sweep by hand does at once; if not, Vault has lost sight of its entities: bring them back before that",
			"holders", fresh, "waiting", len(after), "looked_at_again_after", lookAgain)
	}
	if back > 0 {
		k.logger().Warn("holders whom Vault did not know are known again, cannot be asked about, or hold nothing any more", "holders", back, "waiting", len(after))
	}
}

// count keeps in mind who was judged, and who was unknown, within the window.
func (f *firstLooks) count(now time.Time, seen looks) {
	if f.lately == nil {
		f.lately, f.judged = map[string]time.Time{}, map[int64]int{}
	}
	oldest := now.Add(-unknownWindow)
	maps.DeleteFunc(f.lately, func(_ string, at time.Time) bool { return at.Before(oldest) || at.After(now) })
	maps.DeleteFunc(f.judged, func(minute int64, _ int) bool {
		return minute < oldest.Unix()/60 || minute > now.Unix()/60
	})
	for _, holder := range seen.known {
		delete(f.lately, holder)
	}
	for _, holder := range seen.unknown {
		f.lately[holder] = now
	}
	f.judged[now.Unix()/60] += len(seen.known) + len(seen.unknown)
}

// many reports whether more holders are unknown than are deleted on an ordinary day: more
// than fewUnknown, and one in unknownShare of those judged, or of all if there are fewer,
// since then some were judged twice. While not all records have been read, a few count as
// many.
func (f *firstLooks) many(all []string, loaded bool) bool {
	there, judged := len(all), 0
	for holder := range f.lately {
		if _, held := slices.BinarySearch(all, holder); !held {
			there++ // it has lost its grants since
		}
	}
	for _, n := range f.judged {
		judged += n
	}
	unknown := len(f.lately)
	return (unknown > fewUnknown || !loaded && unknown > 0) && unknown*unknownShare >= min(judged, there)
}
