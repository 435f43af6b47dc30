package downstream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// site is what the registry keeps of a provider however often it is opened anew, by its
// ref: the gate before it, who is minting at it, whose turn its parent credential is, and
// what it has given of late.
type site struct {
	gate *gate
	// limited is the opening whose rate limit the gate has.
	limited atomic.Uint64
	given   *given
	// rotations are those on schedule.
	rotations attempts
	looks     looks

	mu      sync.Mutex
	minting int  // mints under way, until their children are recorded or killed
	closed  bool // to mints, by keepMintsOut
	turns   line // for the parent
	upkeeps line // of checks and rotations
}

func newSite() *site {
	return &site{gate: newGate(), turns: newLine(1), upkeeps: newLine(1), given: newGiven()}
}

// take has the settings of a provider hold from now on. It is called when one comes into
// use, so that one which was opened and never used changes nothing.
func (s *site) take(p *Provider) {
	if s.limited.Load() == p.Opening {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limited.Store(p.Opening)
	s.gate.setLimit(p.Settings.RateLimit)
}

// state is what operators see of it.
func (s *site) state(now time.Time) State {
	state := s.gate.state(now)
	state.Overdue = s.rotations.overdue()
	return state
}

// enter lets a mint begin; ok is false while mints are kept out. leave ends it, once its
// child is recorded or killed.
func (s *site) enter() (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.minting++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.minting--
	}, true
}

// keepMintsOut lets no mint begin until done; ok is false if one is under way. It is for
// changes after which a child could not be killed any more, and never waits.
func (s *site) keepMintsOut() (done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.minting > 0 {
		return nil, false
	}
	s.closed = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = false
	}, true
}

// turn waits for the right to change the parent credential, which one mint has at a time,
// but no longer than patience: where the provider does not answer, each one ahead takes
// that long. The sharers take turns here, too.
func (s *site) turn(ctx context.Context, patience time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	k := kindIn(ctx)
	s.mu.Lock()
	w := s.turns.join(k)
	s.mu.Unlock()
	if err := s.turns.stand(ctx, &s.mu, w); err != nil {
		return nil, err
	}
	return func() { s.turns.step(&s.mu, k) }, nil
}
