package ending

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// Run is a kill of many that goes on whether or not somebody waits for it.
type Run struct {
	done  chan struct{}
	now   func() time.Time
	pulls *pulls
	// record is the id of the kill's record, "" if it has none.
	record string

	mu       sync.Mutex
	count    Tally
	expired  int // of count, those that were merely forgotten
	expected int // how many there may be, before all are found
	found    int
	walked   bool // all are found
	// exposed is until when any token that was found may still be accepted somewhere, left
	// the same of those that were tried and may be all the same.
	exposed, left exposure
	// unrecorded is true if a failure is not in the outbox, failed why not all could
	// be found; to be read when done.
	unrecorded bool
	failed     error
}

// tally is the count so far; what was not tried yet counts as pending. Before all
// are found, the residual exposure is the longest that there can be.
func (r *Run) tally() Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.count
	t.Bystanders = r.pulls.counted()
	t.Pending = r.found - t.Revoked - t.ExpiryOnly
	t.Residual = r.left.from(r.now())
	switch {
	case !r.walked:
		// Nobody knows yet what else there is: more than too little.
		t.Pending = max(1, t.Pending, r.expected-t.Revoked-t.ExpiryOnly)
		t.Residual = max(endless, r.exposed.from(r.now()))
	case !closed(r.done):
		t.Residual = r.exposed.from(r.now())
	}
	return t
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Wait returns the count when the run is done, or when it has taken too long or
// ctx has ended; complete says which.
func (r *Run) Wait(ctx context.Context, atMost time.Duration) (t Tally, complete bool) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-r.done:
		return r.tally(), true
	case <-timer.C:
	case <-ctx.Done():
	}
	return r.tally(), false
}

// Record is the name of the kill's record; "" if it leaves none.
func (r *Run) Record() string { return r.record }

// Failed is why not all that was meant could be found; to be asked when the run is done.
func (r *Run) Failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *Run) expect(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected = n
}

func (r *Run) find(s *grant.Summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found++
	r.exposed.add(s)
}

// drop takes back one that was found, and was not to be killed.
func (r *Run) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found--
	r.expected = max(0, r.expected-1)
}

func (r *Run) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.walked, r.failed = true, err
}

// settle notes what became of one grant.
func (r *Run) settle(t target, failed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unrecorded = r.unrecorded || errors.Is(failed, errUnrecorded)
	if failed != nil || t.SelfContained || !t.Revocable {
		r.left.add(&t.Summary)
	}
	switch {
	case failed != nil:
		return
	case t.Revocable:
		r.count.Revoked++
	default:
		r.count.ExpiryOnly++
	}
	if t.cause == causeExpired {
		r.expired++
	}
}

// forgotten is how many had expired and were merely forgotten.
func (r *Run) forgotten() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.expired
}

// exposure is until when one of some tokens may be accepted somewhere.
type exposure struct {
	until   time.Time
	endless bool // the end of one is not known
}

func (e *exposure) add(s *grant.Summary) {
	e.endless = e.endless || s.ExpiresAt.IsZero()
	if s.ExpiresAt.After(e.until) {
		e.until = s.ExpiresAt
	}
}

// endless stands in the exposure for a token whose end nobody knows: no provider
// is believed a longer one.
const endless = 10 * 365 * 24 * time.Hour

func (e exposure) from(now time.Time) time.Duration {
	if e.endless {
		return max(endless, e.until.Sub(now))
	}
	return max(0, e.until.Sub(now))
}

// Tally counts what a kill of many did.
type Tally struct {
	Revoked, Pending, ExpiryOnly int
	// Bystanders are grants that the kill did not mean and that have died with a lever.
	Bystanders int
	// Residual is for how long one of these tokens may still be accepted
	// somewhere: because nothing can kill it, because it is verified offline, or
	// because its kill is still pending.
	Residual time.Duration
}
