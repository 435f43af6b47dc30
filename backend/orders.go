package backend

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// orderPrefix is where kills of many are kept until every grant of theirs has
// been tried once. One write makes a kill of any size durable: after a crash the
// sweep goes on with it.
const orderPrefix = "kill/"

// order is a kill of every grant of an entity, a role or a provider that was
// issued up to a moment; what is issued later, after a thaw say, is not meant.
type order struct {
	Kind  string    `json:"kind"`
	Name  string    `json:"name"`
	Until time.Time `json:"until"`
	// Cause is "revoke/<kind>" if it is empty.
	Cause string `json:"cause,omitempty"`
}

func (o order) cause() string { return cmp.Or(o.Cause, "revoke/"+o.Kind) }

func (o order) matches(s *grantSummary) bool {
	if s.IssuedAt.After(o.Until) {
		return false
	}
	switch o.Kind {
	case kindEntity:
		return s.Holder == o.Name
	case kindRole:
		return s.Role == o.Name
	default:
		return s.Provider == o.Name
	}
}

// orders keeps the kills that are under way: orders by id, and the grants that a
// run of many has yet to try.
type orders struct {
	mu      sync.Mutex
	running map[string]bool
	queued  map[string]int // by grant id; how many runs have it
}

func newOrders() *orders {
	return &orders{running: map[string]bool{}, queued: map[string]int{}}
}

// queue notes that one more run has the grant, or with -1 one less.
func (o *orders) queue(id string, delta int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.queued[id] += delta; o.queued[id] == 0 {
		delete(o.queued, id)
	}
}

// left is how many grants the runs have yet to try.
func (o *orders) left() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queued)
}

// has reports whether a run has the grant already.
func (o *orders) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queued[id] > 0
}

// give makes an order durable and begins with it.
func (b *broker) give(ctx context.Context, o order) (*killRun, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "no randomness for an order's id").Because(err)
	}
	entry, err := logical.StorageEntryJSON(orderPrefix+id, o)
	if err != nil {
		return nil, storageFault(err)
	}
	if err := b.storage.Put(ctx, entry); err != nil {
		return nil, storageFault(err)
	}
	return b.execute(ctx, id, o)
}

// execute tries to kill every grant of the order once; those that fail are in
// the outbox then, and the order is done.
func (b *broker) execute(ctx context.Context, id string, o order) (*killRun, error) {
	chosen, err := b.ledger.Select(ctx, o.matches)
	if err != nil {
		return nil, storageFault(err)
	}
	b.orders.mu.Lock()
	b.orders.running[id] = true
	b.orders.mu.Unlock()
	run := b.startKill(ctx, o.cause(), chosen)
	go func() {
		<-run.done
		defer func() {
			b.orders.mu.Lock()
			delete(b.orders.running, id)
			b.orders.mu.Unlock()
		}()
		if run.unrecorded {
			b.Logger().Warn("a kill failed in part, and the outbox could not be written: the sweep will repeat it", "kind", o.Kind, "name", o.Name)
			return
		}
		if err := b.storage.Delete(context.WithoutCancel(ctx), orderPrefix+id); err != nil {
			b.Logger().Warn("a kill is complete, but its order could not be deleted: the sweep will repeat it", "error", err)
		}
		b.Logger().Info("kill complete", "kind", o.Kind, "name", o.Name, "revoked", run.tally().Revoked, "pending", run.tally().Pending)
	}()
	return run, nil
}

// resumeOrders goes on with what a crash or a change of leader interrupted.
func (b *broker) resumeOrders(ctx context.Context) error {
	ids, err := b.storage.List(ctx, orderPrefix)
	if err != nil {
		return storageFault(err)
	}
	var problems error
	for _, id := range ids {
		problems = errors.Join(problems, b.resume(ctx, id))
	}
	return problems
}

func (b *broker) resume(ctx context.Context, id string) error {
	b.orders.mu.Lock()
	running := b.orders.running[id]
	b.orders.mu.Unlock()
	if running {
		return nil
	}
	raw, err := b.storage.Get(ctx, orderPrefix+id)
	if err != nil {
		return storageFault(err)
	}
	if raw == nil {
		return nil
	}
	var o order
	if err := raw.DecodeJSON(&o); err != nil {
		return storageFault(err)
	}
	_, err = b.execute(ctx, id, o)
	return err
}

// killRun is a kill of many that goes on whether or not somebody waits for it.
type killRun struct {
	done chan struct{}

	mu      sync.Mutex
	count   tally
	exposed []grantSummary // what may be accepted somewhere after it was tried
	// unrecorded is true if a failure is not in the outbox; to be read when done.
	unrecorded bool
}

// tally is the count so far; what was not tried yet counts as pending.
func (r *killRun) tally() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// wait returns the count when the run is done, or when it has taken too long or
// ctx has ended; complete says which.
func (r *killRun) wait(ctx context.Context, atMost time.Duration) (t tally, complete bool) {
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

// startKill kills the chosen grants, a bounded number at a time of each provider:
// one that is slow or dead must not hold up the kills at the others.
func (b *broker) startKill(ctx context.Context, cause string, chosen []grantSummary) *killRun {
	ctx = context.WithoutCancel(ctx)
	run := &killRun{done: make(chan struct{})}
	run.count.Pending = len(chosen)
	byProvider := map[string][]grantSummary{}
	for _, s := range chosen {
		run.count.expose(b.now(), s)
		b.orders.queue(s.ID, 1)
		byProvider[s.Provider] = append(byProvider[s.Provider], s)
	}
	go func() {
		defer close(run.done)
		var all sync.WaitGroup
		for _, grants := range byProvider {
			all.Go(func() { b.killEach(ctx, cause, grants, run) })
		}
		all.Wait()
		run.finish(b.now())
	}()
	return run
}

// killEach tries every grant once, at most killParallel of them at a time.
func (b *broker) killEach(ctx context.Context, cause string, grants []grantSummary, run *killRun) {
	group := errgroup.Group{}
	group.SetLimit(killParallel)
	for _, s := range grants {
		group.Go(func() error {
			err := b.kill(ctx, s.ID, cause)
			b.orders.queue(s.ID, -1)
			run.settle(s, err)
			return nil
		})
	}
	_ = group.Wait()
}

// settle notes what became of one grant.
func (r *killRun) settle(s grantSummary, failed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unrecorded = r.unrecorded || errors.Is(failed, errUnrecorded)
	if failed != nil || s.SelfContained || !s.Revocable {
		r.exposed = append(r.exposed, s)
	}
	switch {
	case failed != nil:
		return
	case s.Revocable:
		r.count.Revoked++
	default:
		r.count.ExpiryOnly++
	}
	r.count.Pending--
}

// finish counts the exposure anew, of those alone that are exposed still.
func (r *killRun) finish(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count.Residual = 0
	for _, s := range r.exposed {
		r.count.expose(now, s)
	}
}

// tally counts what a kill of many did.
type tally struct {
	Revoked, Pending, ExpiryOnly int
	// Residual is for how long one of these tokens may still be accepted
	// somewhere: because nothing can kill it, because it is verified offline, or
	// because its kill is still pending.
	Residual time.Duration
}

// endless stands in the exposure for a token whose end nobody knows: no provider
// is believed a longer one.
const endless = 10 * 365 * 24 * time.Hour

// expose takes one token's remaining life into the residual exposure.
func (t *tally) expose(now time.Time, s grantSummary) {
	left := endless
	if !s.ExpiresAt.IsZero() {
		left = s.ExpiresAt.Sub(now)
	}
	t.Residual = max(t.Residual, left)
}

func (t tally) data() map[string]any {
	return map[string]any{
		"revoked": t.Revoked, "pending": t.Pending, "expiry_only": t.ExpiryOnly,
		"residual_exposure_seconds": int64((t.Residual + time.Second - 1) / time.Second),
	}
}

// killAll kills every grant that matches and waits for the outcome.
func (b *broker) killAll(ctx context.Context, cause string, match func(*grantSummary) bool) (tally, error) {
	chosen, err := b.ledger.Select(ctx, match)
	if err != nil {
		return tally{}, storageFault(err)
	}
	t, _ := b.startKill(ctx, cause, chosen).wait(ctx, killMountBudget)
	return t, nil
}
