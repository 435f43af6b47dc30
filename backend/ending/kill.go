package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
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
	in := newPulls(nil, newMade())
	in.made.use()
	defer in.made.drop()
	return k.try(ctx, id, cause, in)
}

// fate is what has become of a grant that was to die.
type fate int

const (
	// gone: nothing was left to kill, because it was dead, or its token has expired.
	gone fate = iota
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
func (k *Killer) try(ctx context.Context, id, cause string, in *pulls) (fate, error) {
	k.ledger.EndHold(id) // its child may be about to become one that can be joined
	k.closeShare(id)
	g, err := k.ledger.Get(ctx, id)
	if errors.Is(err, grant.ErrGone) {
		return gone, nil
	}
	if err != nil {
		k.ledger.Suspect(id, cause, k.pullsAtOnce(ctx, "", cause))
		return gone, stored.Fault(errors.Join(err, errUnrecorded))
	}
	if meant, suspect := k.ledger.Suspected(id); suspect && k.pullsAtOnce(ctx, g.Provider, meant) {
		cause = meant // it failed before, without a trace on record
	}
	if cause == causeLostAnswer && !g.IsIntent() {
		return nothing, nil // its answer has come
	}
	if g.Doom != nil && !(mayHang(g) && k.pullsAtOnce(ctx, g.Provider, cause)) {
		cause = g.Doom.Cause // the first one stands, whoever tries again
	}
	s := g.Summary()
	switch {
	case s.Over(k.now()):
		return gone, k.remove(ctx, g, cause, k.tellExpired)
	case g.IsIntent():
		return k.killIntent(ctx, g, cause, in)
	case g.Handle.Empty():
		return unkillable, k.noteUnkillable(ctx, g, cause)
	case g.Lever != "":
		return k.killOn(ctx, g, cause, in)
	}
	if err := k.revoke(ctx, g); err != nil {
		return k.postpone(ctx, g, cause, err)
	}
	return revoked, k.forget(ctx, g, cause)
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
func (k *Killer) forget(ctx context.Context, g *grant.Grant, cause string) error {
	return k.remove(ctx, g, cause, func(g *grant.Grant) { k.tell(g, cause) })
}

// remove takes a grant off the record, and tells how its token has ended.
func (k *Killer) remove(ctx context.Context, g *grant.Grant, cause string, tell func(*grant.Grant)) error {
	if err := k.ledger.Remove(ctx, g); err != nil {
		// The next attempt finds the token dead.
		return stored.Fault(errors.Join(err, k.doom(ctx, g, cause, stored.Fault(err))))
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
