package ending

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// unfit is a holder who should not have a role's grants any more, and why.
type unfit struct {
	Holder, Role string
	cause        string
}

// losing are the unfit whose kill has not read all their records yet. It is safe for
// concurrent use.
type losing struct {
	mu    sync.Mutex
	unfit map[unfit]bool
}

// take returns those whose kill has yet to begin.
func (l *losing) take(found []unfit) (rest []unfit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unfit == nil {
		l.unfit = map[unfit]bool{}
	}
	for _, u := range found {
		if !l.unfit[u] {
			l.unfit[u] = true
			rest = append(rest, u)
		}
	}
	return rest
}

// release ends the turn of a kill.
func (l *losing) release(unfits []unfit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range unfits {
		delete(l.unfit, u)
	}
}

// killUnfit starts to kill what its holders should not have any more; nil if there
// is nothing to do.
func (k *Killer) killUnfit(ctx context.Context, unfits []unfit) *Run {
	if len(unfits) == 0 {
		return nil
	}
	byHolder := map[string][]unfit{}
	for _, u := range unfits {
		byHolder[u.Holder] = append(byHolder[u.Holder], u)
	}
	w := walk{
		holders: func(context.Context) ([]string, error) { return slices.Sorted(maps.Keys(byHolder)), nil },
		matches: func(s *grant.Summary) string {
			if !s.Revocable || s.Doomed || k.queue.has(s.ID) {
				return "" // nothing can be done, or somebody does it
			}
			return causeOf(byHolder[s.Holder], s)
		},
	}
	return k.startKill(ctx, func(ctx context.Context, expect func(int), yield func(target)) error {
		defer k.losing.release(unfits)
		records := k.newSweepRecords()
		defer records.end()
		return k.along(w)(ctx, expect, func(t target) {
			t.record, t.ends = records.of(&t), true
			t.record.Join()
			yield(t)
		})
	}, newPulls(func(s *grant.Summary) bool { return causeOf(byHolder[s.Holder], s) != "" }, newMade()))
}

// causeOf is why a grant of an unfit holder must die, or "". One that was released waits
// for others already, unless its holder has left.
func causeOf(unfits []unfit, s *grant.Summary) string {
	for _, u := range unfits {
		if u.Role == s.Role && (!s.Released || hasLeft(u.cause)) {
			return u.cause
		}
	}
	return ""
}

func hasLeft(cause string) bool { return cause == CauseHolderGone || cause == CauseHolderDisabled }
