package grant

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// dueParallel is how many records of due grants are read at once.
const dueParallel = 4

// Query says which grants Due is to look for.
type Query struct {
	Now time.Time
	// Early also takes what is in the outbox before its next attempt is due, and
	// what Vault has still time to revoke.
	Early bool
	// Business decides on the record whether the grant is due.
	Business func(*Summary) bool
	// Skip passes over grants that somebody has in hand.
	Skip func(id string) bool
	// Limit is how many records are read.
	Limit int
}

// Due returns grants that are the sweep's business, and the ids that it has looked
// at: with fewer than Limit there are no more. It reads the record of each: one that
// is gone is crossed out, one that was renewed meanwhile gets its later appointment.
// One that cannot be read does not hide the others. Due knows of the grants that
// have been read so far, see Load.
func (l *Ledger) Due(ctx context.Context, q Query) (due []Summary, looked []string, err error) {
	x := l.current()
	if looked, err = l.appointments(ctx, x, q); err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	group := errgroup.Group{}
	group.SetLimit(dueParallel)
	for _, id := range looked {
		group.Go(func() error {
			s, err := l.look(ctx, x, id, q.Now)
			if err != nil || s == nil || !q.Business(s) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			due = append(due, *s)
			return nil
		})
	}
	err = group.Wait()
	return due, looked, errors.Join(err, l.makeRoom(ctx))
}

// appointments are the ids to look at, from memory and from as many pages as it
// takes.
func (l *Ledger) appointments(ctx context.Context, x *index, q Query) ([]string, error) {
	until := q.Now
	if q.Early {
		until = until.Add(Overstay)
	}
	for {
		ids := x.appointments(until.UnixMilli(), q.Early, q.Skip, q.Limit)
		key, more := x.nextPage(until.UnixMilli(), q.Early)
		if len(ids) == q.Limit || !more {
			return ids, nil
		}
		if err := l.fetch(ctx, x, key); err != nil {
			return nil, err
		}
	}
}

// look reads a grant at its appointment and puts right what the appointment says;
// nil if it is gone. A suspect comes back as one whose kill has failed.
func (l *Ledger) look(ctx context.Context, x *index, id string, now time.Time) (*Summary, error) {
	lock := l.lock(id)
	defer lock.Unlock()
	g, err := l.Get(ctx, id)
	switch {
	case errors.Is(err, ErrGone):
		x.drop(id)
		return nil, nil
	case errors.Is(err, ErrUnreadable):
		x.drop(id)
		x.pass(id, err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	x.enter(g, g)
	s := g.Summary()
	if _, suspect := x.suspected(id); suspect && !s.Doomed {
		s.Doomed, s.Since, s.Next = true, now, now
	}
	return &s, nil
}

func (x *index) suspected(id string) (cause string, suspect bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	cause, suspect = x.suspects[id]
	return cause, suspect
}

// Flush writes the grants that are in memory only, as many as it can, and finds out
// about those that storage left in doubt.
func (l *Ledger) Flush(ctx context.Context) error {
	l.mu.RLock()
	waiting, doubtful := slices.Collect(maps.Keys(l.adopted)), slices.Collect(maps.Keys(l.doubtful))
	l.mu.RUnlock()
	var problems error
	for _, id := range waiting {
		problems = errors.Join(problems, l.flushOne(ctx, id))
	}
	for _, id := range doubtful {
		problems = errors.Join(problems, l.clear(ctx, id))
	}
	return problems
}

// Unwritten are the grants that are in memory only.
func (l *Ledger) Unwritten() []Summary {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make([]Summary, 0, len(l.adopted))
	for _, g := range l.adopted {
		all = append(all, g.Summary())
	}
	return all
}

// flushOne writes an adopted grant if it is one still: it may have been killed
// meanwhile, and must not come back.
func (l *Ledger) flushOne(ctx context.Context, id string) error {
	defer l.changing(id)()
	g := l.adoptedGrant(id)
	if g == nil {
		return nil
	}
	if g.Doom == nil { // it may have been kept because the record could not be read
		switch found, err := l.read(ctx, id); {
		case err == nil:
			g.inherit(found)
		case !errors.Is(err, ErrGone) && !errors.Is(err, ErrUnreadable):
			return err
		}
	}
	return l.write(ctx, g, g)
}

// clear finds out whether a doubtful grant is on record, and as what.
func (l *Ledger) clear(ctx context.Context, id string) error {
	lock := l.lock(id)
	defer lock.Unlock()
	l.mu.RLock()
	g := l.doubtful[id].Clone()
	l.mu.RUnlock()
	if g == nil {
		return nil
	}
	switch found, err := l.read(ctx, id); {
	case err == nil:
		l.enter(found, g)
	case errors.Is(err, ErrGone):
		s := g.Summary()
		was, counted, err := l.howCounted(ctx, id)
		if err != nil {
			return err
		}
		l.current().leave(&s, was, counted)
	case !errors.Is(err, ErrUnreadable):
		return err
	}
	l.settle(id)
	return nil
}
