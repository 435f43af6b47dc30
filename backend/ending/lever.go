package ending

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// What hangs on one lever dies together. An operator's kill and the leaving of a holder
// pull it whoever else holds it: nobody waits for bystanders while a token must die. The
// end of a lease, and what the sweep finds, pull it only once nobody holds it any more,
// and release the grant until then.
//
// A pull that failed is in the outbox once, with the grant that it was tried for: the
// others die with that one's next attempt. A crash between a pull and the removal of
// its grants repeats the pull, which finds everything gone.

// pulls are the levers that one kill pulls, each once.
type pulls struct {
	// chosen reports whether the kill means a grant and comes to it by itself; nil if it
	// means only the one at hand.
	chosen func(*grant.Summary) bool

	mu         sync.Mutex
	of         map[grant.Lever]*pull
	bystanders int
}

// pull is one lever pulled; what was issued before it began is dead.
type pull struct {
	since time.Time
	done  chan struct{}
	err   error // to be read when done
}

func newPulls(chosen func(*grant.Summary) bool) *pulls {
	return &pulls{chosen: chosen, of: map[grant.Lever]*pull{}}
}

// join is the pull that kills what was issued at that time; mine if the caller has to
// make it.
func (p *pulls) join(lever grant.Lever, issued, now time.Time) (at *pull, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := p.of[lever]; at != nil && !issued.After(at.since) {
		return at, false
	}
	at = &pull{since: now, done: make(chan struct{})}
	p.of[lever] = at
	return at, true
}

func (p *pulls) spares(s *grant.Summary) bool { return p.chosen != nil && p.chosen(s) }

func (p *pulls) bystander() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bystanders++
}

// counted is how many grants of others have died with the levers so far.
func (p *pulls) counted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bystanders
}

// pullsAtOnce reports whether a kill for that cause pulls a lever that others hold.
func (k *Killer) pullsAtOnce(ctx context.Context, ref, cause string) bool {
	switch cause {
	case causeHolderGone, causeHolderDisabled, CauseProviderGone, causeMountLeaves, causeMountDisabled:
		return true
	case CauseLeaseEnded, CauseNotHandedOut:
		return k.tainted() // what does not die now may outlive the mount
	case causeOverstayed, causeHolderUnfit, causeRoleDeleted:
		p, err := k.reaper.MustOpen(ctx, ref)
		return err == nil && p.Traits.SweepPulls
	}
	return strings.HasPrefix(cause, "revoke/")
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

// killOn kills a grant that hangs on a lever, or releases it.
func (k *Killer) killOn(ctx context.Context, g *grant.Grant, cause string, in *pulls) (fate, error) {
	lever := grant.Lever{Provider: g.Provider, Name: g.Lever}
	switch {
	case !k.pullsAtOnce(ctx, g.Provider, cause):
		if spared, err := k.release(ctx, lever, g, cause); err != nil || spared {
			return released, err
		}
	case hasLeft(cause):
		// The sweep comes again every minute, and an attempt is due already.
		if g.Doom == nil && k.ledger.HangingBeside(lever, g.ID).Doomed > 0 {
			return gone, notPulled(g, errPulledLater)
		}
	}
	at := k.pullOnce(ctx, lever, g, g.IssuedAt, in)
	switch {
	case at.err == nil:
		return revoked, k.forget(ctx, g, cause)
	case at.mine || g.Doom != nil || errors.Is(at.err, provider.ErrCannotRevoke):
		return k.postpone(ctx, g, cause, at.err)
	}
	return gone, notPulled(g, at.err)
}

// pulled is a pull that has been made.
type pulled struct {
	mine bool
	err  error
}

// pullOnce pulls the lever by the handle of a grant, unless the same kill has pulled it
// since that was issued.
func (k *Killer) pullOnce(ctx context.Context, lever grant.Lever, g *grant.Grant, issued time.Time, in *pulls) pulled {
	at, mine := in.join(lever, issued, k.now())
	if mine {
		at.err = k.pull(ctx, lever, g, at.since, in)
		close(at.done)
	}
	<-at.done
	return pulled{mine, at.err}
}

// errPulledLater is that somebody else is to pull the lever, whose next attempt is not
// due yet.
var errPulledLater = fault.New(fault.TemporarilyUnavailable, "an attempt has failed before")

// notPulled is for a grant that dies with another one's next attempt.
func notPulled(g *grant.Grant, why error) error {
	return fault.New(fault.TemporarilyUnavailable, "grant %s is not dead yet: what it hangs on could not be killed (%s); the broker keeps trying", g.ID, fault.Public(why)).Because(why)
}

// release lets a grant go whose token lives on because others hold its lever; false if
// nobody does.
func (k *Killer) release(ctx context.Context, lever grant.Lever, g *grant.Grant, cause string) (spared bool, err error) {
	doomed := g.Doom != nil
	if k.ledger.Loaded() && !k.othersOn(lever, g.ID, doomed) {
		return false, nil
	}
	if doomed || !g.Released {
		_, err := k.ledger.Update(ctx, g.ID, func(g *grant.Grant) error {
			g.Released, g.Doom = true, nil
			return nil
		})
		if errors.Is(err, grant.ErrGone) {
			return true, nil
		}
		if err != nil {
			return false, stored.Fault(err)
		}
		k.logger().Info("grant released: its token lives on, because others hold what it would die with", "event", "grant_released", "grant_id", g.ID, "role", g.Role, "provider", g.Provider, "cause", cause)
		// Who has ended at the same time may have taken this one for a holder.
		if k.ledger.Loaded() && !k.othersOn(lever, g.ID, doomed) {
			return false, nil
		}
	}
	return true, nil
}

// othersOn reports whether others hold a lever, or are to pull it: that one waits for
// them. Two who are to pull it do not wait for each other.
func (k *Killer) othersOn(lever grant.Lever, id string, doomed bool) bool {
	others := k.ledger.HangingBeside(lever, id)
	return others.Held > 0 || others.Doomed > 0 && !doomed
}

// pull kills at the provider what hangs on the lever and removes the grants of it, but
// for that at hand and for those to which the kill comes by itself.
func (k *Killer) pull(ctx context.Context, lever grant.Lever, g *grant.Grant, since time.Time, in *pulls) error {
	k.recent.note(lever, since)
	if err := k.revoke(ctx, g); err != nil {
		return err
	}
	// Whose grants they are is known once all records have been read.
	if err := k.ledger.Load(ctx); err != nil {
		return LedgerFault(err)
	}
	group := errgroup.Group{}
	group.SetLimit(killParallel)
	err := k.ledger.WalkLever(ctx, lever, func(s *grant.Summary) bool {
		if s.ID == g.ID || s.IssuedAt.After(since) || in.spares(s) {
			return true
		}
		also := *s
		group.Go(func() error { return k.settle(ctx, &also, in) })
		return true
	})
	if err = errors.Join(err, group.Wait()); err != nil {
		return stored.Fault(err)
	}
	return nil
}

// settle forgets a grant that has died with its lever.
func (k *Killer) settle(ctx context.Context, s *grant.Summary, in *pulls) error {
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
	}
	k.tell(g, causeLever)
	return nil
}

// discardOn lets a child go that hangs on a lever and will not be handed out. It is
// recorded, whatever becomes of it: nobody has it, and with the lever it dies.
func (k *Killer) discardOn(ctx context.Context, g *grant.Grant, cause string) error {
	now := k.now()
	g.IssuedAt, g.LeaseEnds, g.MaxLease, g.Withheld, g.Released = now, now, now, true, true
	if err := k.ledger.Keep(ctx, g); err != nil {
		k.logger().Warn("a token that is not handed out could not be recorded yet", "grant_id", g.ID, "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, downstream.SettleBudget)
	defer cancel()
	what, err := k.try(ctx, g.ID, cause, newPulls(nil))
	if err == nil && what == released {
		return ErrReleased
	}
	return err
}

// ErrReleased is Discard's where the token lives on, because others hold its lever.
var ErrReleased = errors.New("others hold what the token would die with")

// killIdle pulls the levers that nobody holds any more: their last lease ended while the
// records were still being read, or the process died before it had pulled them.
func (k *Killer) killIdle(ctx context.Context, slice time.Duration) (runs []*Run, problems error) {
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
			if s.Over(k.now()) || k.queue.has(s.ID) {
				return true
			}
			targets = append(targets, target{*s, CauseLeaseEnded})
			return false
		})
		if err != nil {
			problems = errors.Join(problems, stored.Fault(err))
		}
	}
	if len(targets) > 0 {
		runs = append(runs, k.startThose(ctx, targets))
	}
	return runs, problems
}

// expire forgets a grant whose token has certainly expired.
func (k *Killer) expire(ctx context.Context, g *grant.Grant, cause string) error {
	if err := k.passOn(ctx, g); err != nil {
		return stored.Fault(err)
	}
	return k.remove(ctx, g, cause, k.tellExpired)
}

// passOn puts another grant of the lever into the outbox in place of one that has
// expired there: the others have waited for that one's kill. A lever that was not to be
// pulled at once needs no heir: it is idle, or held.
func (k *Killer) passOn(ctx context.Context, g *grant.Grant) error {
	if g.Lever == "" || g.Doom == nil || !k.pullsAtOnce(ctx, g.Provider, g.Doom.Cause) {
		return nil
	}
	if err := k.ledger.Load(ctx); err != nil {
		return LedgerFault(err)
	}
	lever := grant.Lever{Provider: g.Provider, Name: g.Lever}
	next := ""
	err := k.ledger.WalkLever(ctx, lever, func(s *grant.Summary) bool {
		if s.ID != g.ID && !s.Over(k.now()) && !s.IssuedAt.After(g.Doom.Since) {
			next = s.ID
		}
		return next == ""
	})
	if err != nil || next == "" {
		return err
	}
	heir, err := k.ledger.Get(ctx, next)
	if errors.Is(err, grant.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	return k.ledger.Doom(ctx, heir, func(d *grant.Doom) {
		if d.Attempts == 0 {
			d.Since, d.Error = g.Doom.Since, g.Doom.Error
		}
		d.Cause, d.Attempts, d.Next = g.Doom.Cause, d.Attempts+1, k.now()
	})
}

// recent numbers the pulls, and remembers the last one of each lever for a while: a token
// that was asked for before one and recorded after it is dead.
type recent struct {
	last atomic.Uint64

	mu     sync.Mutex
	of     map[grant.Lever]numbered
	pruned time.Time
}

type numbered struct {
	number uint64
	at     time.Time
}

// pulledFor is how long a pull is remembered, longer than a request takes.
const pulledFor = 5 * time.Minute

func (p *recent) note(lever grant.Lever, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of, p.pruned = map[grant.Lever]numbered{}, at
	}
	if at.Sub(p.pruned) > pulledFor {
		maps.DeleteFunc(p.of, func(_ grant.Lever, pull numbered) bool { return at.Sub(pull.at) > pulledFor })
		p.pruned = at
	}
	p.of[lever] = numbered{p.last.Add(1), at}
}

// Pulls is the number of the last pull.
func (k *Killer) Pulls() uint64 { return k.recent.last.Load() }

// PulledSince reports whether the lever of a grant was pulled after the pull of that
// number.
func (k *Killer) PulledSince(g *grant.Grant, number uint64) bool {
	if g.Lever == "" {
		return false
	}
	k.recent.mu.Lock()
	defer k.recent.mu.Unlock()
	return k.recent.of[grant.Lever{Provider: g.Provider, Name: g.Lever}].number > number
}
