package backend

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

const (
	// maxFailures is how many calls in a row may go unanswered before the provider
	// is spared: one is an accident.
	maxFailures = 5
	// A provider is spared for a while that doubles from the first to the second.
	shortestRest = time.Second
	longestRest  = 30 * time.Second
)

// outcome is what a call tells of whether its provider answers.
type outcome int

const (
	notAsked   outcome = iota // nothing: the call failed before anything was sent
	answered                  // whatever the answer was
	unanswered                // no connection, no answer in time, or a 5xx
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
	case t.Answered():
		return answered
	}
	return notAsked
}

// breaker is the circuit breaker of one provider's mints: after maxFailures calls in
// a row without an answer it refuses all, for a while; then it lets one through, whose
// answer ends that, and whose failure makes the next while twice as long.
//
// It is a state machine without a clock, a lock or a call of its own. That, and the
// while that grows, is what github.com/sony/gobreaker v2 does not have: it reads
// time.Now, and its open state always lasts as long.
type breaker struct {
	failures int       // in a row, while closed
	rests    int       // in a row
	until    time.Time // the end of the present rest; zero while closed
	trying   bool      // one call was let through after the rest and has not ended
	// epoch counts the changes of state. A failure of a call from before the last one
	// says nothing new: its provider was as dead then as was found since.
	epoch uint64
	// spread makes a rest shorter by chance, so that not all nodes try at once.
	spread func(time.Duration) time.Duration
}

func newBreaker() breaker {
	return breaker{spread: func(d time.Duration) time.Duration {
		return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
	}}
}

// ticket is the right to one call, to be given to end once.
type ticket struct {
	epoch uint64
	trial bool // it is the one call that is let through after a rest
}

// open reports whether the last that is known is that the provider does not answer.
func (b *breaker) open() bool { return !b.until.IsZero() }

// refuses reports whether admit would refuse a call.
func (b *breaker) refuses(now time.Time) bool {
	return b.open() && (b.trying || now.Before(b.until))
}

// admit lets a call be made.
func (b *breaker) admit(now time.Time) (t ticket, ok bool) {
	if b.refuses(now) {
		return ticket{}, false
	}
	b.trying = b.open()
	return ticket{epoch: b.epoch, trial: b.trying}, true
}

// end notes how a call ended, and reports whether a rest began with it.
func (b *breaker) end(t ticket, o outcome, now time.Time) (rests bool) {
	current := t.epoch == b.epoch
	switch {
	case o == answered: // also the answer to an older call is one
		b.mend()
	case !current:
	case o == notAsked:
		b.trying = b.trying && !t.trial // somebody else may try
	case t.trial:
		return b.rest(now)
	default:
		b.failures++
		return b.failures >= maxFailures && b.rest(now)
	}
	return false
}

func (b *breaker) rest(now time.Time) bool {
	b.rests++
	// Sixteen doublings are beyond any bound and far from an overflow.
	length := min(shortestRest<<min(b.rests-1, 16), longestRest)
	b.until = now.Add(b.spread(length))
	b.failures, b.trying = 0, false
	b.epoch++
	return true
}

// mend closes the breaker.
func (b *breaker) mend() {
	if b.open() {
		b.epoch++
	}
	b.failures, b.rests, b.until, b.trying = 0, 0, time.Time{}, false
}
