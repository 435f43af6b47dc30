// Package decision is the core of the broker: given a role, a caller, a subject
// token and a request, Decide says what may be granted; given what the provider
// answered, Accept says whether it may be handed out. It is pure. Whoever needs
// to know what the broker allows reads this package and access, and nothing else.
package decision

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
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
	// Indirect are scopes that stand for whatever the server has on record, within the
	// ceiling: an answer to one is judged by that.
	Indirect access.Set
	// Levels order the permissions dimension.
	Levels access.Levels
	Who    Who
	// Subject is nil for a role that takes no subject token.
	Subject *SubjectTerms
	// Acts is who acts for the subject of an exchange.
	Acts Actor
	// Forward hands the subject token itself on.
	Forward bool
	// Condition is nil for a role without one.
	Condition *condition.Program
	// TTL is the role's default life, MaxTTL the role's cap, ProviderMaxTTL the
	// provider's; zero where unset.
	TTL, MaxTTL, ProviderMaxTTL time.Duration
	// Askable are the dimensions that the provider can be asked for; in the
	// others only its answer can prove that the ceiling holds.
	Askable access.Dimensions
	// Expands are the dimensions in which the provider can be asked for what matches
	// patterns, whatever that is when it is asked.
	Expands access.Dimensions
}

// Situation is what Decide needs to know beside the policy and the request.
type Situation struct {
	Now    time.Time
	Caller Caller
	// Stopped are reasons that lie with neither caller nor request: the provider
	// is disabled, something is frozen.
	Stopped []*fault.Error
	// Subject is what the verification made of the subject token.
	Subject subject.Verdict
	// Actor is who acts: what the verification made of the actor token, or the
	// entity; none where nobody is named. ActorGiven is true if the caller brought
	// an actor token.
	Actor      subject.Verdict
	ActorGiven bool
	// Reserved are the audiences that no child of this provider may be for: at them a
	// credential of the broker's own is accepted.
	Reserved access.Targets
	// MountTTL and MountMaxTTL are the mount's default and maximal lease.
	MountTTL, MountMaxTTL time.Duration
}

// Decision is what may be granted, or why nothing may.
type Decision struct {
	// Refusals are all reasons against, in the order who, stopped, subject,
	// request, time, condition; empty means allowed.
	Refusals []*fault.Error
	// Access is what to ask the provider for: exact values, or patterns where it expands
	// them.
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
	d.refuse(p.checkCaller(s.Caller)...)
	d.refuse(s.Stopped...)
	d.refuse(p.checkSubject(s)...)
	d.refuse(p.checkActor(s)...)
	before := len(d.Refusals)
	if p.Forward {
		p.forward(s, q, d)
	} else {
		p.narrow(s, q, d)
	}
	d.refuse(checkReserved(s.Reserved, d.Access)...)
	d.Lifetime = p.lifetime(s, q, d)
	// What would be granted is not known if nothing would be.
	if p.Condition != nil && (len(d.Refusals) == before || !p.Condition.Uses("request")) {
		expected, unseen := p.expected(d.Access)
		if unseen != nil {
			d.refuse(unseen)
		}
		d.refuse(p.checkCondition(facts{
			caller: s.Caller, remote: s.Caller.remote(), access: expected, ttl: d.Lifetime.TTL, claims: s.claims(), now: s.Now,
		})...)
	}
	return d
}

func (s Situation) claims() map[string]any {
	if t := s.Subject.Token(); t != nil {
		return t.Claims
	}
	return nil
}

func (d *Decision) refuse(reasons ...*fault.Error) {
	d.Refusals = append(d.Refusals, reasons...)
}
