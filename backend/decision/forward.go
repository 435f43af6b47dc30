package decision

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// A token that is forwarded cannot be narrowed: it is within every ceiling as it
// is, or it is not handed on. What follows is narrow and lifetime for that case.

const exchangeIt = "exchange it for a narrower one (mode=exchange)"

// forward holds the subject token itself against the ceiling and the request.
func (p *Policy) forward(s Situation, q Request, d *Decision) {
	asked, named, bad := q.asked(p.Levels)
	if len(bad) > 0 {
		d.refuse(bad...)
		return
	}
	shown := s.Subject.Token()
	if shown == nil {
		return // which has been refused
	}
	token := access.Access{Scopes: access.Exactly(shown.Scopes...), Audiences: access.Exactly(shown.Audience...)}
	if p.Bounded[access.DimScopes] && !shown.HasScopes {
		d.refuse(fault.New(fault.InvalidScope, "the token does not name its scopes, so nothing shows that it is within the role's: %s", exchangeIt))
	}
	if len(shown.OtherScopes) > 0 {
		d.refuse(fault.New(fault.InvalidScope, "the token's scope and scp differ, or hold what is no scope (%s), so a service may read more into it than is checked here: %s", quoteAll(shown.OtherScopes), exchangeIt))
	}
	if shown.Details != nil {
		token.Details = *shown.Details // for which no role that forwards has a ceiling
	}
	for _, dim := range access.AllDimensions() {
		p.forwardWithin(dim, token, asked, named, d)
	}
}

// forwardWithin is forward in one dimension.
func (p *Policy) forwardWithin(dim access.Dimension, token, asked access.Access, named access.Dimensions, d *Decision) {
	has := token.Only(dim)
	allowed := p.Ceiling.Only(dim)
	if !p.Bounded[dim] {
		allowed = access.Access{}
	}
	if named[dim] {
		allowed = allowed.Meet(asked.Only(dim))
	}
	within := p.withoutWildcards(dim, has.Meet(allowed))
	if excess := has.Excess(within); len(excess) > 0 {
		d.refuse(fault.New(codeFor(dim), "the token is wider than what is allowed here (%s): %s", quoteAll(excess), exchangeIt))
		return
	}
	if named[dim] {
		missing := asked.Only(dim).Excess(has)
		switch {
		case has.IsNothing(dim):
			d.refuse(fault.New(codeFor(dim), "the token has none of the %s that were asked for", dim))
			return
		case len(missing) > 0 && p.RefuseExcess:
			d.refuse(fault.New(codeFor(dim), "the token does not have %s: ask for less", quoteAll(missing)))
			return
		}
		d.Stripped = append(d.Stripped, missing...)
	}
	d.Access = d.Access.With(dim, has)
}

// checkRemaining refuses to forward a token that lives longer than any child of
// the role may: its lease would end before it.
func (p *Policy) checkRemaining(token *subject.Token, now time.Time, most time.Duration, d *Decision) {
	if left := token.ExpiresAt.Sub(now); left > most {
		d.refuse(fault.New(fault.InvalidGrant, "the token lives for another %s, longer than the %s that are allowed here: %s",
			left.Round(time.Second), most, exchangeIt))
	}
}
