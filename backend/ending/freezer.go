package ending

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// The kinds of things that can be frozen, and killed by.
const (
	KindEntity   = "entity"
	KindRole     = "role"
	KindProvider = "provider"
	KindIssuer   = "issuer"
	// KindSubject is on whose behalf a grant was made, or who acts in it. See Subject.
	KindSubject = "subject"
	// KindPerson is whoever has what ties a person's identities. See FrozenPerson.
	KindPerson = "person"
)

// Thing is what can be frozen, and what grants can be killed by.
type Thing struct{ Kind, Name string }

// String is the thing's name among all kinds.
func (t Thing) String() string { return t.Kind + "/" + t.Name }

const (
	// rememberedFor is longer than any mint can be in flight.
	rememberedFor = time.Hour
	// tidyAfter spares those who freeze much in a short time.
	tidyAfter = time.Minute
)

// Freezer knows what may get no new grants. A freeze is in memory before it returns, and
// an issue looks again after it has recorded its grant: so either the kill that follows
// a freeze finds the grant, or the issue finds the freeze. It is safe for concurrent use.
type Freezer struct {
	now    func() time.Time
	frozen *frozenNames
	// Who is what ties a holder as Vault has it now, beside its id. It is asked only while
	// a person is frozen; nil: nobody is.
	Who func(ctx context.Context, holder string) ([]person.Tie, error)

	mu sync.RWMutex
	// count numbers this process's freezes, and last is each thing's latest one: a
	// mint that was in flight then is not handed out, thawed meanwhile or not.
	count uint64
	last  map[string]frozenAt
	// persons are those of last that are persons', among whom each issue looks.
	persons map[string]frozenAt
	// tidied is when it was last looked for what no mint is in flight of any more.
	tidied time.Time
}

// frozenAt is when this process froze something: by number, and by the clock so
// that it is forgotten one day.
type frozenAt struct {
	count uint64
	at    time.Time
	// person is whom a freeze of a person means.
	person *FrozenPerson
}

// NewFreezer knows what storage says; nothing is read yet.
func NewFreezer(storage logical.Storage, now func() time.Time) *Freezer {
	return &Freezer{now: now, frozen: newFrozenNames(storage), last: map[string]frozenAt{}, persons: map[string]frozenAt{}}
}

// Freeze stops new grants of a thing, durably. What is frozen already stays as it was.
func (f *Freezer) Freeze(ctx context.Context, what Thing, by string) error {
	name, now := what.String(), f.now()
	if err := f.frozen.add(ctx, name, Frozen{Since: now, By: by}); err != nil {
		return err
	}
	f.stop(name, now, nil)
	return nil
}

// stop keeps the mints in flight from being handed out that something is of, or a person.
func (f *Freezer) stop(name string, now time.Time, who *FrozenPerson) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if who != nil {
		f.persons[name] = frozenAt{count: f.count, at: now, person: who}
	} else {
		f.last[name] = frozenAt{count: f.count, at: now}
	}
	f.tidy(now)
}

// tidy forgets what no mint is in flight of any more that began before, now and then. The
// caller holds mu.
func (f *Freezer) tidy(now time.Time) {
	if since := now.Sub(f.tidied); since >= 0 && since < tidyAfter {
		return
	}
	f.tidied = now
	over := func(_ string, frozen frozenAt) bool { return now.Sub(frozen.at) > rememberedFor }
	maps.DeleteFunc(f.last, over)
	maps.DeleteFunc(f.persons, over)
}

// Thaw allows new grants of a thing again.
func (f *Freezer) Thaw(ctx context.Context, what Thing) error {
	if err := f.frozen.remove(ctx, what.String()); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tidy(f.now())
	return nil
}

// Frozen reports whether a thing gets no new grants now.
func (f *Freezer) Frozen(ctx context.Context, what Thing) (bool, error) {
	things := []Thing{what}
	if what.Kind == KindEntity {
		things = entities(what.Name)
	}
	found, err := f.frozen.anyOf(ctx, things)
	return len(found) > 0, err
}

// Basis is what a grant rests on, as far as a freeze can stop it.
type Basis struct {
	Holder, Role, Provider string
	// Parties are those on whose word: the subject, and who acts.
	Parties []grant.Party
	// Ties are what ties these to entities.
	Ties []person.Tie
}

// BasisOf is what a grant on record rests on.
func BasisOf(s *grant.Summary) Basis {
	return Basis{Holder: s.Holder, Role: s.Role, Provider: s.Provider, Parties: s.Parties(), Ties: s.Ties()}
}

// Check says what of a grant's is frozen.
func (f *Freezer) Check(ctx context.Context, of Basis) ([]*fault.Error, error) {
	var frozen []Thing
	var err error
	if !f.frozen.nothing() { // else nobody need spell out what there is of the grant's
		frozen, err = f.frozen.anyOf(ctx, of.things())
	}
	if err != nil {
		return nil, err
	}
	persons, err := f.personsOf(ctx, of)
	if err != nil {
		return nil, err
	}
	frozen = append(frozen, persons...)
	return refusals(frozen, "the %s is frozen: an operator has stopped its grants, and can thaw it (vault list -detailed broker/frozen tells who did)"), nil
}

// refusals are one for each kind.
func refusals(frozen []Thing, format string) (reasons []*fault.Error) {
	for i, what := range frozen {
		if !slices.ContainsFunc(frozen[:i], func(t Thing) bool { return t.Kind == what.Kind }) {
			reasons = append(reasons, fault.New(fault.AccessDenied, format, what.called()))
		}
	}
	return reasons
}

// Moment is now, for CheckSince.
func (f *Freezer) Moment() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.count
}

// CheckSince is Check, and also says what was frozen since the moment and has been
// thawed again.
func (f *Freezer) CheckSince(ctx context.Context, moment uint64, of Basis) ([]*fault.Error, error) {
	reasons, err := f.Check(ctx, of)
	if err != nil || len(reasons) > 0 {
		return reasons, err
	}
	persons, err := f.personsSince(ctx, moment, of)
	if err != nil {
		return nil, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.count == moment {
		return nil, nil
	}
	since := slices.DeleteFunc(of.things(), func(what Thing) bool { return f.last[what.String()].count <= moment })
	return refusals(append(since, persons...), "the %s was frozen meanwhile: try again"), nil
}

// things are all that a freeze of which stops the grant.
func (of Basis) things() []Thing {
	things := append(entities(of.Holder), Thing{KindRole, of.Role}, Thing{KindProvider, of.Provider})
	for _, p := range of.Parties {
		if p.Issuer != "" {
			things = append(things, Thing{KindIssuer, p.Issuer}, Subject(p.Issuer, p.ID))
		}
		if p.Iss != "" && p.Iss != p.Issuer {
			things = append(things, Subject(p.Iss, p.ID))
		}
	}
	return things
}

// entities are the names by which a holder may be frozen: builds of before took an id to
// end at its first dot, showed that to operators and refused what was frozen by it.
func entities(holder string) []Thing {
	things := make([]Thing, 0, 10)
	things = append(things, Thing{KindEntity, holder})
	if early, _, dotted := strings.Cut(holder, "."); dotted {
		things = append(things, Thing{KindEntity, early})
	}
	return things
}

// Interrupt keeps a mint in flight from being handed out for a thing, as if that had been
// frozen and thawed again: for a name that nobody knows, of which nothing is stored.
func (f *Freezer) Interrupt(what Thing) { f.stop(what.String(), f.now(), nil) }

// List returns at most limit of what is frozen, in the order of the names, beginning
// with those that come after one.
func (f *Freezer) List(ctx context.Context, after string, limit int) ([]Frozen, error) {
	return f.frozen.list(ctx, after, limit)
}

// Move gives what an earlier build has frozen in one entry entries of its own, as much as
// fits into the slice; the next call goes on.
func (f *Freezer) Move(ctx context.Context, slice time.Duration) error {
	return f.frozen.moveOld(ctx, slice)
}

// Invalidate makes the next look read again what another node has written at key. It
// reports whether key is one of the freezer's.
func (f *Freezer) Invalidate(key string) bool {
	return f.frozen.stored.Invalidate(key) || f.frozen.oldStored.Invalidate(key)
}
