package backend

import (
	"context"
	"errors"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// standing asks Vault who the holder is now, and the roles that are named whether they
// would still have the holder. An error while asking says nothing.
func (b *broker) standing(ctx context.Context, holder string, names []string) (ending.Standing, error) {
	if holder == grant.OwnHolder {
		return ending.Standing{Known: true}, nil // whom Vault does not know
	}
	roles, want, deleted := b.rolesOf(ctx, names)
	caller, where, err := b.find(entityOf(holder), want)
	if err != nil {
		return ending.Standing{}, err
	}
	unfit := map[string]bool{}
	for name, role := range roles {
		unfit[name] = len(role.policy.CheckStanding(decision.Situation{Now: b.now(), Caller: caller})) > 0
	}
	return ending.Standing{Known: where != unknown, Gone: where != present, Disabled: caller.Disabled, Deleted: deleted, Unfit: unfit}, nil
}

// rolesOf are the roles that can be judged, and those that are
// gone for certain. A role that could not be read is neither.
func (b *broker) rolesOf(ctx context.Context, names []string) (roles map[string]*compiledRole, want knowledge, deleted map[string]bool) {
	roles, want, deleted = map[string]*compiledRole{}, knownEntity, map[string]bool{}
	for _, name := range names {
		if name == "" || roles[name] != nil || deleted[name] {
			continue
		}
		role, err := b.roles.compiled(ctx, name)
		switch {
		case err == nil:
			roles[name] = role
			want = max(want, role.judgedBy())
		case errors.Is(err, errNoRole):
			deleted[name] = true
		}
	}
	return roles, want, deleted
}
