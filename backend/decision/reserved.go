package decision

import (
	"slices"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// checkReserved refuses what would be for one of the reserved audiences (rule 10 of
// the contract). It strips nothing: who asks for one has to know.
func checkReserved(reserved access.Targets, a access.Access) []*fault.Error {
	var reasons []*fault.Error
	audiences, _ := a.Audiences.Values()
	resources, _ := a.Resources.Values()
	for _, v := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(audiences, resources)))) {
		if target, found := reserved.Find(v); found {
			reasons = append(reasons, ReservedAudience(v, target))
		}
	}
	return reasons
}

// ReservedAudience refuses audience, which is a spelling of the reserved target.
func ReservedAudience(audience, target string) *fault.Error {
	return fault.New(fault.InvalidTarget, "%q is no audience for a child: the broker itself authenticates there (%s), so the token could pass for a credential of its own; ask for another audience", audience, target)
}
