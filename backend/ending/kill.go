package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Kill ends a grant at its provider and forgets it, whoever asks. Already gone is
// success; a failure is durable in the outbox before it is reported.
//
// A token that nothing can kill stays in the ledger until it has expired, so
// that nobody takes it for dead; for Vault's lease that is a success, because no
// retry would do more. The same goes for one that lives on because others hold its lever.
func (k *Killer) Kill(ctx context.Context, id, cause string) error {
	_, err := k.kill(ctx, id, cause)
	return err
}

func (k *Killer) kill(ctx context.Context, id, cause string) (fate, error) {
	in := meant{pulls: newPulls(nil, newMade())}
	in.made.use()
	defer in.made.drop()
	defer k.settleOne(ctx, in.pulls) // before the drop
	return k.try(ctx, id, cause, in)
}

// fate is what has become of a grant that was to die.
type fate int

const (
	// gone: nothing was left to kill, because it was dead.
	gone fate = iota
	// expired: nothing was left to kill, because its token has expired.
	expired
	// revoked: its provider has killed it now.
	revoked
	// unkillable: nothing can kill it, or its provider has said that it never will. That
	// is noted on the grant, and is no failure.
	unkillable
	// released: its token lives on, because others hold its lever, and dies with that.
	released
	// nothing: it was an intent, and no token had come of it.
	nothing
)

// try is Kill as a part of a kill of many, and says what has become of the grant. All
// grants on record die by it, but for those that die together with another of their lever.
func (k *Killer) try(ctx context.Context, id, cause string, in meant) (fate, error) {
	k.ledger.EndHold(id) // its child may be about to become one that can be joined
	k.closeShare(id)
	g, err := k.ledger.Get(ctx, id)
	if errors.Is(err, grant.ErrGone) {
		in.record.Ended(kills.Entry{ID: id, State: kills.Dead, At: k.now()}, in.listed)
		return gone, nil
	}
	if err != nil {
		err = k.suspect(ctx, id, cause, err)
		in.record.Ended(kills.Entry{ID: id, State: kills.Pending, At: k.now(), Error: fault.Public(err)}, in.listed)
		return gone, err
	}
	if meant, suspect := k.ledger.Suspected(id); suspect && k.pullsAtOnce(ctx, g.Provider, meant) {
		cause = meant // it failed before, without a trace on record
	}
	if cause == causeLostAnswer && !g.IsIntent() {
		return nothing, nil // its answer has come
	}
	what, cause, err := k.end(ctx, g, cause, in)
	k.attest(in, g, cause, stateOf(what, err))
	return what, err
}

// suspect is for a grant whose record cannot be read, so that not even the outbox can have it.
func (k *Killer) suspect(ctx context.Context, id, cause string, err error) error {
	k.ledger.Suspect(id, cause, k.pullsAtOnce(ctx, "", cause))
	return stored.Fault(errors.Join(err, errUnrecorded))
}

// again is end for a grant that somebody wants dead meanwhile, as it is on record now.
func (k *Killer) again(ctx context.Context, g *grant.Grant, cause string, in meant) (fate, error) {
	now, err := k.ledger.Get(ctx, g.ID)
	if errors.Is(err, grant.ErrGone) {
		return gone, nil
	}
	if err != nil {
		return gone, k.suspect(ctx, g.ID, cause, err)
	}
	*g = *now
	what, _, err := k.end(ctx, g, cause, in)
	return what, err
}

// end kills a grant as it is on record, and says for which cause.
func (k *Killer) end(ctx context.Context, g *grant.Grant, cause string, in meant) (fate, string, error) {
	if g.Doom != nil && !(mayHang(g) && k.pullsAtOnce(ctx, g.Provider, cause)) {
		cause = g.Doom.Cause // the first one stands, whoever tries again
	}
	s := g.Summary()
	var what fate
	var err error
	switch {
	case s.Over(k.now()):
		what, err = expired, k.remove(ctx, g, cause, in, k.tellExpired)
	case g.IsIntent():
		what, err = k.killIntent(ctx, g, cause, in)
	case g.Handle.Empty():
		what, err = unkillable, k.noteUnkillable(ctx, g, cause)
	case g.Lever != "":
		what, err = k.killOn(ctx, g, cause, in)
	default:
		what, err = k.killAlone(ctx, g, cause, in)
	}
	return what, cause, err
}

// killAlone kills a token with which no other one dies.
func (k *Killer) killAlone(ctx context.Context, g *grant.Grant, cause string, in meant) (fate, error) {
	if err := k.revoke(ctx, g); err != nil {
		return k.postpone(ctx, g, cause, in, err)
	}
	return revoked, k.forget(ctx, g, cause, in)
}

// killBudget bounds one revocation with all its calls, well within the 90 s that
// Vault gives a lease's end while it holds its state lock.
const killBudget = 45 * time.Second

// revoke kills the grant's token at its provider.
func (k *Killer) revoke(ctx context.Context, g *grant.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, killBudget)
	defer cancel()
	p, err := k.reaper.MustOpen(ctx, g.Provider)
	if err != nil {
		return err
	}
	return k.reaper.Revoke(ctx, p, g.Handle)
}

// forget takes a grant off the record whose token is dead.
func (k *Killer) forget(ctx context.Context, g *grant.Grant, cause string, in meant) error {
	return k.remove(ctx, g, cause, in, func(g *grant.Grant) { k.tell(g, cause) })
}

// remove takes a grant off the record, and tells how its token has ended.
func (k *Killer) remove(ctx context.Context, g *grant.Grant, cause string, in meant, tell func(*grant.Grant)) error {
	if err := k.ledger.Remove(ctx, g); err != nil {
		// The next attempt finds the token dead.
		return stored.Fault(errors.Join(err, k.doom(ctx, g, cause, in, stored.Fault(err))))
	}
	tell(g)
	return nil
}

// tellExpired counts and logs the end of a token that nobody had to kill.
func (k *Killer) tellExpired(g *grant.Grant) {
	k.meters.Expired(g.Provider)
	k.logger().Info("grant expired", "event", "grant_expired", "grant_id", g.ID, "role", g.Role, "provider", g.Provider)
}

// tell counts and logs a death.
func (k *Killer) tell(g *grant.Grant, cause string) {
	k.meters.Killed(g.Provider, cause)
	k.logger().Info("grant killed", "event", "grant_killed", "grant_id", g.ID, "role", g.Role, "provider", g.Provider, "cause", cause)
}

// noteUnkillable notes on a grant that nothing can kill that it was to die, so that
// its lease is not renewed any more. It stays on record until it has expired.
func (k *Killer) noteUnkillable(ctx context.Context, g *grant.Grant, cause string) error {
	if g.Doom != nil {
		return nil
	}
	now := k.now()
	_, err := k.ledger.Update(ctx, g.ID, func(g *grant.Grant) error {
		g.Doom = &grant.Doom{Since: now, Cause: cause}
		return nil
	})
	if errors.Is(err, grant.ErrGone) {
		return nil
	}
	if err != nil {
		return stored.Fault(errors.Join(err, errUnrecorded))
	}
	if cause == CauseLeaseEnded {
		return nil // as it was meant to
	}
	k.logger().Info("grant ended that nothing can kill: its token works until it expires, and its lease is not renewed", "event", "grant_doomed", "grant_id", g.ID, "role", g.Role, "provider", g.Provider, "cause", cause)
	return nil
}
