package backend

import (
	"context"
	"maps"
	"slices"
	"unique"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// partyRef is a subject or an actor as a grant names it.
type partyRef struct {
	issuer unique.Handle[string] // its name in issuers
	iss    unique.Handle[string]
	id     string
}

func refOf(p grant.Party) partyRef {
	return partyRef{issuer: unique.Make(p.Issuer), iss: unique.Make(p.Iss), id: p.ID}
}

func (r partyRef) party() grant.Party {
	return grant.Party{Issuer: r.issuer.Value(), Iss: r.iss.Value(), ID: r.id}
}

// subjects are those of whom grants say what ties them: by the tie, in short. Memory grows
// with them, not with grants, and only where an issuer says what ties its subjects. Who has
// lost all grants is forgotten by prune. The methods want persons.mu held.
type subjects struct {
	by map[[16]byte][]partyRef
	// named are the entities that subjects name as themselves.
	named map[string]bool
	// refs counts what is in by, and pruned is how many there were after the last time.
	refs, pruned int
	// fresh are those that came while it was looked for who has lost all; nil else.
	fresh map[partyRef]bool
}

func newSubjects() subjects {
	return subjects{by: map[[16]byte][]partyRef{}, named: map[string]bool{}}
}

// noteGrant takes in a grant that has been read or written.
func (p *persons) noteGrant(g *grant.Grant) {
	if len(g.SubjectTies)+len(g.ActorTies) == 0 {
		return
	}
	s := g.Summary()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(s.Subject, g.SubjectTies)
	p.add(s.Actor, g.ActorTies)
}

func (s *subjects) add(party grant.Party, ties []person.Tie) {
	if party.ID == "" {
		return
	}
	for _, tie := range ties {
		key, ref := tie.Key(), refOf(party)
		if s.fresh != nil {
			s.fresh[ref] = true
		}
		if slices.Contains(s.by[key], ref) {
			continue
		}
		s.by[key] = append(s.by[key], ref)
		s.refs++
		if tie.Kind == person.KindEntity {
			s.named[tie.Value] = true
		}
	}
}

// subjectsWith are those who have a tie, with those who have lost all grants since it was
// looked for them the last time.
func (p *persons) subjectsWith(tie person.Tie) []partyRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.by[tie.Key()])
}

// livingWith are the subjects that have a tie and grants, each once and at most limit of
// them: those without are not counted, or they would hide others, and be taken for many who
// share something. While records are still being read all of them may have some.
func (b *broker) livingWith(ctx context.Context, tie person.Tie, limit int, early bool) (living []person.Tie, err error) {
	seen := map[person.Tie]bool{}
	for _, ref := range b.persons.subjectsWith(tie) {
		party := ref.party()
		is := tieOf(party)
		if seen[is] {
			continue
		}
		alive := early
		if !early {
			if alive, err = b.hasGrants(ctx, party); err != nil {
				return nil, err
			}
		}
		if !alive {
			continue
		}
		seen[is] = true
		if living = append(living, is); len(living) == limit {
			break
		}
	}
	return living, nil
}

// tiesNobody reports whether no grant says what ties its subject or actor.
func (p *persons) tiesNobody() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.by) == 0
}

// leadsTo reports whether a subject is tied to the entity.
func (p *persons) leadsTo(id string, ties []person.Tie) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.named[id] {
		return true
	}
	return slices.ContainsFunc(ties, func(t person.Tie) bool { return len(p.by[t.Key()]) > 0 })
}

// namedEntities are those that subjects name as themselves.
func (p *persons) namedEntities() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.named))
}

// leastPruned is from how many on it is looked for subjects without grants.
const leastPruned = 1000

// prune forgets the subjects that have no grants, once there are twice as many as were left
// the last time.
func (p *persons) prune(ctx context.Context, has func(context.Context, grant.Party) (bool, error)) error {
	all := p.beginPrune()
	var gone []partyRef
	for _, ref := range all {
		alive, err := has(ctx, ref.party())
		if err != nil {
			p.endPrune(nil)
			return err
		}
		if !alive {
			gone = append(gone, ref)
		}
	}
	p.endPrune(gone)
	return nil
}

// beginPrune returns those to look for, none if it is not time yet.
func (p *persons) beginPrune() []partyRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refs <= max(leastPruned, 2*p.pruned) {
		return nil
	}
	all := map[partyRef]bool{}
	for _, refs := range p.by {
		for _, ref := range refs {
			all[ref] = true
		}
	}
	p.fresh = map[partyRef]bool{}
	return slices.Collect(maps.Keys(all))
}

// endPrune forgets those that are gone, but for who has come back meanwhile.
func (p *persons) endPrune(gone []partyRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dead := map[partyRef]bool{}
	for _, ref := range gone {
		dead[ref] = !p.fresh[ref]
	}
	if p.fresh != nil {
		p.refs = 0
		for key, refs := range p.by {
			refs = slices.DeleteFunc(refs, func(ref partyRef) bool { return dead[ref] })
			p.by[key], p.refs = refs, p.refs+len(refs)
		}
		maps.DeleteFunc(p.by, func(_ [16]byte, refs []partyRef) bool { return len(refs) == 0 })
		maps.DeleteFunc(p.named, func(id string, _ bool) bool { return p.by[person.Entity(id).Key()] == nil })
		p.pruned = p.refs
	}
	p.fresh = nil
}
