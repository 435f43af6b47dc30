// Package decision is the core of the broker: given a role, a caller, a subject
// token and a request, Decide says what may be granted; given what the provider
// answered, Accept says whether it may be handed out. It is pure. Whoever needs
// to know what the broker allows reads this package and access, and nothing else.
package decision

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Policy is a role, compiled against what its provider can do. It is immutable
// and safe for concurrent use.
type Policy struct {
	// Ceiling is the role's, met with what the parent can grant.
	Ceiling access.Access
	// Bounded are the dimensions in which the role has a ceiling. In the others
	// nothing can be asked for.
	Bounded access.Dimensions
	// Defaults are the scopes for a caller who names none; nil is all of them.
	Defaults *access.Set
	// RefuseExcess refuses a request beyond the ceiling instead of stripping it.
	RefuseExcess bool
	// Levels order the permissions dimension.
	Levels access.Levels
	Who    Who
	// TTL is the role's default life, MaxTTL the role's cap, ProviderMaxTTL the
	// provider's; zero where unset.
	TTL, MaxTTL, ProviderMaxTTL time.Duration
	// Askable are the dimensions that the provider can be asked for; in the
	// others only its answer can prove that the ceiling holds.
	Askable access.Dimensions
}

// Situation is what Decide needs to know beside the policy and the request.
type Situation struct {
	Now    time.Time
	Caller Caller
	// Frozen names what stops new grants ("entity", "role", ...); empty if nothing.
	Frozen []string
	// MountTTL and MountMaxTTL are the mount's default and maximal lease.
	MountTTL, MountMaxTTL time.Duration
}

// Decision is what may be granted, or why nothing may.
type Decision struct {
	// Refusals are all reasons against, the first one first in the order who,
	// freeze, request, time, condition; empty means allowed.
	Refusals []*fault.Error
	// Access is what to ask the provider for: exact values only.
	Access access.Access
	// Stripped is what was asked for beyond the ceiling and dropped, flat.
	Stripped []string
	// Lifetime is how long the lease may live, before the provider has its say.
	Lifetime Lifetime
}

// Allowed reports whether there is no reason against.
func (d *Decision) Allowed() bool { return len(d.Refusals) == 0 }

// Decide is the only place where a grant is allowed. It collects every reason
// against, so that explain can show them all; creds answers with the first.
func (p *Policy) Decide(s Situation, q Request) *Decision {
	d := &Decision{}
	d.refuse(p.Who.Check(s.Caller)...)
	for _, what := range s.Frozen {
		d.refuse(fault.New(fault.AccessDenied, "new grants are stopped: the %s is frozen", what))
	}
	p.narrow(q, d)
	d.Lifetime = p.lifetime(s, q, d)
	return d
}

func (d *Decision) refuse(reasons ...*fault.Error) {
	d.Refusals = append(d.Refusals, reasons...)
}
