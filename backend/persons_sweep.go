package backend

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// An entity that is disabled or deleted takes along what others hold in its name: the
// grants of the subjects that are tied to it.

const (
	// More than fewStrangers entities whom Vault does not know in one slice are looked at
	// again after secondLook, since Vault may have lost sight of its entities. The killer
	// does so with holders.
	fewStrangers = 10
	secondLook   = 30 * time.Second
)

// sweepPersons writes down what was learned of entities, asks Vault about those to whom
// subjects are tied, and orders the kill of the subjects of those who have left. What does
// not fit into the slice is the next one's; by hand it begins with the first.
func (b *broker) sweepPersons(ctx context.Context, byHand bool, slice time.Duration) error {
	mapping, err := b.issuers.relates(ctx)
	if err != nil {
		return err
	}
	if err := b.loadPersons(ctx, byHand, slice/2); err != nil {
		return err
	}
	deadline := time.Now().Add(slice / 2)
	if byHand {
		deadline = time.Now().Add(slice)
	}
	watched := b.watched(mapping)
	err = b.offboard(ctx, watched, mapping, byHand, deadline)
	named := map[string]bool{}
	for _, id := range b.persons.namedEntities() {
		named[id] = true
	}
	if !b.ledger.Loaded() {
		return err // who holds what is not known yet
	}
	holds := func(id string) bool { return named[id] || len(b.ledger.Counts(id)) > 0 }
	err = errors.Join(err, b.persons.prune(ctx, b.hasGrants), b.persons.flush(ctx, holds, deadline.Add(slice/4)))
	if b.persons.isFull() {
		b.Logger().Warn("what ties entities is kept of so many that no more is taken in: the subjects of others do not die with them, and revoke/person finds those only while they are there", "entities", mostKept)
	}
	return err
}

// loadPersons reads what is kept, as much as fits into the slice.
func (b *broker) loadPersons(ctx context.Context, all bool, slice time.Duration) error {
	if all {
		return b.persons.load(ctx)
	}
	some, cancel := context.WithTimeout(ctx, slice)
	defer cancel()
	if err := b.persons.load(some); err != nil && ctx.Err() == nil && some.Err() == nil {
		return err
	}
	return nil
}

// watched are the entities to whom a subject that has grants may be tied, ordered.
func (b *broker) watched(mapping person.Mapping) []string {
	watched := b.persons.namedEntities()
	b.persons.each(mapping, func(id string, ties []person.Tie) {
		if b.persons.leadsTo(id, ties) {
			watched = append(watched, id)
		}
	})
	slices.Sort(watched)
	return slices.Compact(watched)
}

// leaver is an entity that has left, and what ties subjects to it.
type leaver struct {
	id       string
	disabled bool
	ties     []person.Tie
	// now are those of the ties that a disabled one has now, and not only had.
	now []person.Tie
}

// offboard asks Vault about the entities, from where the last slice ended, and orders to
// kill the subjects of those who have left.
func (b *broker) offboard(ctx context.Context, watched []string, mapping person.Mapping, byHand bool, deadline time.Time) error {
	next, _ := slices.BinarySearch(watched, b.persons.nextAfter(byHand))
	var left []leaver
	var strangers []string
	last := ""
	for n, id := range watched[next:] {
		if n > 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			break
		}
		last = id
		entity, err := b.System().EntityInfo(id)
		switch {
		case err != nil:
			b.Logger().Warn("Vault could not say who an entity is, whose subjects have grants: asked again next time", "entity_id", id, "error", err)
		case entity == nil:
			strangers = append(strangers, id)
		case entity.Disabled: // or whom it was merged into
			ties := tiesOf(entity, mapping)
			kept, _ := b.persons.of(id, mapping)
			if entity.ID == id {
				b.persons.noteNamed(entity, mapping)
			}
			left = append(left, leaver{id: id, disabled: true, ties: person.Clean(slices.Concat(ties, kept)), now: ties})
		case entity.ID == id:
			b.persons.noteNamed(entity, mapping)
		default: // merged: its aliases are another's now, who is there
		}
	}
	if len(watched) == 0 || last == watched[len(watched)-1] {
		last = ""
	}
	b.persons.goOnAfter(last)
	left = append(left, b.deleted(strangers, mapping, byHand)...)
	var problems error
	for _, l := range left {
		problems = errors.Join(problems, b.endSubjectsOf(ctx, l, mapping))
	}
	return problems
}

// deleted are those of the entities whom Vault did not know that were there before.
func (b *broker) deleted(strangers []string, mapping person.Mapping, byHand bool) (left []leaver) {
	never := 0
	for _, id := range b.persons.gone(strangers, byHand, b.ledger.Loaded()) {
		if ties, known := b.persons.of(id, mapping); known {
			left = append(left, leaver{id: id, ties: ties})
		} else if b.persons.tellOnce("never " + id) {
			never++
		}
	}
	if never > 0 {
		b.Logger().Warn("subjects' tokens name entities that Vault has not known since the plugin hears of them: these subjects keep their grants; revoke/subject ends them, and an issuer's entity_claim may be another claim", "entities", never)
	}
	return left
}

// endSubjectsOf orders to kill the grants of the subjects that are tied to an entity which
// has left.
func (b *broker) endSubjectsOf(ctx context.Context, l leaver, mapping person.Mapping) error {
	var problems error
	seen := map[ending.Thing]bool{}
	for _, tie := range append([]person.Tie{person.Entity(l.id)}, l.ties...) {
		most := person.MostSharing
		if tie.Kind == person.KindEntity {
			most = math.MaxInt - 1 // each of them says so itself
		}
		living, err := b.livingWith(ctx, tie, most+1, false)
		if err != nil {
			return errors.Join(problems, err)
		}
		if len(living) > most {
			if !b.persons.tellOnce("common " + l.id + tie.String()) {
				continue
			}
			b.Logger().Error("an entity has left, and so many subjects share with it what ties them that it is no person's: they keep their grants", "entity_id", l.id, "tie", tie.String(), "more_than", person.MostSharing)
			continue
		}
		for _, subject := range living {
			what := thingOfTie(subject)
			if seen[what] {
				continue
			}
			seen[what] = true
			problems = errors.Join(problems, b.endSubject(ctx, l, what, tie, mapping))
		}
	}
	return problems
}

// endSubject orders to kill the grants of one such subject, if there are any of which a kill
// was not decided yet.
func (b *broker) endSubject(ctx context.Context, l leaver, what ending.Thing, tie person.Tie, mapping person.Mapping) error {
	alive, ties, err := b.grantsOfSubject(ctx, what)
	if err != nil || !alive {
		return err
	}
	cause, note := ending.CauseHolderDisabled, "the entity "+l.id+" is disabled, and "+tie.String()+" ties the subject to it"
	if !l.disabled {
		cause, note = ending.CauseHolderGone, "the entity "+l.id+" was deleted, and "+tie.String()+" tied the subject to it"
	}
	if tie.Kind != person.KindEntity && !slices.Contains(l.now, tie) || !l.disabled {
		// A duplicate may have been tidied away, or what it had is another's now, and the
		// person is still there.
		if other := b.stillThere(ties, l.id, mapping); other != "" {
			if !b.persons.tellOnce("spared " + l.id + what.Name) {
				return nil
			}
			b.Logger().Warn("an entity was deleted, or is disabled and was another one before, and a subject that was tied to it is tied to another one that is there: the subject keeps its grants", "entity_id", l.id, "subject", what.Plain(), "other_entity_id", other)
			return nil
		}
	}
	_, err = b.kill(ctx, what, kills.Asked{Cause: cause, Note: note})
	if err == nil {
		b.Logger().Info("an entity has left: what was granted on its subject's behalf is killed", "entity_id", l.id, "subject", what.Plain(), "disabled", l.disabled, "tie", tie.String())
	}
	return err
}

// stillThere is another entity to which the ties lead, and that Vault knows and has not
// disabled; "" if there is none.
func (b *broker) stillThere(ties []person.Tie, but string, mapping person.Mapping) string {
	var others []string
	for _, tie := range ties {
		if tie.Kind == person.KindEntity {
			others = append(others, tie.Value)
		}
	}
	b.persons.each(mapping, func(id string, has []person.Tie) {
		if slices.ContainsFunc(has, func(t person.Tie) bool { return slices.Contains(ties, t) }) {
			others = append(others, id)
		}
	})
	for _, id := range others {
		if id == but {
			continue
		}
		if entity, err := b.System().EntityInfo(id); err != nil || isPresent(entity, id) {
			return id
		}
	}
	return ""
}

func isPresent(entity *logical.Entity, id string) bool {
	return entity != nil && entity.ID == id && !entity.Disabled
}

// hasGrants reports whether a party may have grants.
func (b *broker) hasGrants(ctx context.Context, party grant.Party) (bool, error) {
	holders, err := b.ledger.HoldersWith(ctx, party.ID)
	return len(holders) > 0, err
}

func (p *persons) isFull() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.full
}

// mostMemories bounds what is remembered of what was told.
const mostMemories = 10_000

// tellOnce reports whether something has not been told within keptFor. Then it is.
func (p *persons) tellOnce(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if at, told := p.told[what]; told && now.Sub(at) < keptFor {
		return false
	}
	if len(p.told) >= mostMemories {
		clear(p.told)
	}
	p.told[what] = now
	return true
}

// nextAfter is after whom the slice goes on, the first one if afresh.
func (p *persons) nextAfter(afresh bool) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if afresh || p.after == "" {
		return ""
	}
	return p.after + "\x00"
}

func (p *persons) goOnAfter(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = id
}

// gone are those of the entities whom Vault did not know that are taken for deleted. By
// hand somebody has looked already.
func (p *persons) gone(strangers []string, byHand, loaded bool) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, many := p.now(), len(strangers) > fewStrangers || !loaded
	var gone []string
	for _, id := range strangers {
		first, looked := p.unknown[id]
		if !looked || first.After(now) { // the clock went back
			p.unknown[id], first = now, now
		}
		if byHand || !many || now.Sub(first) >= secondLook {
			gone = append(gone, id)
		}
	}
	for id, first := range p.unknown {
		if now.Sub(first) > keptFor {
			delete(p.unknown, id)
		}
	}
	return gone
}
