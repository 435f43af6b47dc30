package decision

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Lifetime is how long a lease may live, and what decided it.
type Lifetime struct {
	// TTL is the first term; renewals may reach Max, both counted from the issue.
	TTL, Max time.Duration
	// DecidedBy names the term of the minimum that gave TTL: "request", "role",
	// "provider", "mount", "subject" or "token".
	DecidedBy string
	// Capped is true if the request asked for more than it gets.
	Capped bool
}

// bound is one term of the minimum; zero does not bind.
type bound struct {
	name string
	ttl  time.Duration
}

// least returns the smallest positive bound; the earlier one wins a tie. ok is
// false if none binds.
func least(bounds ...bound) (min bound, ok bool) {
	for _, b := range bounds {
		if b.ttl > 0 && (!ok || b.ttl < min.ttl) {
			min, ok = b, true
		}
	}
	return min, ok
}

// lifetime is the least of request, role, provider, mount and subject. What the
// caller or the role ask for first is the wish; the rest are caps. A role with a
// ttl and no max_ttl is capped at its ttl, so that nobody gets more than the
// role's author wrote down.
func (p *Policy) lifetime(s Situation, q Request, d *Decision) Lifetime {
	if q.TTL < 0 {
		d.refuse(fault.New(fault.InvalidRequest, "ttl must be positive"))
		return Lifetime{}
	}
	wish := bound{"request", q.TTL}
	if wish.ttl == 0 {
		wish = bound{"role", p.TTL}
	}
	if wish.ttl == 0 {
		wish = bound{"mount", s.MountTTL}
	}
	roleMax := p.MaxTTL
	if roleMax == 0 {
		roleMax = p.TTL
	}
	caps := []bound{{"role", roleMax}, {"provider", p.ProviderMaxTTL}, {"mount", s.MountMaxTTL}}
	token := s.Subject.Token()
	if most, ok := least(caps...); ok && p.Forward && token != nil {
		p.checkRemaining(token, s.Now, most.ttl, d)
	}
	if token != nil {
		left := token.ExpiresAt.Sub(s.Now)
		if left < time.Second {
			d.refuse(fault.New(fault.InvalidGrant, "the subject token has no life left: get a new one"))
			return Lifetime{}
		}
		caps = append(caps, bound{"subject", left})
	}
	ceiling, ok := least(caps...)
	if !ok || s.MountMaxTTL <= 0 {
		// Every TTL call over Vault's plugin protocol answers 0 on an error.
		d.refuse(fault.New(fault.TemporarilyUnavailable, "the mount's lease limits could not be learnt: try again"))
		return Lifetime{}
	}
	got, _ := least(append([]bound{wish}, caps...)...)
	return Lifetime{TTL: got.ttl, Max: ceiling.ttl, DecidedBy: got.name, Capped: q.TTL > got.ttl}
}

// Until trims the lifetime to the end of what is named; a zero end does not bind.
func (l Lifetime) Until(now, end time.Time, name string) Lifetime {
	if end.IsZero() {
		return l
	}
	left := end.Sub(now)
	if left < l.TTL {
		l.TTL, l.DecidedBy = left, name
	}
	l.Max = min(l.Max, left)
	return l
}
