package downstream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Rotation on a schedule: a parent credential that can be rotated without anybody's hand
// is, once it is as old as rotation_period. A rotation that fails is tried again; the
// credential of before stays, because a provider's Rotate forgets none before the next one
// is proven to work.
const (
	// minRotationPeriod keeps a schedule from being more than a provider stands.
	minRotationPeriod = time.Hour
	// rotationSpread is the part of a period by which a rotation may come early, so that
	// providers that were written together are not rotated together.
	rotationSpread = 10
	// The time between two attempts doubles from the one to the other.
	rotationRetry, maxRotationRetry = time.Minute, time.Hour
)

// schedule is when a provider's parent is to be rotated; due is zero if it never is.
type schedule struct{ due time.Time }

// scheduleOf is early by a part of the period that the provider's name decides, so that
// each node of a cluster finds the same time.
func scheduleOf(ref string, e *Entry) schedule {
	period := e.Settings.RotationPeriod
	if period == 0 || e.Settings.Disabled || e.RotatedAt.IsZero() {
		return schedule{}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(ref)) // it never fails
	early := period / rotationSpread * time.Duration(h.Sum32()%1000) / 1000
	return schedule{due: e.RotatedAt.Add(period - early)}
}

// attempts are those of one provider since its last rotation succeeded.
type attempts struct {
	mu      sync.Mutex
	running bool
	failed  int
	next    time.Time
	why     string
	since   time.Time
}

// Overdue says that a provider's parent should have been rotated and could not be.
type Overdue struct {
	Since, Next time.Time
	Attempts    int
	Why         string
}

// RotationsDue are the providers whose parent is to be rotated now, and is not being.
func (r *Registry) RotationsDue(ctx context.Context) ([]string, error) {
	refs, err := r.Refs(ctx)
	if err != nil {
		return nil, err
	}
	var due []string
	now := r.deps.Now()
	for _, ref := range refs {
		s, err := r.schedules.Get(ref, func() (schedule, error) {
			entry, err := r.Read(ctx, ref)
			if err != nil {
				return schedule{}, err
			}
			return scheduleOf(ref, entry), nil
		})
		if errors.Is(err, stored.ErrAbsent) {
			continue
		}
		if err != nil {
			r.deps.Logger().Warn("it is not known when a parent credential is to be rotated", "provider", ref, "error", err)
			continue
		}
		if !s.due.IsZero() && !now.Before(s.due) && r.site(ref).rotations.mayTry(now) {
			due = append(due, ref)
		}
	}
	return due, nil
}

func (a *attempts) mayTry(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.running && !now.Before(a.next)
}

// RotateOnSchedule is Upkeep for a rotation that is due, with nobody there who knows that
// the provider is down: it is refused while mints are spared the provider. end takes
// how the rotation ended, and returns that as it is believed; it is to be called in any
// case, and before that no other one begins.
func (r *Registry) RotateOnSchedule(ctx context.Context, ref string) (u *Upkeep, end func(error) error, err error) {
	a := &r.site(ref).rotations
	if !a.begin() {
		return nil, nil, errUpkeep
	}
	p, err := r.MustOpen(ctx, ref)
	if err == nil {
		err = p.MayMint(Kind{})
	}
	if err == nil {
		u, err = r.Upkeep(ctx, ref)
	}
	if err != nil {
		a.end(r.deps.Now(), err)
		return nil, nil, err
	}
	before, err := r.stillDue(ctx, ref)
	if err != nil {
		u.Done()
		a.end(r.deps.Now(), err)
		return nil, nil, err
	}
	return u, func(err error) error {
		if err == nil {
			err = r.wasRotated(ctx, ref, before)
		}
		a.end(r.deps.Now(), err)
		return err
	}, nil
}

// ErrNotDue is that the parent was rotated, or written, while a rotation waited for its
// turn: that is no failure.
var ErrNotDue = errors.New("the parent credential is not due any more")

// stillDue returns since when the parent is what it is, or ErrNotDue.
func (r *Registry) stillDue(ctx context.Context, ref string) (since time.Time, err error) {
	entry, err := r.Read(ctx, ref)
	if err != nil {
		return since, err
	}
	if s := scheduleOf(ref, entry); s.due.IsZero() || r.deps.Now().Before(s.due) {
		return since, ErrNotDue
	}
	return entry.RotatedAt, nil
}

// wasRotated does not believe a rotation after which the same parent is stored.
func (r *Registry) wasRotated(ctx context.Context, ref string, before time.Time) error {
	entry, err := r.Read(ctx, ref)
	if err == nil && !entry.RotatedAt.After(before) {
		err = fault.New(fault.TemporarilyUnavailable, "the provider says that it has rotated its parent credential, and the same one is stored")
	}
	return err
}

func (a *attempts) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running {
		return false
	}
	a.running = true
	return true
}

func (a *attempts) end(now time.Time, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running = false
	if err == nil || errors.Is(err, ErrNotDue) {
		a.failed, a.next, a.why, a.since = 0, time.Time{}, "", time.Time{}
		return
	}
	if a.failed == 0 {
		a.since = now
	}
	a.next = now.Add(min(rotationRetry<<min(a.failed, 10), maxRotationRetry))
	a.failed++
	a.why = fault.Public(err)
}

// forget is for when somebody has written or rotated the parent, or the schedule.
func (a *attempts) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed, a.next, a.why, a.since = 0, time.Time{}, "", time.Time{}
}

// overdue is nil while nothing has failed.
func (a *attempts) overdue() *Overdue {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == 0 {
		return nil
	}
	return &Overdue{Since: a.since, Next: a.next, Attempts: a.failed, Why: a.why}
}

// String is for operators.
func (o *Overdue) String() string {
	return fmt.Sprintf("the parent credential should have been rotated (rotation_period): since %s %d attempts failed, the last one because %s; the next one is due at %s", stamp(o.Since), o.Attempts, o.Why, stamp(o.Next))
}

// CheckRotation refuses a rotation_period for a provider that cannot keep it.
func (p *Provider) CheckRotation() error {
	if p.Settings.RotationPeriod > 0 && !p.Traits.RotatesAlone {
		return fault.New(fault.InvalidRequest, "rotation_period: providers of type %s cannot rotate their parent credential by themselves, because what is next has to be made, or made known, at the system by somebody: use providers/%s/rotate", p.typeName(), p.Ref)
	}
	return nil
}
