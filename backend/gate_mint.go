package backend

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

const (
	// maxMinting is how many mints call one provider at once: what a slow provider
	// can hold of connections and memory.
	maxMinting = 256
	// maxWaiting is how many more may wait for that, so that a crowd comes through a
	// quick provider, and what a slow one holds is still bounded.
	maxWaiting = 2048
)

// place is a mint's right to call the provider. It is one goroutine's.
type place struct {
	gate   *gate
	ticket ticket
	given  bool // back
}

// waitMint waits for a mint's place: among at most maxMinting, behind every waiting
// revocation, within the rate limit. It waits no longer than patience, and refuses
// at once whom that would not suffice, or while the provider is to be left alone.
func (g *gate) waitMint(ctx context.Context, now func() time.Time, patience time.Duration) (*place, error) {
	if err := g.mayMint(now()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	served, err := g.queue(patience, cancel)
	if err != nil {
		return nil, err
	}
	defer served()
	select {
	case g.places <- struct{}{}:
	case <-ctx.Done():
		return nil, g.noPlace(now(), ctx.Err())
	}
	err = g.pace(ctx)
	if err != nil {
		err = g.noPlace(now(), err)
	}
	p := &place{gate: g}
	if err == nil {
		p.ticket, err = g.begin(now())
	}
	if err != nil {
		<-g.places
		return nil, err
	}
	return p, nil
}

// queue counts a mint that waits, until served, and has it given up if the provider
// stops answering meanwhile.
func (g *gate) queue(patience time.Duration, giveUp func()) (served func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	inTime := patience.Seconds()*float64(g.limiter.Limit()) + float64(g.limiter.Burst())
	if g.queued >= maxWaiting || float64(g.queued) > inTime {
		return nil, noRoom(errFull)
	}
	g.queued++
	stay := context.AfterFunc(g.answering, giveUp)
	return func() {
		stay()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.queued--
	}, nil
}

// pace waits for the rate limit. One mint at a time does: the limiter serves in the
// order in which it is asked, and a revocation must not stand behind all of them.
func (g *gate) pace(ctx context.Context) error {
	if g.limiter.Limit() == rate.Inf {
		return nil
	}
	select {
	case g.paced <- struct{}{}:
		defer func() { <-g.paced }()
	case <-ctx.Done():
		return ctx.Err()
	}
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

// mayMint refuses a mint while the provider is to be left alone, because it said so
// or because it does not answer.
func (g *gate) mayMint(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mayMintLocked(now)
}

func (g *gate) mayMintLocked(now time.Time) error {
	if err := g.mayCallLocked(callMint, now); err != nil {
		return err
	}
	if !g.breaker.refuses(now) {
		return nil
	}
	if g.breaker.trying {
		return fault.New(fault.TemporarilyUnavailable, "the provider is not answering: it is being tried at this moment, try again")
	}
	return fault.New(fault.TemporarilyUnavailable, "the provider is not answering: tried again at %s", g.breaker.until.UTC().Format(time.RFC3339))
}

// begin takes the breaker's leave for the call that comes now.
func (g *gate) begin(now time.Time) (ticket, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.mayMintLocked(now); err != nil {
		return ticket{}, err
	}
	t, _ := g.breaker.admit(now) // it has just not refused
	return t, nil
}

// noPlace says why a mint waited in vain.
func (g *gate) noPlace(now time.Time, err error) error {
	if why := g.mayMint(now); why != nil {
		return why
	}
	return noRoom(err)
}

// end gives the place back and notes how the call ended. It reports until when the
// provider is spared from now on, zero if it is not. After the first, a call of end
// does nothing.
func (p *place) end(o outcome, now time.Time) (restsUntil time.Time) {
	if p.given {
		return time.Time{}
	}
	p.given = true
	return p.gate.note(p.ticket, o, now)
}

// leave gives the place back of whoever did not come to call.
func (p *place) leave() { p.end(notAsked, time.Time{}) }

// note ends a call. The place of one that went unanswered is withheld until another
// call tells whether that was an accident: whoever has waited as long as the provider
// was silent must not then wait for it as long again.
func (g *gate) note(t ticket, o outcome, now time.Time) (restsUntil time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.breaker.end(t, o, now) {
		g.unanswered() // whoever waits is told at once
		g.answering, g.unanswered = context.WithCancel(context.Background())
		restsUntil = g.breaker.until
	}
	g.withheld++
	others := len(g.places) > g.withheld
	if o == unanswered && restsUntil.IsZero() && others {
		return restsUntil
	}
	for ; g.withheld > 0; g.withheld-- {
		<-g.places
	}
	return restsUntil
}

// mend lets calls through again: an operator has seen to the provider.
func (g *gate) mend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.breaker.mend()
}

// gateState is a gate as operators see it.
type gateState struct {
	waiting, minting int       // mints
	restsUntil       time.Time // zero while the provider is not known to be down
}

func (g *gate) state() gateState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return gateState{waiting: g.queued, minting: len(g.places) - g.withheld, restsUntil: g.breaker.until}
}
