package backend

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// knowledge is how much must be known of an entity.
type knowledge int

const (
	// knownID: that the id is an entity's own. It is for an entity's own request
	// alone, which Vault lets pass only if the entity is there and not disabled.
	knownID knowledge = iota
	// knownEntity: all but its groups.
	knownEntity
	// knownGroups: its groups too.
	knownGroups
)

// judgedBy is how much of a holder must be known to judge the holder again, when
// Vault has not let a request of the holder's own pass.
func (r *compiledRole) judgedBy() knowledge {
	if r.policy.NeedsGroups() {
		return knownGroups
	}
	return knownEntity
}

// whereabouts is what Vault says to an entity's id.
type whereabouts int

const (
	// present: there is an entity of that id.
	present whereabouts = iota
	// merged: the id leads to another entity.
	merged
	// unknown: the entity was deleted, or Vault has lost sight of it.
	unknown
)

// identify asks Vault who the entity is, and fills in what is wanted and no more.
// gone is true if Vault says that there is no such entity; an error while asking is
// neither gone nor allowed.
func (b *broker) identify(entityID string, want knowledge) (c decision.Caller, gone bool, err error) {
	c, where, err := b.find(entityID, want)
	return c, where != present, err
}

// find is identify, and tells the ways of being gone apart.
func (b *broker) find(entityID string, want knowledge) (c decision.Caller, where whereabouts, err error) {
	if entityID == "" {
		return c, present, nil
	}
	now := b.now()
	if want == knownID && b.known.has(entityID, now) {
		return decision.Caller{EntityID: entityID}, present, nil
	}
	entity, where, err := b.entity(entityID)
	if err != nil || where != present {
		return c, where, err
	}
	c.EntityID, c.Disabled = entity.ID, entity.Disabled
	if want == knownID {
		if !c.Disabled {
			b.known.add(entityID, now)
		}
		return c, present, nil
	}
	c.Name, c.Metadata = entity.Name, entity.Metadata
	for _, a := range entity.Aliases {
		c.Aliases = append(c.Aliases, decision.Alias{Name: a.Name, MountAccessor: a.MountAccessor, MountType: a.MountType, Metadata: a.Metadata})
	}
	if want == knownGroups {
		c.Groups, err = b.groups(entityID)
	}
	return c, present, err
}

// entity asks Vault. Who is gone or disabled is not known any more.
func (b *broker) entity(id string) (entity *logical.Entity, where whereabouts, err error) {
	entity, err = b.System().EntityInfo(id)
	if err != nil {
		return nil, present, fault.New(fault.TemporarilyUnavailable, "Vault could not say who the caller is: try again").Because(err)
	}
	switch {
	case entity == nil:
		where = unknown
	case entity.ID != id:
		where = merged
	}
	if where != present || entity.Disabled {
		b.known.forget(id)
	}
	if where == present {
		b.persons.note(entity)
	}
	return entity, where, nil
}

// whoHolds asks Vault what ties a holder, beside its id: every alias and all metadata. Of one
// that was deleted nobody can say.
func (b *broker) whoHolds(_ context.Context, holder string) ([]person.Tie, error) {
	if !isEntity(holder) {
		return nil, nil
	}
	entity, _, err := b.entity(holder)
	if err != nil || entity == nil {
		return nil, err
	}
	ties := []person.Tie{person.Entity(entity.ID)}
	for _, a := range entity.Aliases {
		ties = append(ties, person.Tie{Kind: person.KindAlias, At: a.MountAccessor, Value: a.Name})
	}
	for key, value := range entity.Metadata {
		ties = append(ties, person.Tie{Kind: person.KindMetadata, At: key, Value: value})
	}
	return person.Clean(ties), nil
}

// isEntity reports whether a holder is an entity.
func isEntity(holder string) bool { return holder != grant.NoHolder && holder != grant.OwnHolder }

// groups asks Vault for the names of all groups of the entity.
func (b *broker) groups(entityID string) (names []string, err error) {
	memberships, err := b.System().GroupsForEntity(entityID)
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "Vault could not say which groups the caller is in: try again").Because(err)
	}
	for _, g := range memberships {
		names = append(names, g.Name)
	}
	return names, nil
}

const (
	// knownFor is how long an entity is believed to be there where nothing but its id
	// matters: asking is one of two calls that such an issue makes over Vault's plugin
	// protocol ("jwt" and "sharing=entity" of make bench). Vault itself refuses the
	// tokens of an entity that is deleted or disabled, at once. What it lets pass is
	// the token of one that has been merged into another: that is found here, after
	// this time at the latest.
	knownFor = 5 * time.Second
	// strangerFor is how long a name that an issuer gave its subject is believed to be
	// no entity's id. Vault makes ids at random: nobody foresees the next one.
	strangerFor = time.Minute
	// maxRecent bounds the memory of each; beyond it Vault is asked again.
	maxRecent = 8192
)

// recentIDs are those of which Vault has just said one thing, which is believed for
// age. It is safe for concurrent use.
type recentIDs struct {
	age time.Duration

	mu    sync.Mutex
	until map[string]time.Time
}

func (r *recentIDs) has(id string, now time.Time) bool {
	r.mu.Lock()
	until := r.until[id]
	r.mu.Unlock()
	return isFresh(until, r.age, now)
}

func (r *recentIDs) add(id string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil || len(r.until) >= maxRecent {
		r.until = map[string]time.Time{}
	}
	r.until[id] = now.Add(r.age)
}

func (r *recentIDs) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.until, id)
}
