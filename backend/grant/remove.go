package grant

import (
	"context"
	"errors"
	"fmt"
)

// Remove forgets a grant whose token is dead. Forgetting one that is already
// gone is no error.
func (l *Ledger) Remove(ctx context.Context, g *Grant) error {
	defer l.working()()
	defer l.changing(g.ID)()
	return l.remove(ctx, g)
}

// Withdraw forgets an intent, and leaves alone what is none any more: gone is true if
// nothing is on record. A Hold on the intent is over.
func (l *Ledger) Withdraw(ctx context.Context, id string) (gone bool, err error) {
	defer l.working()()
	defer l.changing(id)()
	g, err := l.Get(ctx, id)
	if errors.Is(err, ErrGone) {
		// It may be counted all the same, if storage left it in doubt.
		if g, err = l.counted(ctx, id); errors.Is(err, ErrGone) {
			return true, nil
		}
	}
	if err != nil || !g.IsIntent() {
		return false, err
	}
	err = l.remove(ctx, g)
	return err == nil, err
}

// remove is Remove under the grant's lock.
func (l *Ledger) remove(ctx context.Context, g *Grant) error {
	at, ok := addressOf(g.ID)
	if !ok {
		return nil
	}
	was, counted, err := l.howCounted(ctx, g.ID)
	if err != nil {
		return err
	}
	l.current().lately.drop(g.ID)
	if err := l.storage.Delete(ctx, at.key()); err != nil {
		if counted {
			l.doubt(g)
		}
		return fmt.Errorf("cannot delete a grant's record: %w", err)
	}
	s := g.Summary()
	l.current().leave(&s, was, counted)
	l.settle(g.ID)
	return nil
}

// howCounted finds out whether a grant is counted, and as what. Storage is asked only if memory
// does not know: the grant's appointment is on a page, or the grant is gone.
func (l *Ledger) howCounted(ctx context.Context, id string) (is countedAs, counted bool, err error) {
	x := l.current()
	if is, counted = x.howCounted(id); counted {
		return is, true, nil
	}
	g, err := l.counted(ctx, id)
	switch {
	case errors.Is(err, ErrGone), errors.Is(err, ErrUnreadable):
		return countedAs{}, false, nil
	case err != nil:
		return countedAs{}, false, err
	}
	s := g.Summary()
	x.mu.Lock()
	defer x.mu.Unlock()
	return s.countedAs(), x.counted(id), nil
}

// counted is a grant as the index has it, if the scan has come so far: as Get, and
// also if storage left its record in doubt.
func (l *Ledger) counted(ctx context.Context, id string) (*Grant, error) {
	l.mu.RLock()
	g := l.doubtful[id].Clone()
	l.mu.RUnlock()
	if g != nil {
		return g, nil
	}
	return l.Get(ctx, id)
}

// settle forgets what was in memory only.
func (l *Ledger) settle(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.adopted, id)
	delete(l.doubtful, id)
}

func (l *Ledger) doubt(g *Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doubtful[g.ID] == nil {
		l.doubtful[g.ID] = g.Clone()
	}
}
