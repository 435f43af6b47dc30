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
)

// The outbox is the grants on record that have a Doom: a kill that was decided and has
// failed so far. The sweep tries them again when they are due.

// errUnrecorded is in the chain of a kill's failure that is in memory only.
var errUnrecorded = errors.New("the outbox could not be written")

// postpone makes a failed revocation durable and says so; the grant is unkillable if
// there is nothing to be tried again.
func (k *Killer) postpone(ctx context.Context, g *grant.Grant, cause string, in meant, failed error) (fate, error) {
	err := k.doom(ctx, g, cause, in, failed)
	if errors.Is(err, grant.ErrGone) {
		return gone, nil // somebody else's attempt succeeded meanwhile
	}
	if err == nil && givenUp(g.Doom, failed) {
		k.logger().Warn("a token cannot be revoked", "grant_id", g.ID, "provider", g.Provider, "error", fault.Public(failed))
		return unkillable, nil
	}
	return gone, fault.New(fault.TemporarilyUnavailable, "grant %s is not dead yet: its provider %s could not revoke it (%s); the broker keeps trying", g.ID, g.Provider, fault.Public(failed)).Because(errors.Join(failed, err))
}

// doom writes a failed attempt into the outbox, or keeps it in memory until the
// outbox can be written: then errUnrecorded is in the error's chain.
func (k *Killer) doom(ctx context.Context, g *grant.Grant, cause string, in meant, failed error) error {
	now, marked := k.now(), grant.Doom{}
	err := k.ledger.Doom(context.WithoutCancel(ctx), g, func(d *grant.Doom) {
		k.strengthen(ctx, d, g, cause)
		fail(d, now, cause, failed)
		in.mean(d)
		marked = *d
	})
	if marked.Attempts > 0 {
		g.Doom = &marked
	}
	if err != nil && !errors.Is(err, grant.ErrGone) {
		return errors.Join(err, errUnrecorded)
	}
	return err
}

// keepDoomed puts a grant that was perhaps never recorded into the outbox, in
// memory if there is no other way.
func (k *Killer) keepDoomed(ctx context.Context, g *grant.Grant, cause string, failed error) error {
	now := k.now()
	g.IssuedAt, g.LeaseEnds, g.MaxLease, g.Withheld = now, now, now, true
	if !g.Handle.Empty() { // else nobody need try again: it is on record until it expires
		g.Doom = &grant.Doom{}
		fail(g.Doom, now, cause, failed)
	}
	return k.ledger.Keep(ctx, g)
}

// fail notes one more failed attempt.
func fail(d *grant.Doom, now time.Time, cause string, failed error) {
	if d.Attempts == 0 {
		d.Since, d.Cause = now, cause
	}
	d.Attempts++
	if own := (ownHandle{}); errors.As(failed, &own) {
		d.Tried++
	}
	d.Next = now.Add(max(backoff(d.Attempts), downstream.AskedToWait(failed)))
	d.Error, d.Final = fault.Public(failed), givenUp(d, failed)
}

// givenUp reports whether the provider has refused for good, now or before: an operator's
// kill tries again all the same, in case that the provider was mended.
func givenUp(d *grant.Doom, failed error) bool {
	return errors.Is(failed, provider.ErrCannotRevoke) || (d != nil && d.Final)
}

// backoff doubles from 5 s to 10 min, with jitter so that an outage's end is not
// a burst.
func backoff(attempts int) time.Duration {
	d := 5 * time.Second << min(attempts-1, 7)
	d = min(d, 10*time.Minute)
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
}
