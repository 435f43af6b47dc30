package grant

import (
	"context"
	"errors"
	"sync/atomic"
)

// ErrChanged means that a grant is not any more what a Hold on it has seen.
var ErrChanged = errors.New("the grant was changed or is to die")

// Hold is the word of the ledger to one who keeps a grant, or an intent, in memory and
// writes it without reading: until it is over, nobody else has written the grant, removed it or
// wants it dead. A write that was decided on what is known of the grant fails after
// that, so that it undoes nothing. It is in memory only, as what it protects is.
// There is one on each grant, the last that was begun.
type Hold struct {
	id   string
	over atomic.Bool
}

// Hold begins a hold, for a grant that is not on record yet, or is about to be read:
// whatever happens to it from that moment on ends the hold.
func (l *Ledger) Hold(id string) *Hold {
	h := &Hold{id: id}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endHoldLocked(id)
	l.holds[id] = h
	return h
}

// Over reports whether the hold has ended.
func (h *Hold) Over() bool { return h.over.Load() }

// EndHold ends the hold on a grant, if there is one: its token is to die, or nobody
// needs the hold any more.
func (l *Ledger) EndHold(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endHoldLocked(id)
}

// Holding reports whether somebody has a hold on the grant.
func (l *Ledger) Holding(id string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.holds[id] != nil
}

func (l *Ledger) endHoldLocked(id string) {
	if h := l.holds[id]; h != nil {
		h.over.Store(true)
		delete(l.holds, id)
	}
}

// changing is lock for one who changes the grant, until done. It ends the hold on it twice:
// one that has begun meanwhile may have read what is replaced.
func (l *Ledger) changing(id string) (done func()) {
	lock := l.lock(id)
	l.EndHold(id)
	return func() {
		l.EndHold(id)
		lock.Unlock()
	}
}

// endOthers ends the hold on a grant that is written by right of another one.
func (l *Ledger) endOthers(h *Hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holds[h.id] != h {
		l.endHoldLocked(h.id)
	}
}

// endHolds is for when somebody has written records whose ids nobody knows.
func (l *Ledger) endHolds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.holds {
		l.endHoldLocked(id)
	}
}

// Rewrite writes after over before without reading that, by right of a hold.
// ErrChanged if that is over; nothing is written then.
func (l *Ledger) Rewrite(ctx context.Context, h *Hold, before, after *Grant) error {
	defer l.working()()
	lock := l.lock(after.ID)
	defer lock.Unlock()
	if h.id != after.ID || h.over.Load() {
		return ErrChanged
	}
	defer l.endOthers(h) // as in changing
	return l.write(ctx, after, before)
}

// UpdateSeen is Update of a grant as it was read under a hold, which is not read again:
// what was judged is what is changed. If the hold is over by then it is Update.
func (l *Ledger) UpdateSeen(ctx context.Context, h *Hold, seen *Grant, change func(*Grant) error) error {
	after := seen.Clone()
	if err := change(after); err != nil {
		return err
	}
	err := l.Rewrite(ctx, h, seen, after)
	if errors.Is(err, ErrChanged) {
		_, err = l.Update(ctx, seen.ID, change)
	}
	return err
}
