package downstream

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const (
	// MaxMinting is how many mints call one provider at once: what a slow provider
	// can hold of connections and memory.
	MaxMinting = 256
	// maxWaiting is how many more may wait for that, so that a crowd comes through a
	// quick provider, and what a slow one holds is still bounded.
	maxWaiting = 2048
)

// Place is a mint's right to call the provider. It is one goroutine's.
type Place struct {
	gate    *gate
	attempt attempt
	given   bool // back
}

// waitMint waits for a mint's place: among at most MaxMinting, behind every waiting
// revocation, within the rate limit. It waits no longer than patience, and refuses
// at once whom that would not suffice, or while the provider is to be left alone.
func (g *gate) waitMint(ctx context.Context, now func() time.Time, patience time.Duration, k Kind) (*Place, error) {
	limited := g.limiter.Limit() != rate.Inf
	w, err := g.ask(now(), patience, k, limited)
	if err != nil {
		return nil, err
	}
	if w != nil {
		if err := g.wait(ctx, now, patience, w, limited); err != nil {
			return nil, err
		}
	}
	p := &Place{gate: g}
	if p.attempt, err = g.begin(k, now()); err != nil {
		g.places.step(&g.mu, k)
		return nil, err
	}
	return p, nil
}

// ask takes a place at once if it may, and returns no waiter then. Else it joins those who
// wait, if the sharer may have one more among them.
func (g *gate) ask(now time.Time, patience time.Duration, k Kind, limited bool) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.mayMintLocked(k, now); err != nil {
		return nil, err
	}
	p := k.sharer()
	if !limited && g.places.enter(p) {
		return nil, nil
	}
	before := g.queued[p]
	if !mayTake(before, maxWaiting-g.waiters) {
		return nil, noRoom(errFull)
	}
	// The sharers take turns: before each mint of this one that waits already, one of every
	// other sharer goes.
	inTime := patience.Seconds()*float64(g.limiter.Limit()) + float64(g.limiter.Burst())
	if before > 0 && float64(before*len(g.queued)) > inTime {
		return nil, noRoom(errFull)
	}
	g.queued[p]++
	g.waiters++
	return g.places.join(k), nil
}

// wait is for a place, and for the rate limit.
func (g *gate) wait(ctx context.Context, now func() time.Time, patience time.Duration, w *waiter, limited bool) error {
	defer g.served(w.kind.sharer())
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.places.stand(ctx, &g.mu, w); err != nil {
		return g.noPlace(w.kind, now(), err)
	}
	if !limited {
		return nil
	}
	if err := g.pace(ctx, w.kind); err != nil {
		g.places.step(&g.mu, w.kind)
		return g.noPlace(w.kind, now(), err)
	}
	return nil
}

func (g *gate) served(p sharer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiters--
	if g.queued[p]--; g.queued[p] == 0 {
		delete(g.queued, p)
	}
}

// pace waits for the rate limit, if there is one. One mint at a time does: the limiter serves in the
// order in which it is asked, and a revocation must not stand behind all of them.
func (g *gate) pace(ctx context.Context, k Kind) error {
	if g.limiter.Limit() == rate.Inf {
		return nil
	}
	g.mu.Lock()
	w := g.paced.join(k)
	g.mu.Unlock()
	if err := g.paced.stand(ctx, &g.mu, w); err != nil {
		return err
	}
	defer g.paced.step(&g.mu, k)
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

// mayMint refuses a mint while the provider is to be left alone with its kind, because
// it said so or because it does not answer.
func (g *gate) mayMint(k Kind, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mayMintLocked(k, now)
}

func (g *gate) mayMintLocked(k Kind, now time.Time) error {
	if now.Before(g.refusal.until) && needsParent(k) {
		return g.refusal.why
	}
	if g.moot.holds(k, now) {
		return g.moot.why
	}
	if g.spared.holds(k, now) {
		return g.spared.why
	}
	if g.busy.holds(k, now) {
		return paused(g.busy.until, now)
	}
	switch until, trying := g.breaker.rest(k); {
	case trying:
		return fault.New(fault.TemporarilyUnavailable, "the provider is not answering: it is being tried at this moment, try again")
	case now.Before(until):
		return fault.New(fault.TemporarilyUnavailable, "the provider is not answering: it is tried again %s", When(until, now))
	}
	return nil
}

// begin takes the breaker's leave for the call that comes now.
func (g *gate) begin(k Kind, now time.Time) (attempt, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.mayMintLocked(k, now); err != nil {
		return attempt{}, err
	}
	g.refusal.tryAgain(k, now)
	t, _ := g.breaker.admit(k, now) // it has just not refused
	return t, nil
}

// noPlace says why a mint waited in vain.
func (g *gate) noPlace(k Kind, now time.Time, err error) error {
	if why := g.mayMint(k, now); why != nil {
		return why
	}
	return noRoom(err)
}

// end gives the place back and notes how the call ended. It reports until when the
// provider is spared from now on, zero if it is not. After the first, a call of end
// does nothing.
func (p *Place) end(o outcome, now time.Time) (restsUntil time.Time) {
	if p.given {
		return time.Time{}
	}
	p.given = true
	return p.gate.note(p.attempt, o, now)
}

// Leave gives the place back of whoever did not come to call.
func (p *Place) Leave() { p.end(notAsked, time.Time{}) }

// note ends a call. The place of one that went unanswered is withheld until another
// call tells whether that was an accident: whoever has waited as long as the provider
// was silent must not then wait for it as long again.
func (g *gate) note(t attempt, o outcome, now time.Time) (restsUntil time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.breaker.end(t, o, now) {
		restsUntil, _ = g.breaker.rest(t.kind)
		// Whoever waits is told at once.
		g.places.dismiss(func(k Kind) error { return g.mayMintLocked(k, now) })
	}
	g.withheld = append(g.withheld, t.kind.sharer())
	others := g.places.inside > len(g.withheld)
	if o == unanswered && restsUntil.IsZero() && others {
		return restsUntil
	}
	for _, p := range g.withheld {
		g.places.leave(p)
	}
	g.withheld = g.withheld[:0]
	return restsUntil
}

// mend lets calls through again: an operator has seen to the provider.
func (g *gate) mend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.breaker.mend()
	g.busy, g.moot, g.spared, g.refusal, g.revokePause = belief{}, belief{}, belief{}, refusal{}, time.Time{}
}

// State is what goes on in front of a provider, as operators see it.
type State struct {
	Waiting, Minting int       // mints
	RestsUntil       time.Time // zero while the provider is not known to be down
	Limited          string    // what is not asked for now, beside that; "" for nothing
	// Overdue is nil unless a rotation on schedule has failed.
	Overdue *Overdue
}

func (g *gate) state(now time.Time) State {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := State{Waiting: g.waiters, Minting: g.places.inside - len(g.withheld)}
	b := &g.breaker
	switch {
	case b.open() && b.scope.isWide():
		s.RestsUntil = b.until
	case b.open():
		s.Limited = fmt.Sprintf("%s fail at the provider: it is asked again %s", b.scope, When(b.again, now))
	case now.Before(g.busy.until):
		s.Limited = fmt.Sprintf("the provider asked to be left alone: %s are made again %s", g.busy.scope(), When(g.busy.until, now))
	case now.Before(g.spared.until):
		s.Limited = fmt.Sprintf("%s are made again %s: %s", g.spared.scope(), When(g.spared.until, now), fault.Public(g.spared.why))
	case now.Before(g.moot.until):
		s.Limited = fmt.Sprintf("%s are made again %s: %s", g.moot.scope(), When(g.moot.until, now), fault.Public(g.moot.why))
	}
	return s
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// When says of a moment also how far off it is, so that nobody has to know what time it
// is there.
func When(t, now time.Time) string {
	left := t.Sub(now)
	if left <= 0 {
		return "with the next request"
	}
	return fmt.Sprintf("in %s, at %s", stored.InWords(max(left.Round(time.Second), time.Second)), stamp(t))
}
