package backend

import (
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// gate paces the calls to one provider: its rate limit, with revocations before
// mints, and the turn in which its parent credential may change.
type gate struct {
	limiter *rate.Limiter
	turns   chan struct{}

	mu       sync.Mutex
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
func (g *gate) waitMint(ctx context.Context) error {
	for {
		g.mu.Lock()
		idle := g.idle
		g.mu.Unlock()
		select {
		case <-idle:
			return g.limiter.Wait(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waitRevoke waits for a call's place; mints that come later wait behind it.
func (g *gate) waitRevoke(ctx context.Context) error {
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
	return g.limiter.Wait(ctx)
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
