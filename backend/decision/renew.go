package decision

import (
	"net/netip"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// allowed is the ceiling against which an answer or an old grant is held:
// without a ceiling on audiences or resources, the server's default stands.
func (p *Policy) allowed(of access.Access) access.Access {
	for _, dim := range []access.Dimension{access.DimAudiences, access.DimResources} {
		if !p.Bounded[dim] {
			of = of.With(dim, access.Everything())
		}
	}
	return of
}

// Recorded is what was recorded of a grant at its issue.
type Recorded struct {
	Access access.Access
	// RemoteAddr and Claims are facts of the issue, for the condition; the TTL
	// that it sees is what the renewal would give.
	RemoteAddr string
	Claims     map[string]any
	TTL        time.Duration
}

// CheckRenewal is rule 8 of the contract: it judges the holder as Vault knows it
// now, and the role as it is now, over what was recorded. Signature, jti, age of
// the login and address were judged at the issue and are not judged again.
func (p *Policy) CheckRenewal(s Situation, r Recorded) []*fault.Error {
	reasons := append(p.CheckHolder(s.Caller), p.checkNobody(s.Caller)...)
	reasons = append(reasons, s.Stopped...)
	reasons = append(reasons, p.checkRecordedSubject(r.Claims, s.Now)...)
	if refusal := p.StillCovers(r.Access); refusal != nil {
		reasons = append(reasons, refusal)
	}
	reasons = append(reasons, checkReserved(s.Reserved, r.Access)...)
	issue := s.Caller
	issue.RemoteAddr, _ = netip.ParseAddr(r.RemoteAddr)
	expected, unseen := p.expected(r.Access)
	if unseen != nil {
		reasons = append(reasons, fault.New(fault.AccessDenied, "%s", unseen.Message))
	}
	return append(reasons, p.checkCondition(facts{
		caller: s.Caller, remote: issue.remote(), access: expected, ttl: r.TTL, claims: r.Claims, now: s.Now,
	})...)
}

// StillCovers refuses the renewal of a grant that the role, as it is now, would
// not make any more.
func (p *Policy) StillCovers(granted access.Access) *fault.Error {
	covered := granted.Meet(p.allowed(p.Ceiling))
	for _, dim := range access.AllDimensions() {
		covered = p.withoutWildcards(dim, covered)
	}
	if excess := granted.Excess(covered); len(excess) > 0 {
		return fault.New(fault.AccessDenied, "the role does not allow %s any more: read creds again", quoteAll(excess))
	}
	return nil
}

// Renew is how much longer a lease of the given age may live from now on: what
// the caller wants next, or the role's or mount's ttl, within what is left of
// every cap. Zero or less means that nothing is left.
func (p *Policy) Renew(s Situation, increment, age time.Duration) (time.Duration, *fault.Error) {
	d := &Decision{}
	first := p.lifetime(s, Request{TTL: max(0, increment)}, d)
	if !d.Allowed() {
		return 0, d.Refusals[0]
	}
	return min(first.TTL, first.Max-age), nil
}

// CheckStanding judges a holder between issue and renewal, without any facts of
// the issue: the role's terms on who, and a condition that looks at nothing but
// identity and now. The sweep kills the grants of a holder who fails it.
func (p *Policy) CheckStanding(s Situation) []*fault.Error {
	return append(p.CheckHolder(s.Caller), p.checkConditionOnIdentity(s)...)
}

// CheckCaller judges who calls before anything is asked for: all of the role's terms on who,
// and a condition that looks at nothing but identity and now.
func (p *Policy) CheckCaller(s Situation) []*fault.Error {
	return append(p.checkCaller(s.Caller), p.checkConditionOnIdentity(s)...)
}

func (p *Policy) checkConditionOnIdentity(s Situation) []*fault.Error {
	if p.Condition == nil || p.Condition.Uses("request") || p.Condition.Uses("subject") {
		return nil
	}
	return p.checkCondition(facts{caller: s.Caller, now: s.Now})
}
