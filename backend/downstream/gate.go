package downstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// maxRevoking is how many revocations run at once towards one provider: Vault
// alone sends up to 180, and an outage's end lets everything loose together.
const maxRevoking = 64

// gate paces the calls to one provider: its rate limit, with revocations before
// mints; how many there are at once, with revocations in slots of their own and mints
// in places that all callers share; the pause that it asked for, and that which its
// silence asks for.
type gate struct {
	limiter *rate.Limiter
	slots   chan struct{} // of revocations

	mu      sync.Mutex
	breaker breaker // of mints alone: a revocation is always tried
	places  line    // of mints
	paced   line    // for the one mint that waits for the limiter
	queued  map[sharer]int
	// waiters is the sum of queued: mints that wait for a place or for the limiter.
	waiters int
	// withheld are the places of mints that ended without an answer, by whose they were:
	// they are free, and given to nobody until another call tells whether the provider is
	// down (see note).
	withheld []sharer
	// busy says which kinds of mints wait because the provider asked for it (Retry-After),
	// moot which are not worth making because they would end in the same known error.
	// revokePause is until when it asked revocations to wait; it is apart from busy,
	// because a token endpoint under load must not hold them up.
	busy, moot belief
	// spared are requests that were refused as the parent's, which works.
	spared      belief
	refusal     refusal
	revokePause time.Time
	waiting     int           // revocations that wait for the limiter
	idle        chan struct{} // closed while none does
}

// Bounds on what a provider can make us believe.
const (
	// MaxPause bounds how long a Retry-After is heeded: nobody can make a provider's tokens
	// unkillable, or stop its mints, for longer.
	MaxPause = time.Minute
	// MaxMoot is for an answer that is not worth asking for again.
	MaxMoot = time.Hour
)

func newGate() *gate {
	g := &gate{
		limiter: rate.NewLimiter(rate.Inf, 1), slots: make(chan struct{}, maxRevoking),
		places: newLine(MaxMinting), paced: newLine(1), queued: map[sharer]int{},
		idle: make(chan struct{}), breaker: newBreaker(),
	}
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

// heedMint notes what the end of a mint says of others of its kind: that the provider
// asked to wait (Retry-After, RFC 9110 10.2.3), or that they would end in the same way.
func (g *gate) heedMint(k Kind, now time.Time, err error) {
	if err == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if wait := AskedToWait(err); wait > 0 {
		g.busy.learn(k, fewBusy, nil, now, now.Add(wait))
	}
	var lasts provider.Lasting
	if errors.As(err, &lasts) {
		g.moot.learn(k, fewMoot, err, now, now.Add(min(lasts.LastsFor(), MaxMoot)))
	}
}

// heedRevoke is heedMint for a revocation.
func (g *gate) heedRevoke(now time.Time, err error) {
	if wait := AskedToWait(err); wait > 0 {
		g.mu.Lock()
		g.revokePause = now.Add(wait)
		g.mu.Unlock()
	}
}

// AskedToWait is the Retry-After in err's chain as far as it is heeded, or zero.
func AskedToWait(err error) time.Duration {
	var later provider.RetryLater
	if errors.As(err, &later) {
		return min(later.RetryAfter(), MaxPause)
	}
	return 0
}

// mayRevoke refuses a revocation before the time that the provider asked for.
func (g *gate) mayRevoke(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return paused(g.revokePause, now)
}

// paused refuses a call before the time until which the provider asked to wait.
func paused(until, now time.Time) error {
	if left := until.Sub(now); left > 0 {
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
	if err := g.mayRevoke(now); err != nil {
		return nil, err
	}
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, noRoom(ctx.Err())
	}
	done = func() { <-g.slots }
	if err := g.waitFurther(ctx); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// waitFurther waits for the rate limit before mints that have not begun: for revocations,
// and for each further request of any call, which would otherwise have been begun for
// nothing.
func (g *gate) waitFurther(ctx context.Context) error {
	if g.limiter.Limit() == rate.Inf {
		return nil
	}
	g.announce(1)
	defer g.announce(-1)
	return noRoom(g.limiter.Wait(ctx))
}

// withPace makes the requests under ctx keep to the rate limit, of which the first has had
// its turn.
func (g *gate) withPace(ctx context.Context) context.Context {
	if g.limiter.Limit() == rate.Inf {
		return ctx
	}
	return httpclient.Pace(ctx, g.waitFurther)
}

// announce counts what waits before the mints, and lets mints through when none does.
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

// kindKey finds the kind of the mint that a provider works at.
type kindKey struct{}

func withKind(ctx context.Context, k Kind) context.Context {
	return context.WithValue(ctx, kindKey{}, k)
}

// kindIn is zero for what an operator does.
func kindIn(ctx context.Context) Kind {
	k, _ := ctx.Value(kindKey{}).(Kind)
	return k
}
