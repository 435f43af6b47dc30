package ending

import (
	"context"
	"errors"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
)

// target is a grant that is to die, and why.
type target struct {
	grant.Summary
	cause string
	// record is told what becomes of it, if somebody asked for the kill; listed is what the
	// record says. ends is for who has joined the record for this grant.
	record *kills.Record
	listed bool
	ends   bool
}

// source finds the grants of a kill. It hands each to yield, which blocks while
// too many of the same provider wait, and says with expect how many there may be.
type source func(ctx context.Context, expect func(int), yield func(target)) error

// walk is what of the records of some holders a kill is meant for.
type walk struct {
	holders func(ctx context.Context) ([]string, error)
	// concerns says which counts of theirs may hold something; nil if nobody asks.
	concerns func(grant.Count) bool
	// clue is what all that is meant have; the others' records are not read.
	clue grant.Clue
	// matches is why a grant must die, or "".
	matches func(*grant.Summary) string
	// unloaded says that the clue alone finds all that is meant, so that nobody need wait
	// for the scan after a start.
	unloaded bool
	// whole says that the holders were chosen by what is in memory. There it is not known
	// whose the records are that only a newer version reads: if there are any, the walk
	// fails.
	whole bool
}

// means reports whether the walk comes to the grant.
func (w walk) means(s *grant.Summary) bool { return w.matches(s) != "" }

// along is the source that reads the records of a walk.
func (k *Killer) along(w walk) source {
	return func(ctx context.Context, expect func(int), yield func(target)) error {
		return k.visit(ctx, w, expect, func(s *grant.Summary) bool {
			if cause := w.matches(s); cause != "" {
				yield(target{Summary: *s, cause: cause})
			}
			return true
		})
	}
}

// visit reads what a walk may mean, until one says that it is enough.
func (k *Killer) visit(ctx context.Context, w walk, expect func(int), one func(*grant.Summary) bool) error {
	if w.unloaded {
		if done, search := k.search(ctx); search {
			defer done()
			return errors.Join(k.ledger.Find(ctx, w.clue, one), k.ledger.Newer())
		}
	}
	holders, err := w.holders(ctx)
	if err != nil {
		return err
	}
	expect(k.expected(w, holders))
	var problems error
	more := true
	for _, holder := range holders {
		err := k.ledger.WalkWith(ctx, holder, w.clue, "", func(s *grant.Summary) bool {
			more = one(s)
			return more
		})
		if !more {
			return err
		}
		if problems == nil { // the others say the same
			problems = err
		}
	}
	if problems == nil && w.whole {
		problems = k.ledger.Newer()
	}
	return problems
}

// maxSearches is how many kills search all records at once while the scan after a start reads
// them too: each lists what all holders have, and keeps the scan back.
const maxSearches = 2

// search waits for its turn to search the records by their ids, and then has to be done. It
// is false where all have been read by then, so that memory tells who has what, or the
// caller has no patience.
func (k *Killer) search(ctx context.Context) (done func(), search bool) {
	if k.ledger.Loaded() {
		return nil, false
	}
	done = func() { <-k.searches }
	select {
	case k.searches <- struct{}{}:
		return done, true
	default:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	loaded := make(chan struct{})
	go func() {
		if k.ledger.Load(ctx) == nil {
			close(loaded)
		}
	}()
	select {
	case k.searches <- struct{}{}:
		return done, true
	case <-loaded:
	case <-ctx.Done():
	}
	return nil, false
}

// expected is how many grants of the holders may be meant.
func (k *Killer) expected(w walk, holders []string) (n int) {
	if w.concerns == nil {
		return 0
	}
	for _, holder := range holders {
		for _, c := range k.ledger.Counts(holder) {
			if w.concerns(c) {
				n += c.Live
			}
		}
	}
	return n
}
