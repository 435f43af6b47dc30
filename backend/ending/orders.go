package ending

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// OrderPrefix is where kills of many are kept until every grant of theirs has
// been tried once. One write makes a kill of any size durable: after a crash the
// sweep goes on with it.
const OrderPrefix = "kill/"

var orderForm = form.Kind{Name: "kill under way"}

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
	case KindEntity:
		return s.Holder == o.Name
	case KindRole:
		return s.Role == o.Name
	case KindIssuer:
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

// UnderWay is how many kills of many are not complete, and how many grants these and
// others have yet to try.
func (k *Killer) UnderWay() (orders, grants int) {
	k.orders.mu.Lock()
	defer k.orders.mu.Unlock()
	return len(k.orders.running), len(k.orders.queued)
}

// has reports whether a run has the grant already.
func (o *orders) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queued[id] > 0
}

// KillAll kills every grant of a thing that has been issued until now. The cause is
// "revoke/<kind>" if it is empty. The kill is durable when this returns, and goes on
// whether or not somebody waits for it.
func (k *Killer) KillAll(ctx context.Context, what Thing, cause string) (*Run, error) {
	o := order{Kind: what.Kind, Name: what.Name, Until: k.now(), Cause: cause}
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "no randomness for an order's id").Because(err)
	}
	entry, err := stored.Entry(orderForm, OrderPrefix+id, o)
	if err != nil {
		return nil, stored.Fault(err)
	}
	if err := k.storage.Put(ctx, entry); err != nil {
		return nil, stored.Fault(err)
	}
	return k.execute(ctx, id, o), nil
}

// execute tries to kill every grant of the order once; those that fail are in
// the outbox then, and the order is done.
func (k *Killer) execute(ctx context.Context, id string, o order) *Run {
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
		if err := k.storage.Delete(context.WithoutCancel(ctx), OrderPrefix+id); err != nil {
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
func (k *Killer) chosen(o order) source {
	walk := walk{ledger: k.ledger, matches: func(s *grantSummary) string {
		if o.matches(s) {
			return o.cause()
		}
		return ""
	}}
	if o.Kind == KindEntity {
		walk.holders = func(context.Context) ([]string, error) { return []string{o.Name}, nil }
		walk.concerns = func(grant.Count) bool { return true }
		return walk.feed
	}
	walk.whole = true
	if o.Kind == KindIssuer {
		walk.concerns = func(grant.Count) bool { return false } // how many there are nobody knows
		walk.holders = k.ledger.Holders
		return walk.feed
	}
	walk.concerns = func(c grant.Count) bool {
		return (o.Kind == KindRole && c.Role == o.Name) || (o.Kind == KindProvider && c.Provider == o.Name)
	}
	walk.holders = func(ctx context.Context) ([]string, error) { return k.ledger.HoldersOf(ctx, walk.concerns) }
	return walk.feed
}

// resumeOrders goes on with what a crash or a change of leader interrupted.
func (k *Killer) resumeOrders(ctx context.Context) error {
	ids, err := k.storage.List(ctx, OrderPrefix)
	if err != nil {
		return stored.Fault(err)
	}
	var problems error
	for _, id := range ids {
		problems = errors.Join(problems, k.resume(ctx, id))
	}
	return problems
}

func (k *Killer) resume(ctx context.Context, id string) error {
	k.orders.mu.Lock()
	running := k.orders.running[id]
	k.orders.mu.Unlock()
	if running {
		return nil
	}
	raw, err := k.storage.Get(ctx, OrderPrefix+id)
	if err != nil {
		return stored.Fault(err)
	}
	if raw == nil {
		return nil
	}
	var o order
	if err := orderForm.Decode(raw.Value, &o); err != nil {
		return stored.Fault(err)
	}
	k.execute(ctx, id, o)
	return nil
}
