package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// killIntent looks for what has come of a mint whose answer nobody has recorded, kills
// what it finds, and forgets the intent. Before its deadline the mint may still be under
// way: then it stays in the outbox until then, and an answer that comes is not handed out.
func (k *Killer) killIntent(ctx context.Context, g *grant.Grant, cause string, in meant) (fate, error) {
	killed, spared, err := k.killFound(ctx, g, cause, in)
	if err != nil {
		what, err := k.postpone(ctx, g, cause, in, err)
		if what == unkillable {
			err = k.endSomeday(ctx, g)
		}
		return what, err
	}
	switch now := k.now(); {
	case now.Before(g.Intent):
		return gone, k.awaitIntent(ctx, g, cause, in, now)
	case spared != nil:
		err := k.adopt(ctx, g, spared, now)
		if errors.Is(err, errMeant) {
			return k.again(ctx, g, cause, in)
		}
		return released, err
	}
	withdrawn, err := k.ledger.Withdraw(ctx, g.ID)
	if err != nil {
		return gone, stored.Fault(errors.Join(err, k.doom(ctx, g, cause, in, stored.Fault(err))))
	}
	if !withdrawn {
		return gone, fault.New(fault.TemporarilyUnavailable, "grant %s is not dead yet: its answer has come meanwhile; the broker keeps trying", g.ID)
	}
	if killed == 0 {
		k.logger().Info("nothing has come of a mint whose answer was lost", "grant_id", g.ID, "role", g.Role, "provider", g.Provider)
		return nothing, nil
	}
	k.tell(g, cause)
	return revoked, nil
}

// killFound kills what the provider finds by the grant's name, but for what hangs on a
// lever that others hold: that is spared where the cause spares them.
func (k *Killer) killFound(ctx context.Context, g *grant.Grant, cause string, in meant) (killed int, spared *provider.Found, err error) {
	bounded, cancel := context.WithTimeout(ctx, killBudget)
	defer cancel()
	p, err := k.reaper.MustOpen(bounded, g.Provider)
	if err != nil {
		return 0, nil, err
	}
	found, err := k.reaper.Find(bounded, p, provider.Trace{GrantID: g.ID, Where: g.Where})
	if err != nil {
		return 0, nil, err
	}
	// A pull that has begun before they were found may have come before them.
	atOnce, before := k.pullsAtOnce(ctx, g.Provider, cause), k.Pulls()
	var problems error
	for i, f := range found {
		lever := grant.Lever{Provider: g.Provider, Name: f.Lever}
		switch {
		case f.Lever == "":
			err = k.reaper.Revoke(bounded, p, f.Handle)
		case !atOnce && (!k.ledger.Loaded() || k.othersOn(lever, g.ID)):
			if spared != nil && spared.Lever != f.Lever {
				err = fault.New(fault.TemporarilyUnavailable, "others hold the several things that its children would die with")
				break
			}
			spared = &found[i]
			continue
		default:
			alike := *g
			alike.Handle = f.Handle
			err = k.pullOnce(ctx, lever, &alike, before, in)
		}
		problems = errors.Join(problems, err)
		killed++
	}
	return killed, spared, problems
}

// adopt makes an intent the grant of the child that was found and spared. Nobody has it,
// and it dies with its lever.
func (k *Killer) adopt(ctx context.Context, g *grant.Grant, found *provider.Found, now time.Time) error {
	_, err := k.ledger.Update(ctx, g.ID, func(g *grant.Grant) error {
		if !g.IsIntent() {
			return grant.ErrChanged // whose kill goes on as a grant's
		}
		if err := k.mayBeReleased(ctx, g); err != nil {
			return err
		}
		g.Intent, g.Doom, g.Withheld, g.Released = time.Time{}, nil, true, true
		g.Lever, g.Handle, g.ExpiresAt = found.Lever, found.Handle, found.ExpiresAt
		g.Class, g.LeaseEnds, g.MaxLease = provider.ClassLever, now, now
		return nil
	})
	if err == nil || errors.Is(err, grant.ErrGone) {
		return nil
	}
	if errors.Is(err, errMeant) {
		return err
	}
	return stored.Fault(err)
}

// awaitIntent puts an intent that is to die into the outbox until its deadline.
func (k *Killer) awaitIntent(ctx context.Context, g *grant.Grant, cause string, in meant, now time.Time) error {
	marked := grant.Doom{}
	err := k.ledger.Doom(context.WithoutCancel(ctx), g, func(d *grant.Doom) {
		k.strengthen(ctx, d, g, cause)
		if d.Attempts == 0 {
			d.Since, d.Cause = now, cause
		}
		d.Attempts++
		d.Next, d.Error = g.Intent, "its mint may be under way"
		in.mean(d)
		marked = *d
	})
	if errors.Is(err, grant.ErrGone) {
		return nil
	}
	g.Doom = &marked
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
