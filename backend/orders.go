package backend

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// orderPrefix is where kills of many are kept until every grant of theirs has
// been tried once. One write makes a kill of any size durable: after a crash the
// sweep goes on with it.
const orderPrefix = "kill/"

// order is a kill of every grant of an entity, a role, a provider or an issuer that was
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
	case ending.KindEntity:
		return s.Holder == o.Name
	case ending.KindRole:
		return s.Role == o.Name
	case ending.KindIssuer:
		return s.SubjectIssuer == o.Name || s.ActorIssuer == o.Name
	default:
		return s.Provider == o.Name
	}
}

// orders keeps the kills that are under way: orders by id, and the grants that a
// run of many has found and yet to try.
type orders struct {
	mu      sync.Mutex
	running map[string]bool
	queued  map[string]int // by grant id; how many runs have it
	waiting map[string]int // by provider; how many are queued
}

func newOrders() *orders {
	return &orders{running: map[string]bool{}, queued: map[string]int{}, waiting: map[string]int{}}
}

// queue notes that one more run has the grant, or with -1 one less.
func (o *orders) queue(s *grantSummary, delta int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.queued[s.ID] += delta; o.queued[s.ID] == 0 {
		delete(o.queued, s.ID)
	}
	if o.waiting[s.Provider] += delta; o.waiting[s.Provider] == 0 {
		delete(o.waiting, s.Provider)
	}
}

// full reports whether so many of a provider's grants are queued that the sweep
// adds no more: they are due again with the next one.
func (o *orders) full(ref string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting[ref] >= maxQueued
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
func (k *killer) give(ctx context.Context, o order) (*killRun, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "no randomness for an order's id").Because(err)
	}
	entry, err := entryOf(orderForm, orderPrefix+id, o)
	if err != nil {
		return nil, storageFault(err)
	}
	if err := k.storage.Put(ctx, entry); err != nil {
		return nil, storageFault(err)
	}
	return k.execute(ctx, id, o), nil
}

// execute tries to kill every grant of the order once; those that fail are in
// the outbox then, and the order is done.
func (k *killer) execute(ctx context.Context, id string, o order) *killRun {
	k.orders.mu.Lock()
	k.orders.running[id] = true
	k.orders.mu.Unlock()
	run := k.startKill(ctx, k.chosen(o))
	go func() {
		<-run.done
		defer func() {
			k.orders.mu.Lock()
			delete(k.orders.running, id)
			k.orders.mu.Unlock()
		}()
		if run.unrecorded || run.failed != nil {
			k.logger().Warn("a kill failed in part, and the outbox could not be written or the ledger not be read: the sweep will repeat it", "kind", o.Kind, "name", o.Name, "error", run.failed)
			return
		}
		if err := k.storage.Delete(context.WithoutCancel(ctx), orderPrefix+id); err != nil {
			k.logger().Warn("a kill is complete, but its order could not be deleted: the sweep will repeat it", "error", err)
		}
		k.logger().Info("kill complete", "kind", o.Kind, "name", o.Name, "revoked", run.tally().Revoked, "pending", run.tally().Pending)
	}()
	return run
}

// chosen finds the grants of an order. Those of one holder are found at once;
// those of a role or a provider once the ledger knows who has any. Which issuers a grant
// rests on its record alone tells: memory would grow with issuers and holders, for what
// is asked once in a blue moon. So all records are read, one after the other.
func (k *killer) chosen(o order) source {
	walk := walk{ledger: k.ledger, matches: func(s *grantSummary) string {
		if o.matches(s) {
			return o.cause()
		}
		return ""
	}}
	if o.Kind == ending.KindEntity {
		walk.holders = func(context.Context) ([]string, error) { return []string{o.Name}, nil }
		walk.concerns = func(grant.Count) bool { return true }
		return walk.feed
	}
	walk.whole = true
	if o.Kind == ending.KindIssuer {
		walk.concerns = func(grant.Count) bool { return false } // how many there are nobody knows
		walk.holders = k.ledger.Holders
		return walk.feed
	}
	walk.concerns = func(c grant.Count) bool {
		return (o.Kind == ending.KindRole && c.Role == o.Name) || (o.Kind == ending.KindProvider && c.Provider == o.Name)
	}
	walk.holders = func(ctx context.Context) ([]string, error) { return k.ledger.HoldersOf(ctx, walk.concerns) }
	return walk.feed
}

// resumeOrders goes on with what a crash or a change of leader interrupted.
func (k *killer) resumeOrders(ctx context.Context) error {
	ids, err := k.storage.List(ctx, orderPrefix)
	if err != nil {
		return storageFault(err)
	}
	var problems error
	for _, id := range ids {
		problems = errors.Join(problems, k.resume(ctx, id))
	}
	return problems
}

func (k *killer) resume(ctx context.Context, id string) error {
	k.orders.mu.Lock()
	running := k.orders.running[id]
	k.orders.mu.Unlock()
	if running {
		return nil
	}
	raw, err := k.storage.Get(ctx, orderPrefix+id)
	if err != nil {
		return storageFault(err)
	}
	if raw == nil {
		return nil
	}
	var o order
	if err := orderForm.Decode(raw.Value, &o); err != nil {
		return storageFault(err)
	}
	k.execute(ctx, id, o)
	return nil
}
