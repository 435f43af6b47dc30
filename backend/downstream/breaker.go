package downstream

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

const (
	// MaxFailures is how many calls in a row may fail before the provider is spared:
	// one is an accident.
	MaxFailures = 5
	// ShortestRest is for how long a provider that has failed is not asked; twice as long
	// after each trial that fails.
	ShortestRest = time.Second
	// LongestRest is as long as that becomes.
	LongestRest = 30 * time.Second
	// maxMet bounds of how many sharers the breaker remembers that they have failed. Beyond
	// it the first one is forgotten, and counts as one that has not.
	maxMet = 8
)

// outcome is what a call tells of whether its provider answers.
type outcome int

const (
	notAsked   outcome = iota // nothing: the call failed before anything was sent
	answered                  // whatever the answer was
	failed                    // a 5xx: somebody is there, and perhaps it is the request
	unanswered                // no connection, or no answer in time
)

// outcomeOf is what a mint's exchanges and its end tell of whether the provider
// answers. It is learnt at the transport, so that it holds for every type alike, and a
// request that failed before anything was sent cannot pass for an answer.
func outcomeOf(t *httpclient.Tally, err error) outcome {
	switch {
	case err == nil:
		return answered
	case t.Unanswered():
		return unanswered
	case t.Failed():
		return failed
	case t.Answered():
		return answered
	}
	return notAsked
}

// breaker is the circuit breaker of one provider's mints: after MaxFailures calls in
// a row that failed it refuses more of them, for a while; then it lets one through,
// whose answer ends that, and whose failure makes the next while twice as long.
//
// It refuses the least scope that covers what has failed, since a server may fail at a
// request that another would not make; if the transport has failed each time it
// refuses everything, since the transport is everybody's. Whoever has not failed yet
// need not wait for those who have: each of the two gets its trial, and a failure of
// the one who goes on trying takes it from nobody else, under several names neither.
//
// It is a state machine without a clock, a lock or a call of its own. That, the while
// that grows, and the scope, is what github.com/sony/gobreaker v2 does not have.
type breaker struct {
	// What has failed in a row, among what is let through freely.
	row      int
	silent   int // of row, those that got no answer at all
	rowScope scope
	rowMet   []scope

	isOpen bool
	scope  scope // for what it is open
	rests  int   // in a row
	// met is who has met the failure, one scope for each sharer. These rest until again,
	// the others within scope until until: each of the two gets trials of its own.
	met          []scope
	until, again time.Time
	// trying is that a trial of the others is under way, tryingAgain one of those who have
	// met the failure.
	trying, tryingAgain bool
	// epoch counts openings and closings. A call that began before the last of these and
	// fails is not counted: what it met is known by now.
	epoch uint64
	// spread makes a rest shorter by chance, so that not all nodes try at once.
	spread func(time.Duration) time.Duration
}

func newBreaker() breaker {
	return breaker{spread: func(d time.Duration) time.Duration {
		return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
	}}
}

// attempt is the right to one call, to be given to end once.
type attempt struct {
	kind  Kind
	epoch uint64
	trial bool // it is one of the calls that are let through after a rest
	again bool // as one of those who have met the failure
}

// open reports whether the last that is known is that the provider does not answer
// everybody.
func (b *breaker) open() bool { return b.isOpen }

// rest is until when requests of the kind rest, and whether one of them is on trial;
// zero if they are free.
func (b *breaker) rest(k Kind) (until time.Time, trying bool) {
	switch {
	case !b.isOpen || !b.scope.covers(k):
		return time.Time{}, false
	case b.hasMet(k):
		return b.again, b.tryingAgain
	default:
		return b.until, b.trying
	}
}

// refuses reports whether admit would refuse a call.
func (b *breaker) refuses(k Kind, now time.Time) bool {
	until, trying := b.rest(k)
	return trying || now.Before(until)
}

// admit lets a call be made.
func (b *breaker) admit(k Kind, now time.Time) (t attempt, ok bool) {
	if b.refuses(k, now) {
		return attempt{}, false
	}
	t = attempt{kind: k, epoch: b.epoch}
	if b.isOpen && b.scope.covers(k) {
		t.trial, t.again = true, b.hasMet(k)
		*b.flag(t) = true
	}
	return t, true
}

// flag is the one that the trial has raised.
func (b *breaker) flag(t attempt) *bool {
	if t.again {
		return &b.tryingAgain
	}
	return &b.trying
}

// end notes how a call ended, and reports whether a rest began with it.
func (b *breaker) end(t attempt, o outcome, now time.Time) (rests bool) {
	current := t.epoch == b.epoch
	switch {
	case o == answered && (!b.isOpen || b.scope.covers(t.kind)): // also the answer to an older call is one
		b.mend()
	case o == answered:
		b.row, b.silent = 0, 0
	case !current:
	case t.trial:
		*b.flag(t) = false
		if o != notAsked { // else somebody else may try
			b.prolong(t, now)
			return true
		}
	case o != notAsked:
		return b.count(t.kind, o, now)
	}
	return false
}

// hasMet reports whether such a request has failed.
func (b *breaker) hasMet(k Kind) bool {
	return slices.ContainsFunc(b.met, func(s scope) bool { return s.covers(k) })
}

// meet adds a request that has failed to those of its sharer, in a copy.
func meet(met []scope, s scope) []scope {
	met = slices.Clone(met)
	own := func(o scope) bool { return o.sharer() == s.sharer() }
	if i := slices.IndexFunc(met, own); i >= 0 {
		met[i] = met[i].with(s)
		return met
	}
	return append(met[max(0, len(met)+1-maxMet):], s)
}

// prolong is after a trial that failed. A failure of one who has failed before says
// nothing to the others; of another one it says that they had better wait, the longer the
// more have failed. Also where many have failed before, whoever took their trial must not
// take the next one from them, or one caller whose requests always fail would make an
// outage last: from now on they are the others to that one.
func (b *breaker) prolong(t attempt, now time.Time) {
	b.rests++
	b.again = now.Add(b.length())
	switch {
	case !t.again:
		b.met = meet(b.met, just(t.kind))
	case len(b.met) > 1:
		b.met = []scope{allOf(t.kind.sharer())}
	default:
		return
	}
	b.until = now.Add(b.spread(min(ShortestRest<<max(0, len(b.met)-2), LongestRest)))
}

// count is a failure of a call that was let through freely.
func (b *breaker) count(k Kind, o outcome, now time.Time) (rests bool) {
	if b.row == 0 {
		b.rowScope, b.rowMet = just(k), nil
	}
	b.rowScope, b.rowMet = b.rowScope.with(just(k)), meet(b.rowMet, just(k))
	b.row++
	if o == unanswered {
		b.silent++
	}
	if b.row < MaxFailures {
		return false
	}
	reach, met := b.rowScope, b.rowMet
	if b.silent >= MaxFailures {
		reach = everything
	}
	if b.isOpen { // for others, who had failed before
		reach = reach.with(b.scope)
		for _, s := range b.met {
			met = meet(met, s)
		}
	}
	b.scope, b.met, b.isOpen = reach, met, true
	b.rests++
	b.until = now.Add(b.length())
	b.again = b.until
	b.row, b.silent, b.trying, b.tryingAgain = 0, 0, false, false
	b.epoch++
	return true
}

// length is how long the next rest is.
func (b *breaker) length() time.Duration {
	// Sixteen doublings are beyond any bound and far from an overflow.
	return b.spread(min(ShortestRest<<min(b.rests-1, 16), LongestRest))
}

// mend closes the breaker.
func (b *breaker) mend() {
	if b.isOpen {
		b.epoch++
	}
	*b = breaker{epoch: b.epoch, spread: b.spread}
}
