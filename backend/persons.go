package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Vault gives a plugin no search for entities, and says nothing of one that was deleted. So
// what ties an entity that holds or held a grant, or that a subject's claim names, is kept
// while it does and for keptFor beyond, if some issuer says what ties entities at all.
const (
	// personPrefix is where it is stored, one entry for each entity.
	personPrefix = "person/"
	// keptFor is how long what is known of an entity outlives its last grant.
	keptFor = 7 * 24 * time.Hour
	// hadFor is how long an alias or a value of metadata that an entity had before still
	// ties it, because who changes one just before he is looked for must not be gone by it.
	hadFor = 24 * time.Hour
	// mostKept bounds storage and memory, mostHad what one entity had before.
	mostKept = 100_000
	mostHad  = 16
	// notedFor is how long an entity is remembered that has asked for something and holds
	// nothing: its grant may be about to be recorded.
	notedFor = 10 * time.Minute
)

var keptForm = form.Kind{Name: "what ties an entity"}

// keptEntity is what is known of an entity, as it is stored.
type keptEntity struct {
	Ties []person.Tie `json:"ties,omitempty"`
	// Had are ties of before, and until when it had them at the most.
	Had []formerTie `json:"had,omitempty"`
	// Left is when it held nothing any more and no subject named it.
	Left time.Time `json:"left,omitzero"`

	// noted is when it was first heard of, if nothing is stored of it.
	noted time.Time
}

type formerTie struct {
	person.Tie
	Until time.Time `json:"until"`
}

// ties are those that count at now and are still what the mapping names.
func (k *keptEntity) ties(now time.Time, mapping person.Mapping) []person.Tie {
	all := slices.Clone(k.Ties)
	for _, had := range k.Had {
		if now.Sub(had.Until) < hadFor {
			all = append(all, had.Tie)
		}
	}
	return person.Clean(slices.DeleteFunc(all, func(t person.Tie) bool { return !mapping.Names(t) }))
}

// become takes in what ties the entity now; it reports whether that is another thing.
func (k *keptEntity) become(ties []person.Tie, now time.Time) bool {
	if slices.Equal(k.Ties, ties) {
		return false
	}
	had := slices.DeleteFunc(slices.Clone(k.Had), func(f formerTie) bool {
		return slices.Contains(ties, f.Tie) || now.Sub(f.Until) >= hadFor
	})
	for _, tie := range k.Ties {
		if !slices.Contains(ties, tie) {
			had = append(had, formerTie{tie, now})
		}
	}
	k.Ties, k.Had = ties, had[max(0, len(had)-mostHad):]
	return true
}

func (k *keptEntity) clone() *keptEntity {
	return &keptEntity{Ties: slices.Clone(k.Ties), Had: slices.Clone(k.Had), Left: k.Left, noted: k.noted}
}

// persons is what the broker knows of who is one person: of entities what Vault has said
// when it was asked anyway, of subjects what their tokens said. It is safe for concurrent
// use. What is learned at an issue is written by the sweep: an issue writes nothing more.
type persons struct {
	kept *stored.Keeper[keptEntity]
	now  func() time.Time
	// relates is what operators have named.
	relates func(context.Context) (person.Mapping, error)

	// wait is how long an operator waits for the records of grants to be read. Tests shorten
	// it.
	wait time.Duration

	loading sync.Mutex // one reader of storage at a time

	mu     sync.Mutex
	loaded bool
	// unread are entities that are stored and have not been read yet.
	unread   map[string]bool
	entities map[string]*keptEntity
	// dirty are those that are not stored as they are.
	dirty map[string]bool
	// full is true once an entity could not be kept.
	full bool
	// unknown are entities that Vault did not know, by when that was first found.
	unknown map[string]time.Time
	// told is what was logged already, by when.
	told map[string]time.Time
	// after is the entity after whom the next slice of the sweep goes on.
	after string

	subjects
}

func newPersons(storage logical.Storage, now func() time.Time, relates func(context.Context) (person.Mapping, error)) *persons {
	p := &persons{
		kept: stored.NewKeeper(storage, personPrefix, stored.KindOf[keptEntity](keptForm)), now: now, relates: relates, wait: soonWait,
		unread: map[string]bool{}, entities: map[string]*keptEntity{}, dirty: map[string]bool{}, unknown: map[string]time.Time{}, told: map[string]time.Time{},
		subjects: newSubjects(),
	}
	p.kept.OnChange(p.reread)
	return p
}

// Invalidate makes what another node has written at key be read again.
func (p *persons) Invalidate(key string) bool { return p.kept.Invalidate(key) }

func (p *persons) reread(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.entities, id)
	delete(p.dirty, id)
	p.unread[id] = true
}

// note takes in what Vault has just said of an entity. It asks and writes nothing, but for
// what operators have named, after a start or a change of that.
func (p *persons) note(e *logical.Entity) {
	mapping, err := p.relates(context.Background())
	if err != nil || mapping.IsEmpty() {
		return // the sweep asks again
	}
	ties := tiesOf(e, mapping)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteLocked(e.ID, ties, false)
}

// noteNamed is note for an entity that a subject names, which is kept without a tie too: so
// that it is known to have been there.
func (p *persons) noteNamed(e *logical.Entity, mapping person.Mapping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteLocked(e.ID, tiesOf(e, mapping), true)
}

func (p *persons) noteLocked(id string, ties []person.Tie, named bool) {
	delete(p.unknown, id)
	k := p.entities[id]
	switch {
	case k != nil:
		if k.become(ties, p.now()) {
			p.dirty[id] = true
		}
	case len(ties) == 0 && !named && !p.unread[id] || !grant.IsHolder(id):
	case len(p.entities) >= mostKept:
		p.full = true
	default:
		p.entities[id], p.dirty[id] = &keptEntity{Ties: ties, noted: p.now()}, true
	}
}

// tiesOf is what ties an entity, as Vault has it.
func tiesOf(e *logical.Entity, mapping person.Mapping) []person.Tie {
	aliases := make([]person.Alias, 0, len(e.Aliases))
	for _, a := range e.Aliases {
		aliases = append(aliases, person.Alias{Mount: a.MountAccessor, Name: a.Name})
	}
	return mapping.OfEntity(aliases, e.Metadata)
}

// load reads what is stored, as far as ctx allows; the next call goes on.
func (p *persons) load(ctx context.Context) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	if err := p.list(ctx); err != nil {
		return err
	}
	for _, id := range p.toRead() {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := p.kept.Get(ctx, id)
		switch {
		case errors.Is(err, stored.ErrAbsent), errors.Is(err, stored.ErrUndecodable):
			k = nil // it only helps, and is learned anew
		case err != nil && !stored.Unreadable(err):
			return err
		}
		p.take(id, k)
	}
	return nil
}

func (p *persons) list(ctx context.Context) error {
	p.mu.Lock()
	loaded := p.loaded
	p.mu.Unlock()
	if loaded {
		return nil
	}
	ids, err := p.kept.List(ctx, "")
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		p.unread[id] = true
	}
	p.loaded = true
	return nil
}

func (p *persons) toRead() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.unread))
}

// take takes in what was stored of an entity. What was learned since it was written stands,
// and what it says beside was so before.
func (p *persons) take(id string, k *keptEntity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.unread[id] {
		return // it was written meanwhile
	}
	delete(p.unread, id)
	if k == nil {
		return
	}
	if newer := p.entities[id]; newer != nil {
		k.become(newer.Ties, p.now())
		p.dirty[id] = true
	}
	p.entities[id] = k
}

// of is what is known of an entity; false if it never was.
func (p *persons) of(id string, mapping person.Mapping) (ties []person.Tie, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.entities[id]
	if k == nil {
		return nil, false
	}
	return k.ties(p.now(), mapping), true
}

// had are the ties that an entity had before and has no more, with until when.
func (p *persons) had(id string) map[person.Tie]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	had := map[person.Tie]time.Time{}
	if k := p.entities[id]; k != nil {
		for _, former := range k.Had {
			had[former.Tie] = former.Until
		}
	}
	return had
}

// each visits all who are known, with what ties them. Nobody waits for it.
func (p *persons) each(mapping person.Mapping, visit func(id string, ties []person.Tie)) {
	p.mu.Lock()
	ids := slices.Collect(maps.Keys(p.entities))
	p.mu.Unlock()
	for _, id := range ids {
		if ties, known := p.of(id, mapping); known {
			visit(id, ties)
		}
	}
}

// flush writes what was learned since, as much as fits before the deadline. holds says who
// holds or is named by somebody: of others nothing is written, and what is known of them is
// deleted keptFor later.
func (p *persons) flush(ctx context.Context, holds func(id string) bool, deadline time.Time) error {
	ids := p.toFlush(holds)
	for len(ids) > 0 && ctx.Err() == nil && time.Now().Before(deadline) { // the next one goes on
		id := ids[0]
		ids = ids[1:]
		if err := p.store(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// toFlush are those whose entry is to be written or deleted.
func (p *persons) toFlush(holds func(id string) bool) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for id, k := range p.entities {
		switch held := holds(id); {
		case held && !k.noted.IsZero():
			p.dirty[id] = true
		case held && !k.Left.IsZero():
			k.Left, p.dirty[id] = time.Time{}, true
		case held:
		case !k.noted.IsZero():
			delete(p.dirty, id)
			if now.Sub(k.noted) >= notedFor {
				delete(p.entities, id)
			}
		case k.Left.IsZero():
			k.Left, p.dirty[id] = now, true
		case now.Sub(k.Left) >= keptFor:
			delete(p.entities, id)
			p.dirty[id] = true
		}
	}
	if len(p.entities) < mostKept {
		p.full = false
	}
	ids := slices.Sorted(maps.Keys(p.dirty))
	// Of these it is not known yet what is stored.
	return slices.DeleteFunc(ids, func(id string) bool { return p.unread[id] })
}

func (p *persons) store(ctx context.Context, id string) error {
	p.mu.Lock()
	var entry *keptEntity
	if k := p.entities[id]; k != nil {
		k.noted = time.Time{}
		entry = k.clone()
	}
	delete(p.dirty, id)
	p.mu.Unlock()
	err := p.kept.ChangeQuietly(ctx, id, func(*keptEntity) (*keptEntity, error) { return entry, nil })
	if err != nil && !stored.Unreadable(err) { // a newer build's stays
		p.mu.Lock()
		p.dirty[id] = true
		p.mu.Unlock()
		return err
	}
	return nil
}
