package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// killIntent looks for what has come of a mint whose answer nobody has recorded, kills
// what it finds, and forgets the intent. Before its deadline the mint may still be under
// way: then it stays in the outbox until then, and an answer that comes is not handed out.
func (k *Killer) killIntent(ctx context.Context, g *grant.Grant, cause string) (fate, error) {
	found, err := k.killFound(ctx, g)
	if err != nil {
		what, err := k.postpone(ctx, g, cause, err)
		if what == unkillable {
			err = k.endSomeday(ctx, g)
		}
		return what, err
	}
	if now := k.now(); now.Before(g.Intent) {
		return gone, k.awaitIntent(ctx, g, cause, now)
	}
	withdrawn, err := k.ledger.Withdraw(ctx, g.ID)
	if err != nil {
		return gone, stored.Fault(errors.Join(err, k.doom(ctx, g, cause, stored.Fault(err))))
	}
	if !withdrawn {
		return gone, fault.New(fault.TemporarilyUnavailable, "grant %s is not dead yet: its answer has come meanwhile; the broker keeps trying", g.ID)
	}
	if found == 0 {
		k.logger().Info("nothing has come of a mint whose answer was lost", "grant_id", g.ID, "role", g.Role, "provider", g.Provider)
		return nothing, nil
	}
	k.tell(g, cause)
	return revoked, nil
}

// killFound kills whatever the provider finds by the grant's name.
func (k *Killer) killFound(ctx context.Context, g *grant.Grant) (found int, err error) {
	ctx, cancel := context.WithTimeout(ctx, killBudget)
	defer cancel()
	p, err := k.reaper.MustOpen(ctx, g.Provider)
	if err != nil {
		return 0, err
	}
	handles, err := k.reaper.Find(ctx, p, g.ID)
	if err != nil {
		return 0, err
	}
	var problems error
	for _, handle := range handles {
		problems = errors.Join(problems, k.reaper.Revoke(ctx, p, handle))
	}
	return len(handles), problems
}

// awaitIntent puts an intent that is to die into the outbox until its deadline.
func (k *Killer) awaitIntent(ctx context.Context, g *grant.Grant, cause string, now time.Time) error {
	err := k.ledger.Doom(context.WithoutCancel(ctx), g, func(d *grant.Doom) {
		if d.Attempts == 0 {
			d.Since, d.Cause = now, cause
		}
		d.Attempts++
		d.Next, d.Error = g.Intent, "its mint may be under way"
	})
	if errors.Is(err, grant.ErrGone) {
		return nil
	}
	pending := fault.New(fault.TemporarilyUnavailable, "grant %s may still be on its way: it is looked for again at %s, and not handed out", g.ID, g.Intent.UTC().Format(time.RFC3339))
	if err != nil {
		return pending.Because(errors.Join(err, errUnrecorded))
	}
	return pending
}

// endSomeday lets the record of an intent end of whose children one can never be killed:
// nobody knows when that one expires.
func (k *Killer) endSomeday(ctx context.Context, g *grant.Grant) error {
	_, err := k.ledger.Update(ctx, g.ID, func(g *grant.Grant) error {
		g.Withheld = true
		return nil
	})
	if err != nil && !errors.Is(err, grant.ErrGone) {
		return stored.Fault(err)
	}
	return nil
}
