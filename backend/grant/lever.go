package grant

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Lever names what dies together at a provider.
type Lever struct{ Provider, Name string }

// Hanging is how many grants hang on a lever.
type Hanging struct {
	// Held are those whose lease has not ended, Released those whose lease has, and
	// Doomed those in the outbox.
	Held, Released, Doomed int
}

// hangs is how one grant hangs on its lever.
type hangs uint8

const (
	hangsNot hangs = iota
	hangsHeld
	hangsReleased
	hangsDoomed
)

func (s *Summary) hangs() hangs {
	switch {
	case s.Lever == "" || !s.Revocable:
		return hangsNot
	case s.Doomed:
		return hangsDoomed
	case s.Released:
		return hangsReleased
	}
	return hangsHeld
}

// On is the lever on which the grant hangs; false if it hangs on none that others could
// hang on too.
func (s *Summary) On() (Lever, bool) {
	return Lever{s.Provider, s.Lever}, s.hangs() != hangsNot
}

// levers are what hangs on which lever.
type levers struct {
	on   map[Lever]*hanging
	idle map[Lever]struct{}
}

type hanging struct {
	Hanging
	holders map[string]int
}

func newLevers() levers { return levers{on: map[Lever]*hanging{}, idle: map[Lever]struct{}{}} }

// hang moves a counted grant on its lever. The caller holds the index's mu.
func (v *levers) hang(s *Summary, from, to hangs) {
	if from == to {
		return
	}
	lever := Lever{s.Provider, s.Lever}
	on := v.on[lever]
	if on == nil {
		on = &hanging{holders: map[string]int{}}
		lever.Name = strings.Clone(lever.Name)
		v.on[lever] = on
	}
	on.move(s.Holder, from, -1)
	on.move(s.Holder, to, 1)
	if len(on.holders) == 0 {
		delete(v.on, lever)
	}
	if on.Held == 0 && on.Released > 0 {
		v.idle[lever] = struct{}{}
	} else {
		delete(v.idle, lever)
	}
}

func (h *Hanging) add(as hangs, n int) {
	switch as {
	case hangsHeld:
		h.Held += n
	case hangsReleased:
		h.Released += n
	case hangsDoomed:
		h.Doomed += n
	case hangsNot:
	}
}

func (h *hanging) move(holder string, as hangs, n int) {
	if as == hangsNot {
		return
	}
	h.add(as, n)
	if h.holders[holder] += n; h.holders[holder] == 0 {
		delete(h.holders, holder)
	}
}

// Hanging counts what hangs on a lever, among the records that have been read so far:
// before the ledger is Loaded there may be more.
func (l *Ledger) Hanging(lever Lever) Hanging {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	if on := x.on[lever]; on != nil {
		return on.Hanging
	}
	return Hanging{}
}

// HangingBeside is Hanging without one of the grants, as far as that one is known to be
// counted: it is one of the others else.
func (l *Ledger) HangingBeside(lever Lever, id string) Hanging {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	on := x.on[lever]
	if on == nil {
		return Hanging{}
	}
	others := on.Hanging
	if is, counted := x.surely(id); counted {
		others.add(is.hangs, -1)
	}
	return others
}

// HoldersOn lists, ordered, whose grants hang on a lever, among the records that have
// been read so far.
func (l *Ledger) HoldersOn(lever Lever) []string {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	if on := x.on[lever]; on != nil {
		return slices.Sorted(maps.Keys(on.holders))
	}
	return nil
}

// AloneOn reports whether nothing but the grant of the id hangs on a lever. The ledger is
// Loaded.
func (l *Ledger) AloneOn(ctx context.Context, lever Lever, id string) (bool, error) {
	switch on := l.Hanging(lever); on.Held + on.Released + on.Doomed {
	case 0:
		return true, nil
	case 1:
	default:
		return false, nil
	}
	is, counted, err := l.howCounted(ctx, id)
	return counted && is.hangs != hangsNot, err
}

// Newcomers are the grants that have come to hang on a lever since somebody watches it. It
// is safe for concurrent use.
type Newcomers struct {
	ledger *Ledger
	lever  Lever

	mu  sync.Mutex
	ids map[string]struct{}
}

// WatchLever notes from now on what comes to hang on a lever, until Close.
func (l *Ledger) WatchLever(lever Lever) *Newcomers {
	n := &Newcomers{ledger: l, lever: lever, ids: map[string]struct{}{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watched[lever] == nil {
		l.watched[lever] = map[*Newcomers]struct{}{}
	}
	l.watched[lever][n] = struct{}{}
	return n
}

// Close ends the watch. Has still tells of those who came until then.
func (n *Newcomers) Close() {
	n.ledger.mu.Lock()
	defer n.ledger.mu.Unlock()
	delete(n.ledger.watched[n.lever], n)
	if len(n.ledger.watched[n.lever]) == 0 {
		delete(n.ledger.watched, n.lever)
	}
}

// Has reports whether a grant came while the lever was watched.
func (n *Newcomers) Has(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, came := n.ids[id]
	return came
}

// comes is before the write of a grant; before is as it was.
func (l *Ledger) comes(g, before *Grant) {
	if g.Lever == "" || before != nil && before.Lever == g.Lever {
		return
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for n := range l.watched[Lever{g.Provider, g.Lever}] {
		n.mu.Lock()
		n.ids[g.ID] = struct{}{}
		n.mu.Unlock()
	}
}

// Idle lists, ordered, the levers that nobody holds any more, among the records that have been read so far.
func (l *Ledger) Idle() []Lever {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.SortedFunc(maps.Keys(x.idle), func(a, b Lever) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Name, b.Name))
	})
}

// WalkLever visits what hangs on a lever as Walk does, among the records that have been
// read so far, until visit returns false.
func (l *Ledger) WalkLever(ctx context.Context, lever Lever, visit func(*Summary) bool) error {
	var problems error
	more := true
	for _, holder := range l.HoldersOn(lever) {
		err := l.Walk(ctx, holder, "", func(s *Summary) bool {
			if on, ok := s.On(); ok && on == lever {
				more = visit(s)
			}
			return more
		})
		problems = errors.Join(problems, err)
		if !more || ctx.Err() != nil {
			break
		}
	}
	return problems
}
