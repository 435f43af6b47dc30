package decision

import (
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Request is what the caller asks for. A nil field is a caller who is silent in
// that dimension; an empty one asks for nothing in it, which is refused where
// the role has a ceiling: to most servers, no audience at all means every
// audience, so what looks like narrowing would widen.
type Request struct {
	Scopes, Audiences, Resources []string
	Permissions                  map[string]string
	Details                      *access.Details
	// TTL is zero for a silent caller.
	TTL time.Duration
}

// asked turns the request into access; named are the dimensions that it names.
func (q Request) asked(levels access.Levels) (a access.Access, named access.Dimensions, bad []*fault.Error) {
	named = access.Dimensions{}
	set := func(d access.Dimension, values []string, check func(string) error) access.Set {
		if values == nil {
			return access.Set{}
		}
		named[d] = true
		for _, v := range values {
			if err := check(v); err != nil {
				bad = append(bad, fault.New(fault.InvalidRequest, "%s: %s", d, err))
				return access.Set{}
			}
		}
		return access.Exactly(values...)
	}
	a.Scopes = set(access.DimScopes, q.Scopes, access.CheckScope)
	a.Audiences = set(access.DimAudiences, q.Audiences, access.CheckTarget)
	a.Resources = set(access.DimResources, q.Resources, access.CheckTarget)
	if q.Permissions != nil {
		named[access.DimPermissions] = true
		p, err := access.NewPermissions(levels, q.Permissions)
		if err != nil {
			bad = append(bad, fault.New(fault.InvalidRequest, "permissions: %s", err))
		}
		a.Permissions = p
	}
	if q.Details != nil {
		named[access.DimDetails] = true
		a.Details = *q.Details
	}
	return a, named, bad
}

// narrow meets the request with the ceiling, dimension by dimension. Whatever
// the mode, nobody gets by way of the broker a scope, or an authorization detail,
// that the token on whose behalf they ask names as not its own.
func (p *Policy) narrow(s Situation, q Request, d *Decision) {
	ceiling := p.Ceiling
	token := s.Subject.Token()
	if token != nil && token.HasScopes {
		ceiling.Scopes = ceiling.Scopes.Meet(access.Exactly(token.Scopes...))
	}
	if token != nil && token.Details != nil {
		ceiling.Details = ceiling.Details.Meet(*token.Details)
	}
	asked, named, bad := q.asked(p.Levels)
	if len(bad) > 0 {
		d.refuse(bad...)
		return
	}
	for _, dim := range access.AllDimensions() {
		switch {
		case named[dim]:
			p.narrowNamed(dim, asked.Only(dim), ceiling, d)
		case p.Bounded[dim]:
			p.narrowSilent(dim, ceiling, d)
		}
	}
}

func (p *Policy) narrowNamed(dim access.Dimension, asked, ceiling access.Access, d *Decision) {
	if asked.IsNothing(dim) {
		if p.Bounded[dim] {
			d.refuse(fault.New(codeFor(dim), "an empty list of %s asks for nothing: name what you need, or leave the parameter out", dim))
		}
		return
	}
	granted := p.withoutWildcards(dim, asked.Meet(ceiling))
	excess := asked.Excess(granted)
	switch {
	case granted.IsNothing(dim):
		d.refuse(fault.New(codeFor(dim), "nothing is left of the %s that were asked for: neither the role nor the subject token allows any%s", dim, p.hint(dim, asked, excess)))
	case len(excess) > 0 && p.RefuseExcess:
		d.refuse(fault.New(codeFor(dim), "the role does not allow %s: ask for less%s", quoteAll(excess), p.hint(dim, asked, excess)))
	default:
		d.Stripped = append(d.Stripped, excess...)
		d.Access = d.Access.With(dim, granted)
	}
}

// narrowSilent gives a silent caller the defaults, or the whole ceiling. A
// ceiling with patterns has no whole that could be asked for.
func (p *Policy) narrowSilent(dim access.Dimension, ceiling access.Access, d *Decision) {
	whole := ceiling.Only(dim)
	if dim == access.DimScopes && p.Defaults != nil {
		whole.Scopes = p.Defaults.Meet(ceiling.Scopes)
	}
	whole = p.withoutWildcards(dim, whole)
	if whole.IsNothing(dim) {
		// An empty list is never asked for: to most servers it means everything.
		d.refuse(fault.New(codeFor(dim), "nothing is left of the %s for a request that names none: the subject token, or the parent credential, has none of those that the role then grants", dim))
		return
	}
	if !whole.Enumerable(dim) && !p.expands(dim) {
		d.refuse(fault.New(codeFor(dim), "the role allows %s by pattern: name the ones you need, in %s=", dim, dim))
		return
	}
	d.Access = d.Access.With(dim, whole)
}

// expands reports whether patterns can be passed on as they are. A condition that looks at
// the request could not see what comes of them.
func (p *Policy) expands(dim access.Dimension) bool {
	return p.Expands[dim] && (p.Condition == nil || !p.Condition.Uses("request"))
}

// withoutWildcards drops the values that a provider with wildcards of its own
// could read as more than the role's patterns say: a star in a value that is
// asked for is held against them as the widest wildcard there is. So repo:* is
// not within repo:*, which names no repo:a:b, but it is within repo:**.
func (p *Policy) withoutWildcards(dim access.Dimension, a access.Access) access.Access {
	set, isSet := a.Set(dim)
	values, listed := set.Values()
	if !isSet || !listed || p.Ceiling.Enumerable(dim) || !slices.ContainsFunc(values, hasStar) {
		return a
	}
	bound, _ := p.Ceiling.Set(dim)
	kept := access.Exactly(slices.DeleteFunc(values, func(v string) bool { return hasStar(v) && !coversWildcard(bound, v) })...)
	return a.With(dim, access.Access{Scopes: kept, Audiences: kept, Resources: kept})
}

func hasStar(v string) bool { return strings.Contains(v, "*") }

func coversWildcard(bound access.Set, v string) bool {
	widest, err := access.Ceiling(strings.ReplaceAll(v, "*", "**"))
	return err == nil && widest.Within(bound)
}

// hint says what may have been misunderstood about patterns, in the request or in the
// role.
func (p *Policy) hint(dim access.Dimension, asked access.Access, excess []string) string {
	if slices.ContainsFunc(excess, hasStar) {
		return " (a request names values, not patterns)"
	}
	bound, bounded := p.Ceiling.Set(dim)
	values, _ := asked.Set(dim)
	wanted, _ := values.Values()
	if !bounded || !slices.ContainsFunc(wanted, bound.JustMisses) {
		return ""
	}
	return " (in the role's patterns * crosses neither / nor :, and ** does: its author may have meant that)"
}

// codeFor is the refusal of a dimension: RFC 8707's code for where a token is
// good, RFC 6749's for what it may do.
func codeFor(dim access.Dimension) fault.Code {
	if dim == access.DimAudiences || dim == access.DimResources {
		return fault.InvalidTarget
	}
	return fault.InvalidScope
}
