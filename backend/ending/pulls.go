package ending

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// pulls are the levers that one kill pulls, each once.
type pulls struct {
	// chosen reports whether the kill means a grant and comes to it by itself; nil if it
	// means only the one at hand.
	chosen func(*grant.Summary) bool
	made   *made

	mu         sync.Mutex
	bystanders int
	// unsettled are levers that were pulled and on which others may have hung, by their
	// providers.
	unsettled map[string]map[grant.Lever]died
}

// died is with which grant a lever's others have died, by which pull.
type died struct {
	id string
	at *pull
	in meant
}

// spares reports whether a grant of the lever has not died with that one, or is somebody's to
// forget by himself.
func (d died) spares(s *grant.Summary) bool {
	return s.ID == d.id || d.at.since.Has(s.ID) || d.in.spares(s)
}

// made are pulls that have begun, the last one of each lever, while somebody may join them.
// It is safe for concurrent use.
type made struct {
	mu    sync.Mutex
	of    map[grant.Lever]*pull
	turns map[grant.Lever]*turn
	users int
}

// turn says whose handle is to pull a lever; the others wait for it.
type turn struct {
	id   string
	over chan struct{}
}

// pull is one lever pulled; what was on record before it began is dead.
type pull struct {
	number uint64
	since  *grant.Newcomers
	done   chan struct{}
	err    error // to be read when done
}

func newMade() *made { return &made{of: map[grant.Lever]*pull{}, turns: map[grant.Lever]*turn{}} }

// use keeps what has been made until drop has been called as often.
func (m *made) use() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users++
}

func (m *made) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users--; m.users > 0 {
		return
	}
	for lever, at := range m.of {
		at.since.Close()
		delete(m.of, lever)
	}
}

// arrange gives the turn, of each lever with something in the outbox, to the one whose
// handle has failed least, and puts those first: one handle that always fails keeps nobody
// from dying by another's.
func (m *made) arrange(targets []target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := map[grant.Lever]*target{}
	for i := range targets {
		t := &targets[i]
		lever, hangs := t.On()
		if !hangs || !t.Doomed || m.of[lever] != nil || m.turns[lever] != nil {
			continue
		}
		if least := fresh[lever]; least == nil || t.Tried < least.Tried || t.Tried == least.Tried && t.ID < least.ID {
			fresh[lever] = t
		}
	}
	first := map[string]bool{}
	for lever, t := range fresh {
		m.turns[lever], first[t.ID] = &turn{t.ID, make(chan struct{})}, true
	}
	slices.SortStableFunc(targets, func(a, b target) int {
		switch {
		case first[a.ID] == first[b.ID]:
			return 0
		case first[a.ID]:
			return -1
		}
		return 1
	})
}

// await returns when it is nobody else's turn.
func (m *made) await(lever grant.Lever, id string) {
	m.mu.Lock()
	at := m.turns[lever]
	m.mu.Unlock()
	if at != nil && at.id != id {
		<-at.over
	}
}

// tried ends the turn of a grant, if it has one.
func (m *made) tried(s *grant.Summary) {
	lever := grant.Lever{Provider: s.Provider, Name: s.Lever}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.turns[lever]; at != nil && at.id == s.ID {
		close(at.over)
		delete(m.turns, lever)
	}
}

// newPulls are those of one kill; with its kills it has to use and drop what is made.
func newPulls(chosen func(*grant.Summary) bool, made *made) *pulls {
	return &pulls{chosen: chosen, made: made}
}

// join is the pull that kills the grant of the id, begun after the pull of that number, or
// a new one that the caller has to make: then it is mine.
func (m *made) join(lever grant.Lever, id string, after uint64, begin func() *pull) (at *pull, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.of[lever]; at != nil && at.number > after && !at.since.Has(id) && !at.refused() {
		return at, false
	} else if at != nil {
		defer at.since.Close()
	}
	at = begin()
	m.of[lever] = at
	return at, true
}

// refused reports whether the provider has said that it never kills by that handle, which
// says nothing of another one.
func (p *pull) refused() bool {
	return closed(p.done) && errors.Is(p.err, provider.ErrCannotRevoke)
}

func (p *pulls) spares(s *grant.Summary) bool { return p.chosen != nil && p.chosen(s) }

// settleLater leaves what has died with a grant to settlePulled.
func (p *pulls) settleLater(lever grant.Lever, with died) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unsettled == nil {
		p.unsettled = map[string]map[grant.Lever]died{}
	}
	if p.unsettled[lever.Provider] == nil {
		p.unsettled[lever.Provider] = map[grant.Lever]died{}
	}
	p.unsettled[lever.Provider][lever] = with
}

func (p *pulls) anyUnsettled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.unsettled) > 0
}

func (p *pulls) takeUnsettled() map[string]map[grant.Lever]died {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.unsettled
	p.unsettled = nil
	return taken
}

func (p *pulls) bystander() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bystanders++
}

// counted is how many grants of others have died with the levers so far.
func (p *pulls) counted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bystanders
}

// recent numbers the pulls, when they begin and when they end, and remembers those of each
// lever for a while: a token that was asked for before one had ended, and recorded after it
// had begun, may be dead.
type recent struct {
	last atomic.Uint64

	mu     sync.Mutex
	of     map[grant.Lever]numbered
	pruned time.Time
}

type numbered struct {
	number  uint64
	at      time.Time
	running int
}

// pulledFor is how long a pull is remembered, longer than a request takes.
const pulledFor = 5 * time.Minute

func (p *recent) begin(lever grant.Lever, at time.Time) uint64 { return p.note(lever, at, 1) }

func (p *recent) end(lever grant.Lever, at time.Time) { p.note(lever, at, -1) }

func (p *recent) note(lever grant.Lever, at time.Time, running int) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of, p.pruned = map[grant.Lever]numbered{}, at
	}
	if at.Sub(p.pruned) > pulledFor {
		maps.DeleteFunc(p.of, func(_ grant.Lever, pull numbered) bool {
			return pull.running == 0 && at.Sub(pull.at) > pulledFor
		})
		p.pruned = at
	}
	now := numbered{p.last.Add(1), at, p.of[lever].running + running}
	p.of[lever] = now
	return now.number
}

// Pulls is the number of the last pull.
func (k *Killer) Pulls() uint64 { return k.recent.last.Load() }

// PulledSince reports whether the lever of a grant is being pulled, or was pulled after the
// pull of that number.
func (k *Killer) PulledSince(g *grant.Grant, number uint64) bool {
	if g.Lever == "" {
		return false
	}
	k.recent.mu.Lock()
	defer k.recent.mu.Unlock()
	last := k.recent.of[grant.Lever{Provider: g.Provider, Name: g.Lever}]
	return last.running > 0 || last.number > number
}
