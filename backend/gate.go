package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// maxRevoking is how many revocations run at once towards one provider: Vault
// alone sends up to 180, and an outage's end lets everything loose together.
const maxRevoking = 64

// gate paces the calls to one provider: its rate limit, with revocations before
// mints; how many there are at once, with revocations in slots of their own; the
// pause that it asked for, and that which its silence asks for; and the turn in which
// its parent credential may change.
type gate struct {
	limiter *rate.Limiter
	slots   chan struct{} // of revocations
	places  chan struct{} // of mints
	paced   chan struct{} // the one mint that waits for the limiter
	turns   chan struct{}

	mu      sync.Mutex
	breaker breaker // of mints alone: a revocation is always tried
	// answering ends, by unanswered, when the breaker opens.
	answering  context.Context
	unanswered context.CancelFunc
	queued     int // mints that wait for a place
	withheld   int // places that nobody has and nobody gets yet
	// pauses are until when the provider asked to be left alone, by what it was
	// asked then: a token endpoint under load must not hold up revocations.
	pauses  map[string]time.Time
	minting int           // mints under way, until their children are recorded or killed
	closed  bool          // to mints, by alone
	waiting int           // revocations that wait for the limiter
	idle    chan struct{} // closed while none does
}

// maxRevokePause bounds how long a provider can make its tokens unkillable by
// asking to be left alone; after it, the next kill tries again.
const maxRevokePause = time.Minute

// The calls that are paced and measured.
const (
	callMint   = "mint"
	callRevoke = "revoke"
)

func newGate() *gate {
	g := &gate{
		limiter: rate.NewLimiter(rate.Inf, 1),
		slots:   make(chan struct{}, maxRevoking), places: make(chan struct{}, maxMinting),
		paced: make(chan struct{}, 1), turns: make(chan struct{}, 1),
		pauses: map[string]time.Time{}, idle: make(chan struct{}), breaker: newBreaker(),
	}
	g.answering, g.unanswered = context.WithCancel(context.Background())
	close(g.idle)
	return g
}

// setLimit sets the requests per second; zero is unlimited.
func (g *gate) setLimit(perSecond float64) {
	limit := rate.Limit(perSecond)
	if perSecond <= 0 {
		limit = rate.Inf
	}
	if g.limiter.Limit() != limit {
		g.limiter.SetLimit(limit)
		g.limiter.SetBurst(max(1, int(perSecond)))
	}
}

// heed notes that the provider asked to wait (Retry-After, RFC 9110 10.2.3).
func (g *gate) heed(call string, now time.Time, err error) {
	if wait := askedToWait(err); wait > 0 {
		g.mu.Lock()
		if call == callRevoke {
			wait = min(wait, maxRevokePause)
		}
		g.pauses[call] = now.Add(wait)
		g.mu.Unlock()
	}
}

// askedToWait is the Retry-After in err's chain, or zero.
func askedToWait(err error) time.Duration {
	var later provider.RetryLater
	if errors.As(err, &later) {
		return later.RetryAfter()
	}
	return 0
}

// mayCall refuses a call before the time that the provider asked for.
func (g *gate) mayCall(call string, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mayCallLocked(call, now)
}

func (g *gate) mayCallLocked(call string, now time.Time) error {
	if left := g.pauses[call].Sub(now); left > 0 {
		return fault.New(fault.TemporarilyUnavailable, "the provider asked to be left alone for %s more: try again then", left.Round(time.Second))
	}
	return nil
}

// errFull is the cause where nobody has waited in vain yet.
var errFull = errors.New("as many wait as may, or as the rate limit lets through in time")

func noRoom(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.TemporarilyUnavailable, "there is no room in time for another call to the provider: try again").Because(err)
}

// waitRevoke waits for a call's place; mints that come later wait behind it. The
// place is given back by done.
func (g *gate) waitRevoke(ctx context.Context, now time.Time) (done func(), err error) {
	if err := g.mayCall(callRevoke, now); err != nil {
		return nil, err
	}
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, noRoom(ctx.Err())
	}
	done = func() { <-g.slots }
	if g.limiter.Limit() == rate.Inf {
		return done, nil
	}
	g.announce(1)
	defer g.announce(-1)
	if err := g.limiter.Wait(ctx); err != nil {
		done()
		return nil, noRoom(err)
	}
	return done, nil
}

// announce counts the revocations that wait, and lets mints through when none does.
func (g *gate) announce(delta int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.waiting
	g.waiting += delta
	switch {
	case before == 0:
		g.idle = make(chan struct{})
	case g.waiting == 0:
		close(g.idle)
	}
}

// enter lets a mint begin; ok is false while alone holds. leave ends it, once its
// child is recorded or killed.
func (g *gate) enter() (leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, false
	}
	g.minting++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.minting--
	}, true
}

// alone keeps mints out until done; ok is false if one is under way. It is for
// changes after which a child could not be killed any more, and never waits.
func (g *gate) alone() (done func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.minting > 0 {
		return nil, false
	}
	g.closed = true
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closed = false
	}, true
}

// turn waits until nobody else changes the parent credential, no longer than
// patience: behind a provider that does not answer, each one before us takes that
// long.
func (g *gate) turn(ctx context.Context, patience time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case g.turns <- struct{}{}:
		return func() { <-g.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
