package backend

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

const (
	// askParallel is how many entities Vault is asked about at once, and askBudget for how
	// long: of the others what is kept counts.
	askParallel = 8
	askBudget   = 10 * time.Second
	// soonWait is how long an operator waits for the records of grants to be read.
	soonWait = 5 * time.Second
	// mostTold is how many grants of a subject are read for what ties it.
	mostTold = 1000
)

// finding looks for a person: among the entities that hold or held a grant, as Vault has
// them now and as they were kept, and among the subjects that have one. It writes nothing.
type finding struct {
	b       *broker
	ctx     context.Context //nolint:containedctx // of the one request
	mapping person.Mapping
	// quiet asks Vault about nobody: what is kept counts.
	quiet bool
	// soon does not wait until all records of grants have been read after a start; early says
	// that they have not been.
	soon, early bool
	asked       map[string]bool
	ties        map[string][]person.Tie // of entities, by id
	by          map[person.Tie][]string // entities, by what ties them
	// unsaid are those whom Vault could not be asked about, kept are entities that hold
	// nothing any more.
	unsaid, kept int
}

// found is a person, with where it was looked.
type found struct {
	person.Person
	searched map[string]any
	early    bool
}

// look finds who is one person with those who have the ties.
func (f *finding) look(ties []person.Tie) (*found, error) {
	if err := f.gather(); err != nil {
		return nil, err
	}
	who, err := person.Close(ties, f)
	if err != nil {
		return nil, err
	}
	f.b.persons.mu.Lock()
	subjects := f.b.persons.refs
	f.b.persons.mu.Unlock()
	return &found{who, map[string]any{
		"entities": len(f.asked), "entities_not_asked": f.unsaid, "entities_kept": f.kept, "subjects": subjects,
	}, f.early}, nil
}

// gather learns what ties entities.
func (f *finding) gather() error {
	f.unsaid = 0
	holders, err := f.holders()
	if err != nil {
		return err
	}
	if err := f.b.persons.load(f.ctx); err != nil {
		return err
	}
	if f.mapping.IsEmpty() {
		return nil // nothing ties entities
	}
	if !f.quiet {
		f.ask(slices.DeleteFunc(holders, func(id string) bool { return !isEntity(id) || f.asked[id] }))
	}
	f.kept, f.by = 0, map[person.Tie][]string{}
	f.b.persons.each(f.mapping, func(id string, ties []person.Tie) {
		if !f.asked[id] {
			f.kept++
		}
		f.ties[id] = append(f.ties[id], ties...)
	})
	for id, ties := range f.ties {
		f.ties[id] = person.Clean(ties)
		for _, tie := range f.ties[id] {
			f.by[tie] = append(f.by[tie], id)
		}
	}
	return nil
}

// holders are those who have grants. Where it is to be soon, and not all records have been
// read, they are those of whom it is known by now: a person is killed and frozen as far as
// that goes.
func (f *finding) holders() ([]string, error) {
	anything := func(grant.Count) bool { return true }
	ctx, cancel := f.ctx, func() {}
	if f.soon {
		wait := f.b.persons.wait
		if f.early { // it has been waited for already
			wait = time.Millisecond
		}
		ctx, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	holders, err := f.b.ledger.HoldersOf(ctx, anything)
	f.early = false
	if err != nil && f.soon && ctx.Err() != nil && f.ctx.Err() == nil {
		f.early = true
		return f.b.ledger.HoldersSoFar(anything), nil
	}
	if err != nil {
		return nil, ending.LedgerFault(err)
	}
	return holders, nil
}

// ask asks Vault who the entities are now, some at a time.
func (f *finding) ask(ids []string) {
	ctx, cancel := context.WithTimeout(f.ctx, askBudget)
	defer cancel()
	group := errgroup.Group{}
	group.SetLimit(askParallel)
	var mu sync.Mutex
	for _, id := range ids {
		group.Go(func() error {
			ties, err := []person.Tie(nil), ctx.Err()
			if err == nil {
				ties, err = f.tell(id)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				f.unsaid++
				return nil
			}
			f.asked[id] = true
			f.ties[id] = append(f.ties[id], ties...)
			return nil
		})
	}
	_ = group.Wait()
}

// tell asks Vault what ties an entity. One that was merged is who it was merged into.
func (f *finding) tell(id string) ([]person.Tie, error) {
	entity, err := f.b.System().EntityInfo(id)
	if err != nil || entity == nil {
		return nil, err
	}
	ties := tiesOf(entity, f.mapping)
	if entity.ID != id {
		ties = append(ties, person.Entity(entity.ID))
	}
	return ties, nil
}

// Sharing implements person.Known.
func (f *finding) Sharing(tie person.Tie, limit int) ([]person.Tie, error) {
	var sharing []person.Tie
	for _, id := range f.by[tie] {
		sharing = append(sharing, person.Entity(id))
	}
	living, err := f.b.livingWith(f.ctx, tie, limit, f.early)
	if err != nil {
		return nil, ending.LedgerFault(err)
	}
	sharing = append(sharing, living...)
	return sharing[:min(limit, len(sharing))], nil
}

// TiesOf implements person.Known.
func (f *finding) TiesOf(identity person.Tie) ([]person.Tie, error) {
	if identity.Kind == person.KindSubject {
		ties := f.b.bySub(f.ctx, identity)
		if f.early {
			return ties, nil
		}
		_, more, err := f.b.grantsOfSubject(f.ctx, thingOfTie(identity))
		return append(ties, more...), err
	}
	id := identity.Value
	if !f.quiet && !f.asked[id] && !f.mapping.IsEmpty() && person.LooksLikeEntityID(id) {
		// One without grants, or whom there was no time for.
		if ties, err := f.tell(id); err == nil {
			f.asked[id] = true
			f.ties[id] = person.Clean(append(f.ties[id], ties...))
		}
	}
	return slices.Clone(f.ties[id]), nil
}

// grantsOfSubject reads what ties a subject in its grants, and whether there is one of which
// no kill was decided.
func (b *broker) grantsOfSubject(ctx context.Context, what ending.Thing) (alive bool, ties []person.Tie, err error) {
	holders, means, err := b.killer.Of(ctx, what)
	if err != nil {
		return false, nil, ending.LedgerFault(err)
	}
	_, sub, _ := what.Subject()
	read := 0
	for _, holder := range holders {
		err := b.ledger.WalkWith(ctx, holder, grant.OfParty(sub), "", func(s *grant.Summary) bool {
			if !means(s) {
				return true
			}
			alive = alive || !s.Doomed && !b.killer.InHand(s.ID)
			ties = person.Clean(append(ties, s.TiesOf(sub)...))
			read++
			return read < mostTold
		})
		if err != nil || read >= mostTold {
			return alive, ties, err
		}
	}
	return alive, ties, nil
}

// bySub is what ties a subject of which there may be no grant, as far as sub alone tells.
func (b *broker) bySub(ctx context.Context, identity person.Tie) (ties []person.Tie) {
	names, err := b.namesOf(ctx, identity.At)
	if err != nil {
		return nil // its grants tell
	}
	for _, name := range append(names, identity.At) {
		if !issuerName.MatchString(name) {
			continue
		}
		if i, err := b.issuers.Get(ctx, name); err == nil {
			ties = append(ties, i.Ties(map[string]any{"sub": identity.Value})...)
		}
	}
	return ties
}

// tieOf is the subject that a grant names, as a tie.
func tieOf(p grant.Party) person.Tie { return person.Subject(cmp.Or(p.Iss, p.Issuer), p.ID) }

// thingOfTie is an identity as it is frozen and killed.
func thingOfTie(t person.Tie) ending.Thing {
	if t.Kind == person.KindSubject {
		return ending.Subject(t.At, t.Value)
	}
	return ending.Thing{Kind: ending.KindEntity, Name: t.Value}
}

// why says in words by what an identity was taken for the person's.
func (b *broker) why(i person.Identity) string {
	said := whyOf(i)
	for _, of := range []person.Tie{i.Tie, i.From} {
		if until, former := b.persons.had(of.Value)[i.Why]; former && of.Kind == person.KindEntity {
			said += fmt.Sprintf(", which the entity %s had until %s", of.Value, stamp(until))
		}
	}
	return said
}

func whyOf(i person.Identity) string {
	switch {
	case i.From == (person.Tie{}) && i.Why == i.Tie:
		return "it was asked for"
	case i.From == (person.Tie{}) && i.Why.Kind == person.KindEntity:
		return fmt.Sprintf("its token names %s, which was asked for", i.Why)
	case i.From == (person.Tie{}):
		return fmt.Sprintf("it has %s, which was asked for", i.Why)
	case i.Why == i.From:
		return fmt.Sprintf("its token names %s", i.From)
	case i.Why == i.Tie:
		return fmt.Sprintf("it is whom %s leads to", i.From)
	}
	return fmt.Sprintf("it shares %s with %s", i.Why, i.From)
}
