package ending

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// Bounds of one kill of many, towards each provider.
const (
	// killParallel is how many revocations of one kill run at once.
	killParallel = 32
	// maxQueued is how many grants one kill reads ahead of its revocations.
	maxQueued = 5000
)

// Run is a kill of many that goes on whether or not somebody waits for it.
type Run struct {
	done chan struct{}
	now  func() time.Time

	mu       sync.Mutex
	count    Tally
	expired  int // of count, those that were merely forgotten
	expected int // how many there may be, before all are found
	found    int
	walked   bool // all are found
	// exposed is until when one that was found may be accepted somewhere, left until
	// when one that was tried may be.
	exposed, left exposure
	// unrecorded is true if a failure is not in the outbox, failed why not all could
	// be found; to be read when done.
	unrecorded bool
	failed     error
}

// tally is the count so far; what was not tried yet counts as p Before all
// are found, the residual exposure is the longest that there can be.
func (r *Run) tally() Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.count
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

// startKill kills the grants of a source, a bounded number at a time of each
// provider: one that is slow or dead does not hold up the kills at the others, as
// long as it does not have very many of them.
func (k *Killer) startKill(ctx context.Context, from source) *Run {
	ctx = context.WithoutCancel(ctx)
	run := &Run{done: make(chan struct{}), now: k.now}
	go func() {
		defer close(run.done)
		queues := map[string]chan target{}
		var all sync.WaitGroup
		err := from(ctx, run.expect, func(t target) {
			run.find(&t.Summary)
			k.queue.add(&t.Summary, 1)
			queue := queues[t.Provider]
			if queue == nil {
				queue = make(chan target, maxQueued)
				queues[t.Provider] = queue
				all.Go(func() { k.killEach(ctx, queue, run) })
			}
			queue <- t
		})
		run.end(err)
		for _, queue := range queues {
			close(queue)
		}
		all.Wait()
	}()
	return run
}

// startThose is startKill of grants in memory: when it returns, they are queued.
func (k *Killer) startThose(ctx context.Context, targets []target) *Run {
	for i := range targets {
		k.queue.add(&targets[i].Summary, 1)
	}
	run := k.startKill(ctx, func(_ context.Context, _ func(int), yield func(target)) error {
		for _, t := range targets {
			yield(t)
			k.queue.add(&t.Summary, -1) // the run has it now
		}
		return nil
	})
	run.expect(len(targets))
	return run
}

// KillThis is a kill of one, with the counts of a kill of many.
func (k *Killer) KillThis(ctx context.Context, s grant.Summary) *Run {
	return k.startThose(ctx, []target{{s, causeGrant}})
}

// Failed is why not all that was meant could be found; to be asked when the run is done.
func (r *Run) Failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// killEach tries every grant of the queue once, at most killParallel at a time.
func (k *Killer) killEach(ctx context.Context, queue <-chan target, run *Run) {
	group := errgroup.Group{}
	group.SetLimit(killParallel)
	for t := range queue {
		group.Go(func() error {
			what, err := k.try(ctx, t.ID, t.cause)
			t.Revocable = (t.Revocable || what == revoked) && what != unkillable
			k.queue.add(&t.Summary, -1)
			run.settle(t, err)
			return nil
		})
	}
	_ = group.Wait()
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
