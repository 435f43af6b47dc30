package ending

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// What hangs on one lever dies together. An operator's kill and the leaving of a holder
// pull it whoever else holds it: nobody waits for bystanders while a token must die. The
// end of a lease, and what the sweep finds, pull it only once nobody holds it any more,
// and release the grant until then.
//
// A kill pulls each lever once. If that fails, every grant that it means is in the outbox:
// the sweep pulls again with the handle of another one. No time says who has died, since
// clocks step: it is what was on record when the pull began. A crash between a pull and the
// removal of its grants repeats the pull, which finds everything gone.

// pullsAtOnce reports whether a kill for that cause pulls a lever that others hold.
func (k *Killer) pullsAtOnce(ctx context.Context, ref, cause string) bool {
	switch cause {
	case CauseHolderGone, CauseHolderDisabled, CauseProviderGone, causeMountLeaves, causeMountDisabled:
		return true
	case CauseLeaseEnded, CauseNotHandedOut, CauseReturned:
		return k.tainted() // what does not die now may outlive the mount
	case causeOverstayed, causeHolderUnfit, causeRoleDeleted:
		p, err := k.reaper.MustOpen(ctx, ref)
		return err == nil && p.Traits.SweepPulls
	}
	return strings.HasPrefix(cause, "revoke/") || strings.HasPrefix(cause, CauseSignal)
}

// mayHang reports whether others may die with a grant: what an intent hangs on is not known
// yet.
func mayHang(g *grant.Grant) bool { return g.Lever != "" || g.IsIntent() }

// strengthen lets a kill that pulls at once stand, and not the one of before that spared
// others.
func (k *Killer) strengthen(ctx context.Context, d *grant.Doom, g *grant.Grant, cause string) {
	if mayHang(g) && k.pullsAtOnce(ctx, g.Provider, cause) {
		d.Cause = cause
	}
}

// errMeant is that somebody wants a grant dead that was to be released.
var errMeant = errors.New("the grant is to die at once")

// mayBeReleased is errMeant where a kill that pulls at once stands, whoever decided it
// meanwhile. It is asked in the edit itself.
func (k *Killer) mayBeReleased(ctx context.Context, g *grant.Grant) error {
	if g.Doom != nil && k.pullsAtOnce(ctx, g.Provider, g.Doom.Cause) {
		return errMeant
	}
	return nil
}

// killOn kills a grant that hangs on a lever, or releases it.
func (k *Killer) killOn(ctx context.Context, g *grant.Grant, cause string, in meant) (fate, error) {
	lever := grant.Lever{Provider: g.Provider, Name: g.Lever}
	if !k.pullsAtOnce(ctx, g.Provider, cause) {
		spared, err := k.release(ctx, lever, g, cause)
		if errors.Is(err, errMeant) {
			return k.again(ctx, g, cause, in)
		}
		if err != nil || spared {
			return released, err
		}
	}
	if err := k.pullOnce(ctx, lever, g, 0, in); err != nil {
		return k.postpone(ctx, g, cause, in, err)
	}
	return revoked, k.forget(ctx, g, cause, in)
}

// pullOnce pulls the lever by the handle of a grant, unless the same kill has pulled it
// after the pull of that number, and since the grant is on record.
func (k *Killer) pullOnce(ctx context.Context, lever grant.Lever, g *grant.Grant, after uint64, in meant) error {
	in.made.await(lever, g.ID)
	for {
		at, mine := in.made.join(lever, g.ID, after, func() *pull {
			return &pull{number: k.recent.begin(lever, k.now()), since: k.ledger.WatchLever(lever), done: make(chan struct{})}
		})
		if mine {
			at.err = k.pull(ctx, lever, g, at, in)
			close(at.done)
			if at.err != nil {
				return ownHandle{at.err}
			}
			return nil
		}
		<-at.done
		if !at.refused() {
			return at.err
		}
	}
}

// ownHandle is a pull that failed by the handle of the grant itself.
type ownHandle struct{ error }

func (e ownHandle) Unwrap() error { return e.error }

// release lets a grant go whose token lives on because others hold its lever; false if
// nobody does.
func (k *Killer) release(ctx context.Context, lever grant.Lever, g *grant.Grant, cause string) (spared bool, err error) {
	if k.ledger.Loaded() && !k.othersOn(lever, g.ID) {
		return false, nil
	}
	if g.Doom != nil || !g.Released {
		_, err := k.ledger.Update(ctx, g.ID, func(g *grant.Grant) error {
			if err := k.mayBeReleased(ctx, g); err != nil {
				return err
			}
			g.Released, g.Doom = true, nil
			return nil
		})
		if errors.Is(err, grant.ErrGone) {
			return true, nil
		}
		if errors.Is(err, errMeant) {
			return false, err
		}
		if err != nil {
			return false, stored.Fault(err)
		}
		k.logger().Info("grant released: its token lives on, because others hold what it would die with", "event", "grant_released", "grant_id", g.ID, "role", g.Role, "provider", g.Provider, "cause", cause)
		// Who has ended at the same time may have taken this one for a holder.
		if k.ledger.Loaded() && !k.othersOn(lever, g.ID) {
			return false, nil
		}
	}
	return true, nil
}

// othersOn reports whether others hold a lever. Who is to pull it does not: nobody waits
// for the attempts of others.
func (k *Killer) othersOn(lever grant.Lever, id string) bool {
	return k.ledger.HangingBeside(lever, id).Held > 0
}

// pull kills at the provider what hangs on the lever and removes the grants of it, but
// for that at hand and for those to which the kill comes by itself.
func (k *Killer) pull(ctx context.Context, lever grant.Lever, g *grant.Grant, at *pull, in meant) error {
	err := k.revoke(ctx, g)
	k.recent.end(lever, k.now())
	if err != nil {
		return err
	}
	// They are dead: what fails now makes no kill that has failed.
	if !k.ledger.Loaded() { // nobody knows yet whose they are
		in.settleLater(lever, died{g.ID, at, in})
		return nil
	}
	if err := k.settleAll(ctx, lever, died{g.ID, at, in}); err != nil {
		k.warnUnsettled(g.Provider, err)
	}
	return nil
}

func (k *Killer) warnUnsettled(ref string, err error) {
	k.logger().Warn("grants that have died with another one may stay on record until their leases end", "provider", ref, "error", err)
}

// settleAll removes what has died with a grant.
func (k *Killer) settleAll(ctx context.Context, lever grant.Lever, with died) error {
	if alone, err := k.ledger.AloneOn(ctx, lever, with.id); err != nil || alone {
		return err
	}
	group := errgroup.Group{}
	group.SetLimit(killParallel)
	err := k.ledger.WalkLever(ctx, lever, func(s *grant.Summary) bool {
		if with.spares(s) {
			return true
		}
		also := *s
		group.Go(func() error { return k.settle(ctx, &also, with.in) })
		return true
	})
	return errors.Join(err, group.Wait())
}

// settlePulled removes what has died with the levers that a kill has pulled while the records
// were still being read: it is looked for once, at each of their providers. So is what came
// with them, and a kill does not wait for the scan.
func (k *Killer) settlePulled(ctx context.Context, p *pulls) {
	if !p.anyUnsettled() {
		return
	}
	done, search := k.search(ctx)
	if !search {
		k.settleOne(ctx, p)
		return
	}
	defer done()
	for ref, pulled := range p.takeUnsettled() {
		group := errgroup.Group{}
		group.SetLimit(killParallel)
		err := k.ledger.Find(ctx, grant.OfProvider(ref), func(s *grant.Summary) bool {
			lever, hangs := s.On()
			with, dead := pulled[lever]
			if !hangs || !dead || with.spares(s) {
				return true
			}
			also := *s
			group.Go(func() error { return k.settle(ctx, &also, with.in) })
			return true
		})
		if err := errors.Join(err, group.Wait()); err != nil {
			k.warnUnsettled(ref, err)
		}
	}
}

// settleOne is settlePulled for a kill of one. There may be many of these, such as of all
// leases of a mount that ends, each of which would search by itself: they wait for the scan,
// together.
func (k *Killer) settleOne(ctx context.Context, p *pulls) {
	for ref, pulled := range p.takeUnsettled() {
		err := k.ledger.Load(ctx)
		for lever, with := range pulled {
			if err == nil {
				err = k.settleAll(ctx, lever, with)
			}
		}
		if err != nil {
			k.warnUnsettled(ref, err)
		}
	}
}

// settle forgets a grant that has died with its lever.
func (k *Killer) settle(ctx context.Context, s *grant.Summary, in meant) error {
	k.closeShare(s.ID)
	g, err := k.ledger.Get(ctx, s.ID)
	if errors.Is(err, grant.ErrGone) {
		return nil
	}
	if err == nil {
		err = k.ledger.Remove(ctx, g)
	}
	if err != nil {
		return err
	}
	if !s.Released && !s.Doomed && !s.Over(k.now()) {
		in.bystander()
		e := kills.Describe(s)
		e.At = k.now()
		in.record.Hit(e)
	}
	k.attest(meant{}, g, causeLever, kills.Revoked)
	k.tell(g, causeLever)
	return nil
}

// discardOn lets a child go that hangs on a lever and will not be handed out. It is
// recorded, whatever becomes of it: nobody has it, and with the lever it dies.
func (k *Killer) discardOn(ctx context.Context, g *grant.Grant, cause string) error {
	k.keepReleased(ctx, g)
	ctx, cancel := context.WithTimeout(ctx, downstream.SettleBudget)
	defer cancel()
	what, err := k.kill(ctx, g.ID, cause)
	if err == nil && what == released {
		return ErrReleased
	}
	return err
}

func (k *Killer) keepReleased(ctx context.Context, g *grant.Grant) {
	now := k.now()
	g.IssuedAt, g.LeaseEnds, g.MaxLease, g.Withheld, g.Released = now, now, now, true, true
	if err := k.ledger.Keep(ctx, g); err != nil {
		k.logger().Warn("a token that is not handed out could not be recorded yet", "grant_id", g.ID, "error", err)
	}
}

// leaveOn lets a child live that came after the end of this process, where others may hold
// its lever: the records stay, and whoever serves them next pulls it in time. False if nobody
// does, or somebody wants it dead.
func (k *Killer) leaveOn(ctx context.Context, g *grant.Grant) bool {
	if k.ledger.Loaded() && !k.othersOn(grant.Lever{Provider: g.Provider, Name: g.Lever}, g.ID) {
		return false
	}
	k.keepReleased(ctx, g)
	return k.mayBeReleased(ctx, g) == nil
}

// ErrReleased is Discard's where the token lives on, because others hold its lever.
var ErrReleased = errors.New("others hold what the token would die with")

// killIdle pulls the levers that nobody holds any more: their last lease ended while the
// records were still being read, or the process died before it had pulled them.
func (k *Killer) killIdle(ctx context.Context, slice time.Duration, made *made) (runs []*Run, problems error) {
	if !k.ledger.Loaded() {
		return nil, nil
	}
	deadline := time.Now().Add(slice)
	var targets []target
	for _, lever := range k.ledger.Idle() {
		if len(targets) == dueBatch || len(targets) > 0 && time.Now().After(deadline) {
			break
		}
		err := k.ledger.WalkLever(ctx, lever, func(s *grant.Summary) bool {
			if s.Doomed || s.Over(k.now()) || k.queue.has(s.ID) { // or it is tried again by itself
				return true
			}
			targets = append(targets, target{Summary: *s, cause: CauseLeaseEnded})
			return false
		})
		if err != nil {
			problems = errors.Join(problems, stored.Fault(err))
		}
	}
	if len(targets) > 0 {
		runs = append(runs, k.startThose(ctx, targets, made))
	}
	return runs, problems
}
