package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
)

// meant is how a kill means one grant: the levers that are pulled, and the record that is
// told what becomes of the grant. The end of a lease has no record.
type meant struct {
	*pulls
	record *kills.Record
	// listed is what the record has said of the grant.
	listed bool
}

// mean notes in a doom that the kill means the grant, so that its record is told of what
// comes later.
func (p meant) mean(d *grant.Doom) {
	if ref, ok := p.record.Ref(); ok {
		d.MeantBy(ref)
	}
}

// attest tells the records of all kills that meant a grant what has become of it. It
// takes no time. An ordinary end of a lease has nobody to tell.
func (k *Killer) attest(in meant, g *grant.Grant, cause string, state kills.State) {
	d := g.Doom
	if in.record == nil && (d == nil || len(d.Kills) == 0) {
		return
	}
	now := k.now()
	s := g.Summary()
	e := kills.Describe(&s)
	e.State, e.At = state, now
	if d != nil {
		e.Attempts, e.Error = d.Attempts, d.Error
	}
	if state == kills.Revoked {
		e.Attempts++
		k.timeDeath(in, g, cause, now)
	}
	in.record.Ended(e, in.listed)
	if d == nil {
		return
	}
	for _, kill := range d.Kills {
		if kill.ID != in.record.ID() {
			k.records.Later(kill.ID, e)
		}
	}
}

// stateOf is how a record calls what has become of a grant.
func stateOf(what fate, failed error) kills.State {
	if failed != nil {
		return kills.Pending
	}
	return map[fate]kills.State{
		gone: kills.Dead, expired: kills.Expired, revoked: kills.Revoked, unkillable: kills.ExpiryOnly, released: kills.Released, nothing: kills.Nothing,
	}[what]
}

// timeDeath measures from the first event to which a kill of the grant was the answer.
func (k *Killer) timeDeath(in meant, g *grant.Grant, cause string, now time.Time) {
	since := time.Time{}
	if ref, ok := in.record.Ref(); ok {
		since = ref.Event
	}
	if g.Doom != nil {
		for _, kill := range g.Doom.Kills {
			if since.IsZero() || kill.Event.Before(since) {
				since = kill.Event
			}
		}
	}
	if !since.IsZero() {
		k.meters.Died(g.Provider, cause, max(0, now.Sub(since)))
	}
}

// On whose word something is killed where nobody is named: on the sweep's, or an earlier
// build has not written it down.
const (
	bySweep   = "the broker's sweep"
	byEarlier = "not known: an earlier build has ordered it"
)

// sweepRecords are the records of what one sweep kills because of who its holders are: one
// for each holder who has left, one for each role that does not have some of its holders
// any more.
type sweepRecords struct {
	killer  *Killer
	what    string // of the last holder who has left
	leaving *kills.Record
	roles   map[string]*kills.Record // by cause and role
}

func (k *Killer) newSweepRecords() *sweepRecords {
	return &sweepRecords{killer: k, roles: map[string]*kills.Record{}}
}

// of is the record for a grant. Those of one holder come one after the other.
func (r *sweepRecords) of(t *target) *kills.Record {
	if !hasLeft(t.cause) {
		name := t.cause + " " + t.Role
		if _, begun := r.roles[name]; !begun {
			r.roles[name] = r.killer.beginSwept(t.cause, Thing{KindRole, t.Role}.String())
		}
		return r.roles[name]
	}
	if what := (Thing{KindEntity, t.Holder}).String(); what != r.what {
		r.leaving.End(true)
		r.what, r.leaving = what, r.killer.beginSwept(t.cause, what)
	}
	return r.leaving
}

// end says that no more will be found.
func (r *sweepRecords) end() {
	r.leaving.End(true)
	for _, record := range r.roles {
		record.End(true)
	}
}

func (k *Killer) beginSwept(cause, what string) *kills.Record {
	now := k.now()
	id, err := kills.NewID(now)
	if err != nil {
		k.logger().Error("a kill leaves no record", "what", what, "cause", cause, "error", err)
		return nil
	}
	return k.records.Begin(kills.Asked{ID: id, By: bySweep, Cause: cause}, []string{what}, now, false, false)
}

// KeepRecords writes what could not be written of the records before, keeps them within
// their bounds, and looks after those of kills that are not complete.
func (k *Killer) KeepRecords(ctx context.Context, retention, slice time.Duration) error {
	return k.records.Keep(ctx, retention, slice, func(ctx context.Context, id string) (bool, error) {
		_, known, err := k.ledger.Lookup(ctx, id)
		if errors.Is(err, grant.ErrUnreadable) {
			return true, nil // it is on record
		}
		return known, err
	})
}

// attestDiscarded is attest of a child that was not handed out, because a kill had come
// between perhaps: what is on record says which.
func (k *Killer) attestDiscarded(ctx context.Context, g *grant.Grant) {
	before, err := k.ledger.Get(ctx, g.ID)
	if err != nil || before.Doom == nil {
		return // the record of the kill is looked after
	}
	dead := g.Clone()
	dead.Doom = before.Doom
	k.attest(meant{}, dead, before.Doom.Cause, kills.Revoked)
}
