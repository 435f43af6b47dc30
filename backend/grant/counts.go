package grant

import (
	"context"
	"slices"
	"time"
)

// Holders lists who holds grants, ordered, once every record has been read.
func (l *Ledger) Holders(ctx context.Context) ([]string, error) {
	return l.HoldersOf(ctx, func(Count) bool { return true })
}

// HoldersOf lists the holders who have grants of a role and provider that match,
// once every record has been read.
func (l *Ledger) HoldersOf(ctx context.Context, match func(Count) bool) ([]string, error) {
	if err := l.Load(ctx); err != nil {
		return nil, err
	}
	return l.HoldersSoFar(match), nil
}

// HoldersSoFar is HoldersOf among the records that have been read so far.
func (l *Ledger) HoldersSoFar(match func(Count) bool) []string {
	return l.current().selectHolders(match)
}

// Counts are the holder's, among the records that have been read so far.
func (l *Ledger) Counts(holder string) []Count {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.countsOf(holder))
}

// Totals are the counts of all holders together, among the records that have been
// read so far.
func (l *Ledger) Totals() []Count {
	type key struct{ role, provider string }
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	at := map[key]int{}
	var out []Count
	for _, has := range x.holders {
		for _, c := range has.counts {
			i, ok := at[key{c.Role, c.Provider}]
			if !ok {
				i, at[key{c.Role, c.Provider}] = len(out), len(out)
				out = append(out, Count{Role: c.Role, Provider: c.Provider})
			}
			out[i].Live, out[i].Revocable, out[i].Outbox = out[i].Live+c.Live, out[i].Revocable+c.Revocable, out[i].Outbox+c.Outbox
		}
	}
	return out
}

// OutboxSince is since when the oldest grant in the outbox is there, to the second, by
// provider; those of which none is there are not in it.
func (l *Ledger) OutboxSince() map[string]time.Time {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	oldest := map[string]time.Time{}
	for at := range x.outbox {
		since := time.Unix(at.second, 0)
		if known, ok := oldest[at.provider]; !ok || since.Before(known) {
			oldest[at.provider] = since
		}
	}
	return oldest
}
