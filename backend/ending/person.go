package ending

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// FrozenPerson is whom a freeze of KindPerson means: everybody who has one of the ties. It
// outlives the entities and subjects by which it was found.
type FrozenPerson struct {
	// Asked is what the operator named, by the names of the fields.
	Asked map[string]string `json:"asked"`
	Ties  []person.Tie      `json:"ties"`
}

func (p *FrozenPerson) means(ties []person.Tie) bool {
	return slices.ContainsFunc(ties, func(t person.Tie) bool { return slices.Contains(p.Ties, t) })
}

// personPrefix begins the names of frozen persons.
const personPrefix = KindPerson + "/"

func isPerson(name string) bool { return strings.HasPrefix(name, personPrefix) }

// FreezePerson stops new grants of everybody who has one of the ties, durably. A person who
// is frozen already stays so, and is told by these ties too from then on.
func (f *Freezer) FreezePerson(ctx context.Context, id, by string, who FrozenPerson) error {
	name, now := personPrefix+id, f.now()
	whole, err := f.frozen.addPerson(ctx, name, Frozen{Since: now, By: by, Name: name, Person: &who})
	if err != nil {
		return err
	}
	f.stop(name, now, whole)
	return nil
}

// Persons are the persons who are frozen.
func (f *Freezer) Persons(ctx context.Context) ([]Frozen, error) { return f.frozen.allPersons(ctx) }

// personsOf are those of the frozen persons whom the grant would be of or for. Vault is asked
// who the holder is only if a person is frozen.
func (f *Freezer) personsOf(ctx context.Context, of Basis) (found []Thing, err error) {
	frozen, err := f.frozen.allPersons(ctx)
	if err != nil || len(frozen) == 0 {
		return nil, err
	}
	ties, err := f.tiesOf(ctx, of)
	if err != nil {
		return nil, err
	}
	for _, item := range frozen {
		if item.Person.means(ties) {
			found = append(found, Thing{KindPerson, strings.TrimPrefix(item.Name, personPrefix)})
		}
	}
	return found, nil
}

// personsSince are those who were frozen since the moment.
func (f *Freezer) personsSince(ctx context.Context, moment uint64, of Basis) (found []Thing, err error) {
	var since []frozenAt
	f.mu.RLock()
	for _, frozen := range f.persons {
		if frozen.count > moment {
			since = append(since, frozen)
		}
	}
	f.mu.RUnlock()
	if len(since) == 0 {
		return nil, nil
	}
	ties, err := f.tiesOf(ctx, of)
	for _, frozen := range since {
		if frozen.person.means(ties) {
			found = append(found, Thing{Kind: KindPerson})
		}
	}
	return found, err
}

// tiesOf is what ties those whom a grant would be of or for.
func (f *Freezer) tiesOf(ctx context.Context, of Basis) ([]person.Tie, error) {
	ties := slices.Clone(of.Ties)
	for _, p := range of.Parties {
		ties = append(ties, person.Subject(p.Issuer, p.ID), person.Subject(p.Iss, p.ID))
	}
	if of.Holder == grant.NoHolder {
		return ties, nil
	}
	ties = append(ties, person.Entity(of.Holder))
	if f.Who == nil {
		return ties, nil
	}
	more, err := f.Who(ctx, of.Holder)
	return append(ties, more...), err
}

// addPerson stores a person who is frozen, with the ties of before if that is so already,
// and returns what is stored.
func (f *frozenNames) addPerson(ctx context.Context, name string, item Frozen) (*FrozenPerson, error) {
	f.using.Lock()
	defer f.using.Unlock()
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	key := keyOf(name)
	err := f.stored.Change(ctx, key, func(before *Frozen) (*Frozen, error) {
		if before != nil && before.Person != nil {
			item.Since, item.By = before.Since, before.By
			item.Person.Ties = person.Clean(append(slices.Clone(before.Person.Ties), item.Person.Ties...))
		}
		return &item, nil
	})
	if err != nil {
		return nil, err
	}
	f.know(key, name, true)
	f.learnPerson(key, &item)
	return item.Person, nil
}

// allPersons are the persons who are frozen. In memory is all of each: they are few.
func (f *frozenNames) allPersons(ctx context.Context) ([]Frozen, error) {
	if found, known := f.personsInMemory(); known {
		return found, nil
	}
	f.using.Lock()
	defer f.using.Unlock()
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	f.mu.RLock()
	var unread []string
	for key, item := range f.persons {
		if item == nil || f.unsure[key] {
			unread = append(unread, key)
		}
	}
	generation := f.generation
	f.mu.RUnlock()
	var read []Frozen
	for _, key := range unread {
		item, err := f.stored.Get(ctx, key)
		switch {
		case errors.Is(err, stored.ErrAbsent):
			item = nil
		case errors.Is(err, stored.ErrUndecodable):
			item = &Frozen{Name: nameAt(key)} // nobody knows whom it means
		case err != nil:
			return nil, err
		}
		if item != nil && item.Person == nil {
			item.Person = &FrozenPerson{}
		}
		f.readPerson(key, item, generation)
		if item != nil {
			read = append(read, *item)
		}
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for key, item := range f.persons {
		if item != nil && !slices.Contains(unread, key) {
			read = append(read, *item)
		}
	}
	return read, nil
}

// personsInMemory is allPersons if memory is up to date.
func (f *frozenNames) personsInMemory() (found []Frozen, known bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if !f.loaded {
		return nil, false
	}
	for key, item := range f.persons {
		if item == nil || f.unsure[key] {
			return nil, false
		}
		found = append(found, *item)
	}
	return found, true
}

func (f *frozenNames) learnPerson(key string, item *Frozen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.persons[key] = item
}

// readPerson keeps what was read of a person, nil if there is none, unless it was written
// since.
func (f *frozenNames) readPerson(key string, item *Frozen, generation uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generation != generation {
		return
	}
	if delete(f.unsure, key); item == nil {
		delete(f.persons, key)
		delete(f.names, key)
		return
	}
	f.persons[key], f.names[key] = item, item.Name
}

// part is one of several things that an order means.
type part struct {
	Kind  string   `json:"kind"`
	Name  string   `json:"name"`
	Named []string `json:"named,omitempty"`
}

// each are the orders that together mean what an order of several things does.
func (o *order) each() []*order {
	orders := make([]*order, 0, len(o.Of))
	for _, p := range o.Of {
		orders = append(orders, &order{Kind: p.Kind, Name: p.Name, Named: p.Named, Until: o.Until, Cause: o.cause()})
	}
	return orders
}

// KillPerson kills every grant of several things, which are one person's, as KillAll does of
// one: as one kill, which a crash leaves whole, and in which no grant counts twice. id names
// the person.
func (k *Killer) KillPerson(ctx context.Context, id string, things []Thing, asked kills.Asked) (*Run, error) {
	o := &order{Kind: KindPerson, Name: id, Until: k.now()}
	for _, what := range things {
		of := &order{Kind: what.Kind, Name: what.Name}
		if err := k.about(ctx, of); err != nil {
			return nil, err
		}
		o.Of = append(o.Of, part{Kind: of.Kind, Name: of.Name, Named: of.Named})
	}
	given, err := k.give(ctx, o, asked)
	if err != nil {
		return nil, err
	}
	return given.Execute(ctx), nil
}

// ofPerson finds the grants of an order of several things, each once.
func (k *Killer) ofPerson(o *order) source {
	return func(ctx context.Context, expect func(int), yield func(target)) error {
		var problems error
		seen, expected := map[string]bool{}, 0
		all := o.each()
		// Entities come first: their grants are found at once, also while records are still
		// being read.
		slices.SortStableFunc(all, func(x, y *order) int { return cmp.Compare(x.Kind, y.Kind) })
		for _, of := range all {
			err := k.along(k.chosen(of))(ctx, func(n int) { expected += n; expect(expected) }, func(t target) {
				if !seen[t.ID] {
					seen[t.ID] = true
					yield(t)
				}
			})
			if problems == nil { // the others say the same
				problems = err
			}
		}
		return problems
	}
}
