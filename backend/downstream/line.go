package downstream

import (
	"context"
	"slices"
	"sync"
)

// timesFree bounds what one sharer may have: at most three times as many places as are
// free, and the same of the room to wait. A sharer by itself gets three quarters of all,
// two get three sevenths each, and something is always left for whoever comes next.
const timesFree = 3

// mayTake reports whether a sharer that has so many may have one more of what is free.
func mayTake(has, free int) bool { return free > 0 && has < max(1, timesFree*free) }

// line lets as many in at once as there are places. The others wait: the sharers get
// their turns one after the other, each for the one of it that came first. It has no
// lock and no clock of its own.
type line struct {
	places int
	inside int
	held   map[sharer]int // places by sharer, none that are 0
	rows   []*row         // of sharers of which somebody waits, the next one first
}

// row is who waits of one sharer.
type row struct {
	who     sharer
	waiting []*waiter
}

// waiter is one who waits; turn says once how that ends: nil is the turn.
type waiter struct {
	kind Kind
	turn chan error
}

func newLine(places int) line { return line{places: places, held: map[sharer]int{}} }

// enter takes a place if the sharer may have one now. Nobody is passed over by that: who
// waits does so because their sharer may have no more at the moment.
func (l *line) enter(p sharer) bool {
	if !mayTake(l.held[p], l.places-l.inside) {
		return false
	}
	l.inside++
	l.held[p]++
	return true
}

// leave gives a place of the sharer's back.
func (l *line) leave(p sharer) {
	l.inside--
	if l.held[p]--; l.held[p] == 0 {
		delete(l.held, p)
	}
	l.admit()
}

// join waits for a place, which may be there at once.
func (l *line) join(k Kind) *waiter {
	w := &waiter{kind: k, turn: make(chan error, 1)}
	p := k.sharer()
	if l.enter(p) {
		w.turn <- nil
		return w
	}
	for _, r := range l.rows {
		if r.who == p {
			r.waiting = append(r.waiting, w)
			return w
		}
	}
	l.rows = append(l.rows, &row{who: p, waiting: []*waiter{w}})
	return w
}

// admit gives the places that are free to those who wait.
func (l *line) admit() {
	for passed := 0; passed < len(l.rows) && l.inside < l.places; {
		r := l.rows[0]
		if !l.enter(r.who) {
			l.rows = append(l.rows[1:], r)
			passed++
			continue
		}
		passed = 0
		r.waiting[0].turn <- nil
		r.waiting = r.waiting[1:]
		l.rows = l.rows[1:]
		if len(r.waiting) > 0 {
			l.rows = append(l.rows, r)
		}
	}
}

// abandon ends a wait. It returns false if that has ended already: then turn says how.
func (l *line) abandon(w *waiter) bool {
	p := w.kind.sharer()
	for i, r := range l.rows {
		if at := slices.Index(r.waiting, w); r.who == p && at >= 0 {
			r.waiting = slices.Delete(r.waiting, at, at+1)
			if len(r.waiting) == 0 {
				l.rows = slices.Delete(l.rows, i, i+1)
			}
			return true
		}
	}
	return false
}

// dismiss ends the wait of all for whom why has a reason.
func (l *line) dismiss(why func(Kind) error) {
	for _, r := range l.rows {
		r.waiting = slices.DeleteFunc(r.waiting, func(w *waiter) bool {
			err := why(w.kind)
			if err != nil {
				w.turn <- err
			}
			return err != nil
		})
	}
	l.rows = slices.DeleteFunc(l.rows, func(r *row) bool { return len(r.waiting) == 0 })
}

// stand waits until w has its turn, or another end. mu guards the line; the caller does not
// hold it.
func (l *line) stand(ctx context.Context, mu *sync.Mutex, w *waiter) error {
	select {
	case err := <-w.turn:
		return err
	default:
	}
	select {
	case err := <-w.turn:
		return err
	case <-ctx.Done():
	}
	mu.Lock()
	abandoned := l.abandon(w)
	mu.Unlock()
	if !abandoned && <-w.turn == nil {
		l.step(mu, w.kind) // it came too late
	}
	return ctx.Err()
}

// step gives a place back under mu.
func (l *line) step(mu *sync.Mutex, k Kind) {
	mu.Lock()
	defer mu.Unlock()
	l.leave(k.sharer())
}
