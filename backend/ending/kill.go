package ending

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

type grantSummary = grant.Summary

// Kill ends a grant at its provider and forgets it. It is the only way in which
// a grant dies, whoever asks. Already gone is success; a failure is durable in
// the outbox before it is reported.
//
// A token that nothing can kill stays in the ledger until it has expired, so
// that nobody takes it for dead; for Vault's lease that is a success, because no
// retry would do more.
func (k *Killer) Kill(ctx context.Context, id, cause string) error {
	if _, err := k.tryKill(ctx, id, cause); !errors.Is(err, errUnkillable) {
		return err
	}
	return nil
}

// errUnkillable is that the provider has said that it will never kill a token: that is
// noted on its grant, and is no failure.
var errUnkillable = errors.New("nothing can kill this token")

// tryKill is Kill that says what became of the token: revoked is true if its provider
// has killed it now, and errUnkillable tells that it never will.
func (k *Killer) tryKill(ctx context.Context, id, cause string) (revoked bool, err error) {
	k.ledger.EndHold(id) // its child may be about to become one that can be joined
	k.closeShare(id)
	g, err := k.ledger.Get(ctx, id)
	if errors.Is(err, grant.ErrGone) {
		return false, nil
	}
	if err != nil {
		k.ledger.Suspect(id)
		return false, stored.Fault(errors.Join(err, errUnrecorded))
	}
	return k.killGrant(ctx, g, cause)
}

// errUnrecorded is in the chain of a kill's failure that is in memory only.
var errUnrecorded = errors.New("the outbox could not be written")

func (k *Killer) killGrant(ctx context.Context, g *grant.Grant, cause string) (revoked bool, err error) {
	if g.Doom != nil {
		cause = g.Doom.Cause // the first one stands, whoever tries again
	}
	if s := g.Summary(); !s.Over(k.now()) {
		if g.Handle.Empty() {
			return false, k.endUnkillable(ctx, g, cause)
		}
		if err := k.revokeAtProvider(ctx, g); err != nil {
			return false, k.intoOutbox(ctx, g, cause, err)
		}
		revoked = true
	}
	if err := k.ledger.Remove(ctx, g); err != nil {
		// The token is dead, and the next attempt finds it so.
		return false, stored.Fault(errors.Join(err, k.doom(ctx, g, cause, stored.Fault(err))))
	}
	k.meters.Killed(g.Provider, cause)
	k.logger().Info("grant killed", "event", "grant_killed", "grant_id", g.ID, "role", g.Role, "provider", g.Provider, "cause", cause)
	return revoked, nil
}

// endUnkillable notes on a grant that nothing can kill that it was to die, so that
// its lease is not renewed any more. It stays on record until it has expired.
func (k *Killer) endUnkillable(ctx context.Context, g *grant.Grant, cause string) error {
	if g.Doom != nil {
		return nil
	}
	now := k.now()
	_, err := k.ledger.Update(ctx, g.ID, func(g *grant.Grant) error {
		g.Doom = &grant.Doom{Since: now, Cause: cause}
		return nil
	})
	if err != nil && !errors.Is(err, grant.ErrGone) {
		return stored.Fault(err)
	}
	return nil
}

// killBudget bounds one revocation with all its calls, well within the 90 s that
// Vault gives a lease's end while it holds its state lock.
const killBudget = 45 * time.Second

func (k *Killer) revokeAtProvider(ctx context.Context, g *grant.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, killBudget)
	defer cancel()
	p, err := k.reaper.MustOpen(ctx, g.Provider)
	if err != nil {
		return err
	}
	return k.reaper.Revoke(ctx, p, g.Handle)
}

// intoOutbox makes a failed revocation durable and says so; errUnkillable if there is
// nothing to be tried again.
func (k *Killer) intoOutbox(ctx context.Context, g *grant.Grant, cause string, failed error) error {
	err := k.doom(ctx, g, cause, failed)
	if errors.Is(err, grant.ErrGone) {
		return nil // somebody else's attempt succeeded meanwhile
	}
	if err == nil && givenUp(g, failed) {
		k.logger().Warn("a token cannot be revoked", "grant_id", g.ID, "provider", g.Provider, "error", fault.Public(failed))
		return errUnkillable
	}
	return fault.New(fault.TemporarilyUnavailable, "grant %s is not dead yet: its provider %s could not revoke it (%s); the broker keeps trying", g.ID, g.Provider, fault.Public(failed)).Because(errors.Join(failed, err))
}

// givenUp reports whether the provider has refused for good, now or before: an operator's
// kill tries again all the same, in case that the provider was mended.
func givenUp(g *grant.Grant, failed error) bool {
	return errors.Is(failed, provider.ErrCannotRevoke) || (g.Doom != nil && g.Doom.Final)
}

// doom writes a failed attempt into the outbox, or keeps it in memory until the
// outbox can be written: then errUnrecorded is in the error's chain.
func (k *Killer) doom(ctx context.Context, g *grant.Grant, cause string, failed error) error {
	now := k.now()
	err := k.ledger.Doom(context.WithoutCancel(ctx), g, func(d *grant.Doom) {
		if d.Attempts == 0 {
			d.Since, d.Cause = now, cause
		}
		d.Attempts++
		d.Next = now.Add(max(backoff(d.Attempts), downstream.AskedToWait(failed)))
		d.Error, d.Final = fault.Public(failed), givenUp(g, failed)
	})
	if err != nil && !errors.Is(err, grant.ErrGone) {
		return errors.Join(err, errUnrecorded)
	}
	return err
}

// backoff doubles from 5 s to 10 min, with jitter so that an outage's end is not
// a burst.
func backoff(attempts int) time.Duration {
	d := 5 * time.Second << min(attempts-1, 7)
	d = min(d, 10*time.Minute)
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
}

// Discard kills a child that will not be handed out. It was perhaps never
// recorded: if it cannot be killed now it is recorded as doomed, and if even
// that fails it is kept in memory until it can be.
func (k *Killer) Discard(ctx context.Context, p *downstream.Provider, g *grant.Grant, cause string) error {
	failed := downstream.ErrNotRevocable
	if !g.Handle.Empty() {
		killCtx, cancel := context.WithTimeout(ctx, downstream.SettleBudget)
		defer cancel()
		failed = k.reaper.Revoke(killCtx, p, g.Handle)
	}
	if failed != nil {
		err := k.recordDoomed(ctx, g, cause, failed)
		if _, ended := k.door.State(); ended {
			k.killLate(p, g, failed)
		}
		return errors.Join(failed, err)
	}
	k.meters.Killed(g.Provider, cause)
	if err := k.ledger.Remove(ctx, g); err != nil {
		// The token is dead. A record of it may be there: the sweep takes it away.
		k.logger().Warn("a token that was not handed out is dead, but its record could not be deleted", "grant_id", g.ID, "error", err)
		_ = k.recordDoomed(ctx, g, cause, stored.Fault(err))
	}
	return nil
}

// recordDoomed puts a grant that was perhaps never recorded into the outbox, in
// memory if there is no other way.
func (k *Killer) recordDoomed(ctx context.Context, g *grant.Grant, cause string, failed error) error {
	now := k.now()
	g.IssuedAt, g.LeaseEnds, g.MaxLease, g.Withheld = now, now, now, true
	if !g.Handle.Empty() { // else nobody need try again: it is on record until it expires
		g.Doom = &grant.Doom{Since: now, Cause: cause, Attempts: 1, Next: now.Add(max(backoff(1), downstream.AskedToWait(failed))), Error: fault.Public(failed), Final: errors.Is(failed, provider.ErrCannotRevoke)}
	}
	return k.ledger.Keep(ctx, g)
}
