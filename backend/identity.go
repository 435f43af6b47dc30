package backend

import (
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// identify asks Vault who the entity is. gone is true if Vault says that there
// is no such entity; an error while asking is neither gone nor allowed.
func (b *broker) identify(entityID string, groups bool) (c decision.Caller, gone bool, err error) {
	if entityID == "" {
		return c, false, nil
	}
	entity, err := b.System().EntityInfo(entityID)
	if err != nil {
		return c, false, fault.New(fault.TemporarilyUnavailable, "Vault could not say who the caller is: try again").Because(err)
	}
	if entity == nil || entity.ID != entityID { // deleted, or merged into another
		return c, true, nil
	}
	c = decision.Caller{EntityID: entity.ID, Name: entity.Name, Metadata: entity.Metadata, Disabled: entity.Disabled}
	for _, a := range entity.Aliases {
		c.Aliases = append(c.Aliases, decision.Alias{Name: a.Name, MountAccessor: a.MountAccessor, MountType: a.MountType, Metadata: a.Metadata})
	}
	if !groups {
		return c, false, nil
	}
	memberships, err := b.System().GroupsForEntity(entityID)
	if err != nil {
		return c, false, fault.New(fault.TemporarilyUnavailable, "Vault could not say which groups the caller is in: try again").Because(err)
	}
	for _, g := range memberships {
		c.Groups = append(c.Groups, g.Name)
	}
	return c, false, nil
}
