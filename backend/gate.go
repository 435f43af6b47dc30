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

// gate paces the calls to one provider: its rate limit, with revocations before
// mints, and the turn in which its parent credential may change.
type gate struct {
	limiter *rate.Limiter
	turns   chan struct{}

	mu       sync.Mutex
	until    time.Time // what the provider asked to be left alone until
	revoking int
	idle     chan struct{} // closed while nobody waits to revoke
}

func newGate() *gate {
	g := &gate{limiter: rate.NewLimiter(rate.Inf, 1), turns: make(chan struct{}, 1), idle: make(chan struct{})}
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

// waitMint waits for a call's place behind every waiting revocation.
func (g *gate) waitMint(ctx context.Context, now time.Time) error {
	if err := g.mayCall(now); err != nil {
		return err
	}
	for {
		g.mu.Lock()
		idle := g.idle
		g.mu.Unlock()
		select {
		case <-idle:
			return noRoom(g.limiter.Wait(ctx))
		case <-ctx.Done():
			return noRoom(ctx.Err())
		}
	}
}

func noRoom(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.TemporarilyUnavailable, "the provider's rate_limit leaves no room in time: try again").Because(err)
}

// heed notes that the provider asked to wait (Retry-After, RFC 9110 10.2.3).
func (g *gate) heed(now time.Time, err error) {
	if wait := askedToWait(err); wait > 0 {
		g.mu.Lock()
		g.until = now.Add(wait)
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
func (g *gate) mayCall(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if left := g.until.Sub(now); left > 0 {
		return fault.New(fault.TemporarilyUnavailable, "the provider asked to be left alone for %s more: try again then", left.Round(time.Second))
	}
	return nil
}

// waitRevoke waits for a call's place; mints that come later wait behind it.
func (g *gate) waitRevoke(ctx context.Context, now time.Time) error {
	if err := g.mayCall(now); err != nil {
		return err
	}
	if g.limiter.Limit() == rate.Inf {
		return nil
	}
	g.mu.Lock()
	g.revoking++
	if g.revoking == 1 {
		g.idle = make(chan struct{})
	}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.revoking--
		if g.revoking == 0 {
			close(g.idle)
		}
	}()
	return noRoom(g.limiter.Wait(ctx))
}

// turn waits until nobody else changes the parent credential.
func (g *gate) turn(ctx context.Context) (release func(), err error) {
	select {
	case g.turns <- struct{}{}:
		return func() { <-g.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
