package ending

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// OrderPrefix is where kills of many are kept until every grant of theirs has
// been tried once. One write makes a kill of any size durable: after a crash the
// sweep goes on with it.
const OrderPrefix = "kill/"

// kindWithdrawn is of orders that mean what the broker has signed and takes for its own no
// more, by what is true when the order is executed.
const kindWithdrawn = "withdrawn"

// order is a kill of every grant of an entity, a role, a provider, an issuer or a subject,
// or of all that were withdrawn, that was issued up to a moment; what is issued later, after a thaw
// say, is not meant.
type order struct {
	Kind  string    `json:"kind"`
	Name  string    `json:"name"`
	Until time.Time `json:"until"`
	// Cause is "revoke/<kind>" if it is empty.
	Cause string `json:"cause,omitempty"`
	// Asked is on whose word; orders of earlier builds do not say. Its cause is left to
	// Cause, which those have too.
	Asked kills.Asked `json:"asked,omitzero"`
	// Named are the names that a subject's issuer has when the order is given, "" among them
	// where it is the broker itself, which speaks for the entities that act.
	Named []string `json:"named,omitempty"`
	// Of are the things that an order of KindPerson means.
	Of []part `json:"of,omitempty"`
}

// orderForm is the second one for kinds of orders that builds before took for a provider's:
// these would find nothing, and delete the order.
var orderForm = form.Kind{Name: "kill under way", Since: []string{firstWithSubjects}}

// firstWithSubjects is the first version that knows of subjects and persons.
const firstWithSubjects = "v0.1.0"

// formOf is in which form something of the kind is stored.
func formOf(kind string) int {
	if kind == KindSubject || kind == KindPerson {
		return 2
	}
	return 1
}

func (o *order) cause() string { return cmp.Or(o.Cause, "revoke/"+o.Kind) }

// what is how a record calls what is meant.
func (o *order) what() []string {
	switch o.Kind {
	case kindWithdrawn:
		return []string{"what the broker has signed and withdrawn"}
	case KindPerson:
		var all []string
		for _, of := range o.each() {
			all = append(all, of.what()...)
		}
		return all
	}
	return []string{inRecord(Thing{o.Kind, o.Name})}
}

// inRecord is how a record calls a thing.
func inRecord(what Thing) string {
	if what.Kind == KindSubject {
		return what.Plain()
	}
	return what.String()
}

// matches reports whether a grant is meant. One that was issued later than now was so
// before the clock went back, or by a leader whose clock was ahead: it is meant too.
func (o *order) matches(s *grant.Summary, now time.Time) bool {
	if o.Kind == kindWithdrawn { // what was signed while the order was written, too
		return true // as far as the walk comes to it
	}
	if s.IssuedAt.After(o.Until) && !s.IssuedAt.After(now) {
		return false
	}
	switch o.Kind {
	case KindEntity:
		return s.Holder == o.Name
	case KindRole:
		return s.Role == o.Name
	case KindIssuer:
		return s.Subject.Issuer == o.Name || s.Actor.Issuer == o.Name
	case KindSubject:
		return o.ofSubject(s)
	case KindPerson:
		return slices.ContainsFunc(o.each(), func(of *order) bool { return of.matches(s, now) })
	case KindProvider:
		return s.Provider == o.Name
	}
	return false // and is not executed (unknownKind)
}

// unknownKind is a kind of the order, or of a part of it, that this version does not know;
// "" if it knows all.
func (o *order) unknownKind() string {
	kinds := []string{KindEntity, KindRole, KindProvider, KindIssuer, KindSubject, KindPerson, kindWithdrawn}
	for _, of := range append(o.each(), o) {
		if !slices.Contains(kinds, of.Kind) {
			return cmp.Or(of.Kind, "no kind")
		}
	}
	return ""
}

// orders are those that are not done, by id.
type orders struct {
	kept *stored.Keeper[order]

	mu      sync.Mutex
	running map[string]bool // in this process
	given   map[string]bool // by this process, and not done
}

func newOrders(storage logical.Storage) *orders {
	return &orders{kept: stored.NewKeeper(storage, OrderPrefix, stored.KindIn(orderForm, func(o *order) int { return formOf(o.Kind) })), running: map[string]bool{}, given: map[string]bool{}}
}

// begin reports whether the order is not running yet; then it is, until end.
func (o *orders) begin(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running[id] {
		return false
	}
	o.running[id] = true
	return true
}

func (o *orders) end(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.running, id)
}

// give is begin of an order that is new.
func (o *orders) give(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running[id], o.given[id] = true, true
}

// isGiven reports whether the order is this process's own, and not one that a crash or
// another node has left.
func (o *orders) isGiven(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.given[id]
}

func (o *orders) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.given, id)
}

// KillAll kills every grant of a thing that has been issued until now. The kill is durable
// when this returns, with on whose word it is, and goes on whether or not somebody waits
// for it.
func (k *Killer) KillAll(ctx context.Context, what Thing, asked kills.Asked) (*Run, error) {
	o := &order{Kind: what.Kind, Name: what.Name, Until: k.now()}
	if err := k.about(ctx, o); err != nil {
		return nil, err
	}
	given, err := k.give(ctx, o, asked)
	if err != nil {
		return nil, err
	}
	return given.Execute(ctx), nil
}

// Order is a kill of many that is durable, and that nobody has begun to execute. It ends
// with Execute or Leave.
type Order struct {
	killer *Killer
	id     string
	order  *order
}

// OrderWithdrawn orders to kill what the broker has signed and is about to take for its
// own no more. It comes before the change by which that is so: after a crash between the
// two the sweep finds nothing to kill, and after a later one all of it.
func (k *Killer) OrderWithdrawn(ctx context.Context, asked kills.Asked) (*Order, error) {
	return k.give(ctx, &order{Kind: kindWithdrawn, Until: k.now()}, asked)
}

func (k *Killer) give(ctx context.Context, o *order, asked kills.Asked) (*Order, error) {
	asked.By = cmp.Or(asked.By, bySweep)
	o.Cause, o.Asked = asked.Cause, asked
	o.Asked.Cause = ""
	id, err := uuid.GenerateUUID()
	if err == nil && o.Asked.ID == "" {
		o.Asked.ID, err = kills.NewID(o.Until)
	}
	if err != nil {
		return nil, errNoID(err)
	}
	k.orders.give(id) // or a sweep that comes between begins with it too
	if err := k.orders.kept.Replace(ctx, id, nil, o); err != nil {
		k.orders.forget(id)
		k.orders.end(id)
		return nil, err
	}
	return &Order{killer: k, id: id, order: o}, nil
}

func errNoID(err error) error {
	return fault.New(fault.TemporarilyUnavailable, "no randomness for a kill's id").Because(err)
}

// Execute begins with the kill, which goes on whether or not somebody waits for it.
func (o *Order) Execute(ctx context.Context) *Run { return o.killer.execute(ctx, o.id, o.order, false) }

// Leave is for an order of which nobody can say now whether it is meant: the sweep executes
// it.
func (o *Order) Leave() { o.killer.orders.end(o.id) }

// execute tries to kill every grant of the order, which has begun, once; those that
// fail are in the outbox then, and the order is done. Again is for one that has been
// executed before, or may have been.
func (k *Killer) execute(ctx context.Context, id string, o *order, again bool) *Run {
	asked := o.Asked
	asked.Cause = o.cause()
	if asked.ID == "" {
		asked.ID, asked.By, asked.Always = kills.IDOf(o.Until, id), byEarlier, true
	}
	record := k.records.Begin(asked, o.what(), o.Until, again, !k.orders.isGiven(id))
	run := k.startOrder(ctx, o, record)
	go func() {
		<-run.done
		defer k.orders.end(id)
		done := !run.unrecorded && run.failed == nil
		record.End(done)
		// So that the record is there when the order is not any more; what fails is told there.
		_ = k.records.Flush(context.WithoutCancel(ctx))
		if !done {
			k.logger().Warn("a kill failed in part, and the outbox could not be written or the ledger not be read: the sweep will repeat it", "kind", o.Kind, "name", o.Name, "error", run.failed)
			return
		}
		if err := k.orders.kept.Delete(context.WithoutCancel(ctx), id); err != nil {
			k.logger().Warn("a kill is complete, but its order could not be deleted: the sweep will repeat it", "error", err)
		} else {
			k.orders.forget(id)
		}
		k.logger().Info("kill complete", "kind", o.Kind, "name", o.Name, "cause", o.cause(), "revoked", run.tally().Revoked, "pending", run.tally().Pending, "bystanders", run.tally().Bystanders)
	}()
	return run
}

// startOrder is startKill of all that an order means.
func (k *Killer) startOrder(ctx context.Context, o *order, record *kills.Record) *Run {
	w := k.chosen(o)
	from, means := k.along(w), w.means
	if o.Kind == KindPerson {
		from, means = k.ofPerson(o), func(s *grant.Summary) bool { return o.matches(s, k.now()) }
	}
	run := k.startKill(ctx, func(ctx context.Context, expect func(int), yield func(target)) error {
		return from(ctx, expect, func(t target) {
			t.record = record
			yield(t)
		})
	}, newPulls(means, newMade()))
	run.record = record.ID()
	return run
}

// chosen finds the grants of an order. Those of one holder are found at once; those of a
// role, a provider, an issuer or a subject among the holders that have any, by what the
// grants' ids tell, and by these alone while the ledger does not know yet who has any. Which
// issuers a holder's grants rest on it never knows: memory would grow with issuers and
// holders, for what is asked once in a blue moon.
func (k *Killer) chosen(o *order) walk {
	w := walk{holders: func(context.Context) ([]string, error) { return nil, nil }}
	w.matches = func(s *grant.Summary) string {
		if o.matches(s, k.now()) {
			return o.cause()
		}
		return ""
	}
	switch o.Kind {
	case KindEntity:
		w.holders = func(context.Context) ([]string, error) { return []string{o.Name}, nil }
		w.concerns = func(grant.Count) bool { return true }
		return w
	case kindWithdrawn:
		return k.ofWithdrawn(o)
	case KindIssuer:
		w.clue, w.holders = grant.OfIssuer(o.Name), k.ledger.Holders // how many there are nobody knows
	case KindSubject:
		_, party, _ := Thing{o.Kind, o.Name}.Subject()
		w.clue = grant.OfParty(party)
		w.holders = func(ctx context.Context) ([]string, error) { return k.ledger.HoldersWith(ctx, party) }
	case KindRole:
		w.clue, w.concerns = grant.OfRole(o.Name), func(c grant.Count) bool { return c.Role == o.Name }
	case KindProvider:
		w.clue, w.concerns = grant.OfProvider(o.Name), func(c grant.Count) bool { return c.Provider == o.Name }
	default:
		return w // a person's are found part by part
	}
	w.whole, w.unloaded = true, true
	if w.concerns != nil {
		w.holders = func(ctx context.Context) ([]string, error) { return k.ledger.HoldersOf(ctx, w.concerns) }
	}
	return w
}

// ofWithdrawn finds the withdrawn. Who has any that the broker may have signed the ledger
// knows; the record says whether it is withdrawn.
func (k *Killer) ofWithdrawn(o *order) walk {
	var withdrawn func(*grant.Summary) bool
	w := walk{whole: true, concerns: func(c grant.Count) bool { return k.withdrawn.Signs(c.Provider) }}
	w.holders = func(ctx context.Context) (_ []string, err error) {
		if withdrawn, err = k.withdrawn.Judge(ctx); err != nil {
			return nil, err
		}
		return k.ledger.HoldersOf(ctx, w.concerns)
	}
	w.matches = func(s *grant.Summary) string {
		if o.matches(s, k.now()) && withdrawn(s) {
			return o.cause()
		}
		return ""
	}
	return w
}

// HasAny reports whether a grant of a thing is on record.
func (k *Killer) HasAny(ctx context.Context, what Thing) (found bool, err error) {
	o := &order{Kind: what.Kind, Name: what.Name, Until: k.now()}
	if err := k.about(ctx, o); err != nil {
		return false, err
	}
	w := k.chosen(o)
	err = k.visit(ctx, w, func(int) {}, func(s *grant.Summary) bool {
		found = w.means(s)
		return !found
	})
	if found {
		err = nil
	}
	return found, err
}

// resumeOrders goes on with what a crash or a change of leader interrupted.
func (k *Killer) resumeOrders(ctx context.Context) error {
	ids, err := k.orders.kept.List(ctx, "")
	if err != nil {
		return err
	}
	var problems error
	for _, id := range ids {
		problems = errors.Join(problems, k.resume(ctx, id))
	}
	return problems
}

func (k *Killer) resume(ctx context.Context, id string) error {
	if !k.orders.begin(id) {
		return nil
	}
	o, err := k.orders.kept.Get(ctx, id)
	if err != nil {
		k.orders.end(id)
		if errors.Is(err, stored.ErrAbsent) {
			return nil // it was done meanwhile
		}
		return err
	}
	if kind := o.unknownKind(); kind != "" { // it would kill nothing, and be done
		k.orders.end(id)
		return fault.New(fault.TemporarilyUnavailable, "a kill under way is of a kind that this version of the plugin does not know (%.40q): it is left to the version that gave it", kind)
	}
	k.execute(ctx, id, o, true)
	return nil
}

// UnderWay is how many kills of many are not complete, and how many grants these and
// others have yet to try.
func (k *Killer) UnderWay() (orders, grants int) {
	k.orders.mu.Lock()
	defer k.orders.mu.Unlock()
	return len(k.orders.running), k.queue.len()
}

// InHand reports whether a kill has found the grant and has yet to try it.
func (k *Killer) InHand(id string) bool { return k.queue.has(id) }
