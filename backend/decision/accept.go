package decision

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Answer is what the provider says it granted.
type Answer struct {
	// Granted is what the provider said in the dimensions of Confirmed, and what was asked
	// for in the others.
	Granted   access.Access
	Confirmed access.Dimensions
}

// Accept judges what came back against what was asked for: unverified are the dimensions
// that were asked for and that nothing has confirmed. The error, a provider_violation,
// names what was granted beyond it.
//
// Audiences and resources that nobody asked for, in a role without a ceiling on
// them, are the server's default (RFC 9068 section 3) and narrow the token; they
// are accepted and shown. Everything else beyond what was asked is excess, but for
// scopes within the ceiling where an indirect one was asked for.
func (p *Policy) Accept(asked access.Access, a Answer) (unverified []string, err *fault.Error) {
	allowed := p.allowed(asked)
	if p.asksIndirectly(asked) {
		allowed.Scopes = p.Ceiling.Scopes
	}
	var excess []string
	for _, dim := range access.AllDimensions() {
		switch {
		case a.Confirmed[dim]:
			excess = append(excess, a.Granted.Only(dim).Excess(allowed)...)
		case p.Bounded[dim] && !p.Askable[dim]:
			return nil, fault.New(fault.ProviderViolation, "the provider did not show the token's %s, which could not be asked for: nothing proves that the role's ceiling holds, so the token is not handed out", dim)
		case p.Bounded[dim] || dim == access.DimScopes && (p.Askable[dim] || p.Forward): // a server that knows scopes may give some unasked
			unverified = append(unverified, string(dim))
		}
	}
	if len(excess) > 0 {
		return nil, fault.New(fault.ProviderViolation, "the provider granted more than was allowed (%s), so the token is not handed out: bring the role or the provider's own settings in line", quoteAll(excess))
	}
	return unverified, nil
}

// asksIndirectly reports whether the server decides on the scopes.
func (p *Policy) asksIndirectly(asked access.Access) bool {
	values, _ := asked.Scopes.Values()
	return slices.ContainsFunc(values, p.Indirect.Contains)
}

// expected is the most that may come of what is asked for, as a condition sees it: for
// an indirect scope that is all of the ceiling beside. A condition that looks at what
// cannot be listed is a reason against.
func (p *Policy) expected(asked access.Access) (access.Access, *fault.Error) {
	if p.Condition == nil || !p.Condition.Uses("request") || !p.asksIndirectly(asked) {
		return asked, nil
	}
	if !p.Ceiling.Enumerable(access.DimScopes) {
		return asked, fault.New(fault.InvalidScope, "a scope such as .default names no result, and the role has a condition that looks at the scopes, which it allows by pattern: ask for scopes by their names")
	}
	values, _ := asked.Scopes.Values()
	all := access.Exactly(slices.Concat(values, p.Ceiling.Scopes.Literals())...)
	return asked.With(access.DimScopes, access.Access{Scopes: all}), nil
}

const maxNamed = 10

// quoteAll shows at most maxNamed values, quoted: they may be a server's.
func quoteAll(values []string) string {
	shown := make([]string, 0, maxNamed)
	for i, v := range values {
		if i == maxNamed {
			shown = append(shown, "and "+strconv.Itoa(len(values)-maxNamed)+" more")
			break
		}
		if len(v) > 200 {
			v = v[:200] + "…"
		}
		shown = append(shown, strconv.Quote(v))
	}
	return strings.Join(shown, ", ")
}
