package decision_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// The properties below hold for every role, caller, subject, request and answer.
// CI tries each of them a hundred times; 100,000 times is
//
//	go test ./backend/decision -run 'Test.*Always' -rapid.checks=100000 -timeout 1h

// tester is what the checks need of *testing.T and *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

func must(t tester, ok bool, law string, args ...any) {
	t.Helper()
	if !ok {
		t.Fatalf("violated: "+law, args...)
	}
}

// TestDecideAlwaysNarrows: what is granted is within parent, role, subject and
// request, is no less than that, and can be asked for; what is refused says why.
func TestDecideAlwaysNarrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s, q := drawSituation(t, w), drawRequest(t, w)
		checkDecision(t, w, s, q, w.Decide(s, q))
	})
}

// checkDecision checks one decision against the definition: granted = parent ∩
// role ∩ subject ∩ request, in every dimension.
func checkDecision(t tester, w world, s decision.Situation, q decision.Request, d *decision.Decision) {
	t.Helper()
	for _, r := range d.Refusals {
		must(t, refusalCodes[r.Code] && r.Message != "", "a refusal has a code and a text: %v", r)
	}
	if !d.Allowed() {
		return
	}
	must(t, s.Caller.EntityID != "" || len(w.Who.EntityIDs)+len(w.Who.Groups)+len(w.Who.Metadata) == 0, "nobody is somebody")
	must(t, s.Caller.EntityID != "" || w.Condition == nil || !w.Condition.Uses("identity"), "nobody meets no condition on who it is")
	must(t, d.Lifetime.TTL > 0 && d.Lifetime.TTL <= s.MountMaxTTL, "a life of %v", d.Lifetime.TTL)
	must(t, !s.Caller.Disabled && len(s.Stopped) == 0 && s.Subject.Refusal() == nil, "allowed in spite of a reason")
	must(t, (w.Subject == nil) == (s.Subject.Token() == nil), "a subject token if and only if the role wants one")
	if w.Forward {
		checkForwarded(t, w, s, q, d)
		return
	}
	must(t, d.Access.Within(w.Ceiling) && d.Access.Within(w.traits.Ceiling), "%v is within %+v", d.Access.Flat(), w.role)
	a, named := written(t, w, q)
	for _, dim := range access.AllDimensions() {
		switch {
		case !w.Bounded[dim]:
			must(t, d.Access.IsNothing(dim), "nothing can be asked for without a ceiling")
		case d.Access.IsNothing(dim) || !d.Access.Enumerable(dim):
			t.Fatalf("violated: something is left of %s, and it has names", dim)
		case named[dim]:
			must(t, d.Access.Only(dim).Within(a), "%v is within the request", d.Access.Flat())
		}
	}
	if s.Subject.Token() != nil {
		checkOnBehalf(t, w, s, d)
	}
	checkNothingLost(t, w, s, a, named, d)
	if named == nil {
		must(t, len(d.Stripped) == 0, "who asked for nothing lost nothing")
	}
}

// checkOnBehalf: the subject's token is as the role wants it, and bounds the grant.
func checkOnBehalf(t tester, w world, s decision.Situation, d *decision.Decision) {
	t.Helper()
	r, tok := w.role, s.Subject.Token()
	must(t, !s.Now.Add(d.Lifetime.Max).After(tok.ExpiresAt), "nothing outlives the subject")
	must(t, !tok.HasScopes || d.Access.Scopes.Within(access.Exactly(tok.Scopes...)), "the subject has these scopes")
	must(t, tok.Details == nil || d.Access.Details.Within(*tok.Details), "the subject has these details")
	must(t, !r.SubjectSingleUse || tok.ID != "", "a token for one use can be told from others")
	must(t, len(r.RequiredACR) == 0 || slices.Contains(r.RequiredACR, tok.ACR), "the class of the login")
	must(t, r.MaxAuthAge == 0 || !tok.AuthTime.IsZero() && s.Now.Sub(tok.AuthTime) <= r.MaxAuthAge, "the age of the login")
	for _, method := range r.RequiredAMR {
		must(t, slices.Contains(tok.AMR, method), "the methods of the login")
	}
	must(t, len(w.Subject.Claims.Check(tok.Claims)) == 0, "the claims that the role wants")
}

// refusalCodes are those that a decision can give.
var refusalCodes = map[fault.Code]bool{
	fault.InvalidRequest: true, fault.InvalidScope: true, fault.InvalidTarget: true, fault.InvalidGrant: true,
	fault.AccessDenied: true, fault.StepUp: true, fault.TemporarilyUnavailable: true,
}

// written is what a well-formed request names.
func written(t tester, w world, q decision.Request) (a access.Access, named access.Dimensions) {
	t.Helper()
	named = access.Dimensions{
		access.DimScopes: q.Scopes != nil, access.DimAudiences: q.Audiences != nil, access.DimResources: q.Resources != nil,
		access.DimPermissions: q.Permissions != nil, access.DimDetails: q.Details != nil,
	}
	a = access.Access{Scopes: access.Exactly(q.Scopes...), Audiences: access.Exactly(q.Audiences...), Resources: access.Exactly(q.Resources...)}
	p, err := access.NewPermissions(w.Levels, q.Permissions)
	must(t, err == nil, "a malformed request was allowed: %v", err)
	a.Permissions = p
	if q.Details != nil {
		a.Details = *q.Details
	}
	return a, named
}

// checkNothingLost: whatever all of them allow is granted, and all that was asked
// for beyond it is named as stripped.
func checkNothingLost(t tester, w world, s decision.Situation, a access.Access, named access.Dimensions, d *decision.Decision) {
	t.Helper()
	for _, dim := range access.AllDimensions() {
		set, isSet := a.Set(dim)
		if !isSet || !w.Bounded[dim] {
			continue
		}
		if !named[dim] {
			bound, _ := w.Ceiling.Set(dim)
			set = access.Exactly(bound.Literals()...)
			switch {
			case dim == access.DimScopes && w.Defaults != nil:
				set = *w.Defaults
			case dim == access.DimScopes && s.Subject.Token() != nil && s.Subject.Token().HasScopes:
				set = access.Exactly(s.Subject.Token().Scopes...)
			}
		}
		granted, _ := d.Access.Set(dim)
		values, _ := set.Values()
		for _, v := range values {
			must(t, granted.Contains(v) == allows(t, w, s, dim, v), "%s %s is granted if and only if all allow it", dim, v)
		}
	}
	var excess []string
	for _, dim := range access.AllDimensions() {
		if named[dim] {
			excess = append(excess, a.Only(dim).Excess(d.Access)...)
		}
	}
	must(t, slices.Equal(excess, d.Stripped), "stripped %v, want %v", d.Stripped, excess)
	must(t, len(excess) == 0 || !w.RefuseExcess, "stripped where excess is refused")
	if named[access.DimPermissions] && w.Bounded[access.DimPermissions] {
		must(t, d.Access.Permissions.Equal(a.Permissions.Meet(w.Ceiling.Permissions)), "permissions are the lower of both levels")
	}
}

// allows says whether role, parent and subject allow one value.
func allows(t tester, w world, s decision.Situation, dim access.Dimension, v string) bool {
	t.Helper()
	if dim == access.DimScopes && s.Subject.Token() != nil && s.Subject.Token().HasScopes && !slices.Contains(s.Subject.Token().Scopes, v) {
		return false
	}
	bound, _ := w.Ceiling.Set(dim)
	if !strings.Contains(v, "*") || w.Ceiling.Enumerable(dim) {
		return bound.Contains(v)
	}
	widest, err := access.Ceiling(strings.ReplaceAll(v, "*", "**"))
	must(t, err == nil, "%v", err)
	return widest.Within(bound)
}

var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// TestStripAndRefuseAlwaysAgree: what the one drops is what the other refuses, and
// what neither does is the same grant.
func TestStripAndRefuseAlwaysAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s, q := drawSituation(t, w), drawRequest(t, w)
		strip, refuse := *w.Policy, *w.Policy
		strip.Condition, refuse.Condition = nil, nil // it is asked only if something would be granted
		strip.RefuseExcess, refuse.RefuseExcess = false, true
		a, b := strip.Decide(s, q), refuse.Decide(s, q)

		var named []string
		for _, r := range b.Refusals {
			if slices.ContainsFunc(a.Refusals, func(o *fault.Error) bool { return o.Error() == r.Error() }) {
				continue
			}
			must(t, r.Code == fault.InvalidScope || r.Code == fault.InvalidTarget, "only excess is refused beyond what strip refuses: %v", r)
			for _, v := range quoted.FindAllString(r.Message, -1) {
				value, err := strconv.Unquote(v)
				must(t, err == nil, "%v", err)
				named = append(named, value)
			}
		}
		must(t, slices.Equal(named, a.Stripped), "refused for %v, stripped %v", named, a.Stripped)
		for _, r := range a.Refusals {
			must(t, slices.ContainsFunc(b.Refusals, func(o *fault.Error) bool { return o.Error() == r.Error() }), "refuse refuses what strip refuses: %v", r)
		}
		if b.Allowed() {
			must(t, a.Allowed() && len(a.Stripped) == 0 && a.Access.Equal(b.Access) && a.Lifetime == b.Lifetime, "the same grant")
		}
	})
}

// TestSilentCallersAlwaysGetDefaultsOrAll: never a pattern, and never nothing.
func TestSilentCallersAlwaysGetDefaultsOrAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s := drawSituation(t, w)
		d := w.Decide(s, decision.Request{})
		must(t, len(d.Stripped) == 0, "a silent caller asked for nothing that could be stripped")
		if !d.Allowed() {
			return
		}
		for _, dim := range access.AllDimensions() {
			whole := w.Ceiling
			if s.Subject.Token() != nil && s.Subject.Token().HasScopes {
				whole.Scopes = whole.Scopes.Meet(access.Exactly(s.Subject.Token().Scopes...))
			}
			if s.Subject.Token() != nil && s.Subject.Token().Details != nil {
				whole.Details = whole.Details.Meet(*s.Subject.Token().Details)
			}
			if w.Defaults != nil {
				whole.Scopes = whole.Scopes.Meet(*w.Defaults)
			}
			if set, ok := whole.Set(dim); ok && slices.Contains(set.Literals(), wildcard(dim)) {
				continue // held against patterns: TestDecideAlwaysNarrows
			}
			must(t, !w.Bounded[dim] || d.Access.Only(dim).Equal(whole.Only(dim)), "%s: all of it, or the defaults", dim)
			must(t, !w.Bounded[dim] || d.Access.Enumerable(dim) && !d.Access.IsNothing(dim), "%s: by name, and not nothing", dim)
		}
	})
}

// wildcard is the vocabulary's value with a star.
func wildcard(dim access.Dimension) string {
	if dim == access.DimScopes {
		return "repo:*"
	}
	return "https://a.test/*"
}

// TestLifetimeIsAlwaysTheLeast: no term is exceeded, and the one that is named is
// one that gave it.
func TestLifetimeIsAlwaysTheLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s, q := drawSituation(t, w), drawRequest(t, w)
		d := w.Decide(s, q)
		if !d.Allowed() {
			return
		}
		l := d.Lifetime
		left := time.Duration(0)
		if s.Subject.Token() != nil {
			left = s.Subject.Token().ExpiresAt.Sub(s.Now)
		}
		roleMax := w.MaxTTL
		if roleMax == 0 {
			roleMax = w.TTL
		}
		caps := map[string]time.Duration{"role": roleMax, "provider": w.ProviderMaxTTL, "mount": s.MountMaxTTL, "subject": left}
		wish, wishes := q.TTL, "request"
		if wish == 0 {
			wish, wishes = w.TTL, "role"
		}
		if wish == 0 {
			wish, wishes = s.MountTTL, "mount"
		}
		least, most := wish, time.Duration(0)
		for _, limit := range caps {
			if limit > 0 {
				if least == 0 || limit < least {
					least = limit
				}
				if most == 0 || limit < most {
					most = limit
				}
			}
		}
		must(t, l.TTL == least && l.TTL > 0, "%v is the least of %v and %v", l.TTL, wish, caps)
		must(t, l.Max == most && l.TTL <= l.Max, "renewals reach %v, the least cap", most)
		must(t, l.DecidedBy == wishes && wish == l.TTL || caps[l.DecidedBy] == l.TTL, "%s gave %v", l.DecidedBy, l.TTL)
		must(t, l.Capped == (q.TTL > l.TTL), "capped says whether the wish was cut")
		checkUntil(t, s, l)
	})
}

func checkUntil(t *rapid.T, s decision.Situation, l decision.Lifetime) {
	must(t, l.Until(s.Now, time.Time{}, "token") == l, "a token without an end does not bind")
	end := s.Now.Add(time.Duration(rapid.IntRange(1, 100_000).Draw(t, "token's life")) * time.Second)
	trimmed := l.Until(s.Now, end, "token")
	must(t, !s.Now.Add(trimmed.TTL).After(end) && !s.Now.Add(trimmed.Max).After(end), "nothing outlives the token")
	must(t, trimmed.TTL <= l.TTL && trimmed.Max <= l.Max, "an end only shortens")
	must(t, (trimmed.DecidedBy == "token") == (trimmed.TTL < l.TTL), "the token is named if and only if it decided")
}

// TestDecideIsAlwaysTheSame: it depends neither on when it is asked again nor on
// the order in which lists were written.
func TestDecideIsAlwaysTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s, q := drawSituation(t, w), drawRequest(t, w)
		first := w.Decide(s, q)
		must(t, same(first, w.Decide(s, q)), "asked twice")
		if !w.NeedsGroups() {
			stranger := s
			stranger.Caller.Groups = nil
			must(t, same(first, w.Decide(stranger, q)), "groups that were not asked for do not matter")
		}

		other := *w.role
		other.Scopes, other.Audiences, other.Resources = shuffled(t, other.Scopes), shuffled(t, other.Audiences), shuffled(t, other.Resources)
		other.BoundEntityIDs, other.BoundGroupNames = shuffled(t, other.BoundEntityIDs), shuffled(t, other.BoundGroupNames)
		other.BoundCIDRs, other.DefaultScopes = shuffled(t, other.BoundCIDRs), shuffled(t, other.DefaultScopes)
		p, err := other.Compile(kind{}, w.traits, w.ProviderMaxTTL)
		must(t, err == nil, "%v", err)
		p.Condition = w.Condition
		s.Caller.Groups = shuffled(t, s.Caller.Groups)
		q.Scopes, q.Audiences, q.Resources = shuffled(t, q.Scopes), shuffled(t, q.Audiences), shuffled(t, q.Resources)
		must(t, same(first, p.Decide(s, q)), "lists in another order: %+v", w.role)
	})
}

func same(a, b *decision.Decision) bool {
	return slices.EqualFunc(a.Refusals, b.Refusals, func(x, y *fault.Error) bool { return x.Error() == y.Error() }) &&
		a.Access.Equal(b.Access) && slices.Equal(a.Stripped, b.Stripped) && a.Lifetime == b.Lifetime
}

// TestWhoIsAlwaysAskedInFull: every term on the caller that is set must hold.
func TestWhoIsAlwaysAskedInFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s := drawSituation(t, w)
		bare := *w.Policy
		bare.Subject, bare.Condition, bare.Bounded = nil, nil, nil
		s.Subject, s.Stopped, s.MountMaxTTL = subject.Verdict{}, nil, time.Hour
		got := bare.Decide(s, decision.Request{})

		r, c := w.role, s.Caller
		want := !c.Disabled &&
			(r.BoundEntityIDs == nil || slices.Contains(r.BoundEntityIDs, c.EntityID)) &&
			(r.BoundGroupNames == nil || c.EntityID != "" && slices.ContainsFunc(c.Groups, func(g string) bool { return slices.Contains(r.BoundGroupNames, g) })) &&
			(r.BoundEntityMetadata == nil || c.EntityID != "" && c.Metadata["team"] == r.BoundEntityMetadata["team"]) &&
			(r.BoundCIDRs == nil || slices.ContainsFunc(r.BoundCIDRs, func(v string) bool { return within(c.RemoteAddr, v) }))
		must(t, got.Allowed() == want, "%+v for %+v: %v", r, c, got.Refusals)
		for _, reason := range got.Refusals {
			must(t, reason.Code == fault.AccessDenied, "who is a matter of access_denied: %v", reason)
		}
	})
}

// within is bound_cidrs by net rather than netip.
func within(addr netip.Addr, cidr string) bool {
	ip := net.ParseIP(addr.WithZone("").String())
	if !strings.Contains(cidr, "/") {
		return ip != nil && ip.Equal(net.ParseIP(cidr))
	}
	_, block, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	return ip != nil && block.Contains(ip)
}

// TestConditionAlwaysSeesTheGrant: a condition is asked over exactly what would be
// granted, to whom and for how long.
func TestConditionAlwaysSeesTheGrant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		c := rapid.SampledFrom(conditions).Draw(t, "condition")
		s, q := drawSituation(t, w), drawRequest(t, w)
		plain, bound := *w.Policy, *w.Policy
		plain.Condition, bound.Condition = nil, c.program
		without, with := plain.Decide(s, q), bound.Decide(s, q)
		must(t, without.Allowed() || !with.Allowed(), "a condition allows nothing that was refused")
		if !without.Allowed() {
			return
		}
		v := see(s.Caller, without.Access, without.Lifetime.TTL, s.Now)
		if s.Subject.Token() != nil {
			v.claimedTeam, _ = s.Subject.Token().Claims["team"].(string)
		}
		must(t, with.Allowed() == c.met(v), "%s of %+v: %v", c.expr, v, with.Refusals)
		must(t, with.Access.Equal(without.Access) && with.Lifetime == without.Lifetime, "a condition changes nothing else")
		for _, r := range with.Refusals {
			must(t, r.Code == fault.AccessDenied, "%v", r)
			must(t, !strings.Contains(r.Message, c.expr), "the refusal shows the condition: %v", r)
			var unmet *condition.Failure
			must(t, errors.As(r, &unmet) && unmet.Expr == c.expr || s.Caller.EntityID == "", "its cause does, for explain: %v", r.Cause)
		}
	})
}

func see(c decision.Caller, a access.Access, ttl time.Duration, now time.Time) view {
	v := view{entity: c.EntityID, team: c.Metadata["team"], groups: c.Groups, permissions: a.Permissions.Map(), ttl: ttl, now: now}
	v.scopes, _ = a.Scopes.Values()
	v.audiences, _ = a.Audiences.Values()
	v.resources, _ = a.Resources.Values()
	if c.RemoteAddr.IsValid() {
		v.remote = strings.TrimPrefix(c.RemoteAddr.WithZone("").String(), "::ffff:")
	}
	return v
}

// TestReasonsAreAlwaysComplete: explain shows all reasons and creds the first, so
// taking away the one at fault leaves the others as they were.
func TestReasonsAreAlwaysComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.Condition = nil // it is asked about the caller too
		s, q := drawSituation(t, w), drawRequest(t, w)
		all := w.Decide(s, q).Refusals

		friend := s
		friend.Caller = admitted(w.role)
		must(t, endsWith(all, w.Decide(friend, q).Refusals), "the caller hid a reason")

		friend.Stopped = nil
		rest := w.Decide(friend, q).Refusals
		must(t, endsWith(all, rest), "the provider hid a reason")

		if q.TTL >= 0 {
			q.TTL = -time.Second
			negative := w.Decide(friend, q).Refusals
			must(t, slices.ContainsFunc(negative, func(r *fault.Error) bool { return r.Message == "ttl must be positive" }), "a bad ttl is always named")
		}
	})
}

func endsWith(all, tail []*fault.Error) bool {
	if len(tail) > len(all) {
		return false
	}
	return slices.EqualFunc(all[len(all)-len(tail):], tail, func(x, y *fault.Error) bool { return x.Error() == y.Error() })
}

// TestAcceptAlwaysRefusesExcess: an answer beyond what was asked is a violation
// that names all of the excess, silence about what could not be asked is one too,
// and whatever else was not confirmed is said to be unverified: scopes also where nobody
// asked for any, if the provider knows scopes.
func TestAcceptAlwaysRefusesExcess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		d := w.Decide(drawSituation(t, w), drawRequest(t, w))
		a := drawAnswer(t, d.Access)
		unverified, err := w.Accept(d.Access, a)

		var excess, unproven, unchecked []string
		for _, dim := range access.AllDimensions() {
			free := !w.Bounded[dim] && (dim == access.DimAudiences || dim == access.DimResources)
			switch {
			case a.Confirmed[dim] && !free:
				excess = append(excess, a.Granted.Only(dim).Excess(d.Access)...)
			case a.Confirmed[dim]:
			case w.Bounded[dim] && !w.Askable[dim]:
				unproven = append(unproven, string(dim))
			case w.Bounded[dim] || dim == access.DimScopes && (w.Askable[dim] || w.Forward):
				unchecked = append(unchecked, string(dim))
			}
		}
		if len(excess)+len(unproven) == 0 {
			must(t, err == nil && slices.Equal(unverified, unchecked), "%v, unverified %v, want %v", err, unverified, unchecked)
			return
		}
		must(t, err != nil && err.Code == fault.ProviderViolation && unverified == nil, "%v %v %v", excess, unproven, err)
		if len(unproven) > 0 {
			must(t, strings.Contains(err.Message, unproven[0]), "%v names %v", err, unproven)
			return
		}
		for _, v := range excess[:min(len(excess), 10)] {
			must(t, strings.Contains(err.Message, strconv.Quote(v)), "%v names %s", err, v)
		}
	})
}

// TestAnIndirectScopeNeverWidensTheRole: whatever a server gives for a scope that names
// no result is within the ceiling, or is refused.
func TestAnIndirectScopeNeverWidensTheRole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		d := w.Decide(drawSituation(t, w), drawRequest(t, w))
		asked, _ := d.Access.Scopes.Values()
		w.Indirect = access.Exactly(asked...)
		a := drawAnswer(t, d.Access)
		if _, err := w.Accept(d.Access, a); err != nil || !a.Confirmed[access.DimScopes] {
			return
		}
		must(t, a.Granted.Scopes.Within(w.Ceiling.Scopes), "%v is beyond %v", a.Granted.Scopes, w.Ceiling.Scopes)
	})
}

// TestGrantsAlwaysStayWithin walks through the lives of grants: whatever was narrowed,
// granted, renewed and edited in whatever order, what is held is within every
// ceiling that held when it was issued or renewed, and ends within all of them.
func TestGrantsAlwaysStayWithin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s, q := drawSituation(t, w), drawRequest(t, w)
		d := w.Decide(s, q)
		if !d.Allowed() {
			return
		}
		a := drawAnswer(t, d.Access)
		if _, err := w.Accept(d.Access, a); err != nil {
			return
		}
		l := life{issued: s.Now, granted: a.Granted, remote: s.Caller.RemoteAddr, lifetime: d.Lifetime}
		if s.Subject.Token() != nil {
			l.claims = s.Subject.Token().Claims
		}
		if !coin(t, 3, "endless") {
			l.tokenEnds = s.Now.Add(time.Duration(rapid.IntRange(1, 7200).Draw(t, "token's life")) * time.Second)
			l.lifetime = l.lifetime.Until(s.Now, l.tokenEnds, "token")
		}
		l.ends, l.maxLease = s.Now.Add(l.lifetime.TTL), s.Now.Add(l.lifetime.Max)
		l.hold(t, w)
		narrowAgain(t, w, s, d.Access)
		for range rapid.IntRange(0, 5).Draw(t, "steps") {
			if coin(t, 2, "edit") {
				w = w.edited(t)
			}
			s.Now = s.Now.Add(time.Duration(rapid.SampledFrom([]int{1, 60, 600, 3600}).Draw(t, "later")) * time.Second)
			if s.Now.After(l.ends) {
				return
			}
			l.renew(t, w, s)
		}
	})
}

// life is a grant, with all that was promised about it.
type life struct {
	issued, ends, maxLease, tokenEnds time.Time
	granted                           access.Access
	lifetime                          decision.Lifetime
	remote                            netip.Addr
	claims                            map[string]any
	ceilings                          []access.Access
}

// hold notes the ceiling that holds now, and checks the grant against all of them.
func (l *life) hold(t *rapid.T, w world) {
	l.ceilings = append(l.ceilings, ceilingOf(w))
	for _, c := range l.ceilings {
		must(t, l.granted.Within(c), "%v is within every ceiling that held", l.granted.Flat())
	}
	must(t, !l.ends.After(l.maxLease) && (l.tokenEnds.IsZero() || !l.ends.After(l.tokenEnds)), "the lease ends in time")
}

// renew is what a renewal does with the decision.
func (l *life) renew(t *rapid.T, w world, s decision.Situation) {
	s.Caller.RemoteAddr, s.Subject = netip.Addr{}, subject.Verdict{} // a renewal says neither
	remote := ""
	if l.remote.IsValid() {
		remote = l.remote.String()
	}
	s.Stopped = nil
	if coin(t, 10, "frozen") {
		s.Stopped = []*fault.Error{fault.New(fault.AccessDenied, "frozen")}
	}
	recorded := decision.Recorded{Access: l.granted, RemoteAddr: remote, Claims: l.claims, TTL: l.maxLease.Sub(s.Now)}
	reasons := w.CheckRenewal(s, recorded)
	l.checkReasons(t, w, s, reasons)
	if len(reasons) > 0 {
		return
	}
	increment := drawDuration(t, "increment")
	more, refusal := w.Renew(s, increment, s.Now.Sub(l.issued))
	if refusal != nil {
		must(t, s.MountMaxTTL <= 0, "%v", refusal)
		return
	}
	must(t, increment == 0 || more <= increment, "no longer than was asked for")
	end := s.Now.Add(more)
	roleMax := w.MaxTTL
	if roleMax == 0 {
		roleMax = w.TTL
	}
	for name, limit := range map[string]time.Duration{"role": roleMax, "provider": w.ProviderMaxTTL, "mount": s.MountMaxTTL} {
		must(t, limit == 0 || !end.After(l.issued.Add(limit)), "%s allows %v from the issue on", name, limit)
	}
	if more < time.Second {
		return
	}
	l.ends = end
	for _, bound := range []time.Time{l.maxLease, l.tokenEnds} {
		if !bound.IsZero() && l.ends.After(bound) {
			l.ends = bound
		}
	}
	l.hold(t, w)
}

// checkReasons: a renewal is refused if and only if holder, freeze, role or
// condition say no.
func (l *life) checkReasons(t *rapid.T, w world, s decision.Situation, reasons []*fault.Error) {
	v := see(s.Caller, l.granted, l.maxLease.Sub(s.Now), s.Now)
	if l.remote.IsValid() {
		v.remote = strings.TrimPrefix(l.remote.WithZone("").String(), "::ffff:")
	}
	v.claimedTeam, _ = l.claims["team"].(string)
	bare := *w.Policy
	bare.Who.CIDRs, bare.Condition, bare.Subject = nil, nil, nil
	holderFails := len(bare.CheckHolder(s.Caller)) > 0
	subjectFails := w.Subject != nil && (l.claims == nil || len(w.Subject.Claims.Check(l.claims)) > 0 ||
		len(w.Subject.StepUp.RequiredACR) > 0 && l.claims["acr"] != "gold")
	conditionFails := w.met != nil && !w.met(v)
	exceeds := w.StillCovers(l.granted) != nil
	must(t, (len(reasons) > 0) == (holderFails || subjectFails || conditionFails || exceeds || len(s.Stopped) > 0),
		"holder %v, subject %v, condition %v, ceiling %v: %v", holderFails, subjectFails, conditionFails, exceeds, reasons)
	must(t, exceeds || l.granted.Within(ceilingOf(w)), "a ceiling below the grant refuses")
	must(t, len(w.CheckStanding(s)) == 0 || len(reasons) > 0, "the sweep kills nothing that could be renewed")
}

// ceilingOf is what a grant under w may hold: of audiences and resources that the
// role does not bound, the server's default stands.
func ceilingOf(w world) access.Access {
	ceiling := w.Ceiling
	for _, dim := range []access.Dimension{access.DimAudiences, access.DimResources} {
		if !w.Bounded[dim] {
			ceiling = ceiling.With(dim, access.Everything())
		}
	}
	return ceiling
}

// narrowAgain asks for parts of what was granted, as a caller does who passes on
// less and less.
func narrowAgain(t *rapid.T, w world, s decision.Situation, before access.Access) {
	some := func(set access.Set) []string {
		values, _ := set.Values()
		if len(values) == 0 {
			return nil
		}
		return rapid.SliceOfNDistinct(rapid.SampledFrom(values), 1, len(values), rapid.ID).Draw(t, "less")
	}
	q := decision.Request{Scopes: some(before.Scopes), Audiences: some(before.Audiences), Resources: some(before.Resources)}
	if !before.Permissions.IsNothing() {
		q.Permissions = before.Permissions.Map()
	}
	if !before.Details.IsNothing() {
		q.Details = &before.Details
	}
	again := w.Decide(s, q)
	must(t, len(again.Stripped) == 0 && again.Access.Within(before), "%v is no more than %v", again.Access.Flat(), before.Flat())
}

// TestCompileAlwaysBounds: whatever an operator writes, the policy's ceiling is
// within the parent's and within what was written, or the role is refused with
// invalid_request.
func TestCompileAlwaysBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, traits := drawRole(t), drawTraits(t)
		if coin(t, 3, "uncheckable") {
			traits.Checkable[rapid.SampledFrom(access.AllDimensions()).Draw(t, "dimension")] = false
		}
		traits.Class = rapid.SampledFrom([]provider.Class{provider.ClassToken, provider.ClassLever, provider.ClassExpiry}).Draw(t, "class")
		traits.Endless, r.RequireRevocable = coin(t, 3, "endless"), coin(t, 3, "require_revocable")
		p, err := r.Compile(kind{}, traits, 0)
		if err != nil {
			must(t, fault.CodeOf(err) == fault.InvalidRequest, "%v", err)
			return
		}
		must(t, traits.Class != provider.ClassExpiry || !r.RequireRevocable && !traits.Endless, "what cannot be killed has an end, and nobody wanted to kill it")
		must(t, p.Ceiling.Within(traits.Ceiling), "the parent has all of the ceiling")
		written := map[access.Dimension]bool{
			access.DimScopes: r.Scopes != nil, access.DimAudiences: r.Audiences != nil, access.DimResources: r.Resources != nil,
			access.DimPermissions: r.Permissions != nil, access.DimDetails: r.Details != nil,
		}
		for _, dim := range access.AllDimensions() {
			must(t, p.Bounded[dim] == written[dim], "bounded by what was written")
			must(t, p.Bounded[dim] != p.Ceiling.IsNothing(dim), "no ceiling is nothing, and nothing is no ceiling")
			must(t, !p.Bounded[dim] || traits.Askable[dim] || traits.Checkable[dim], "a ceiling can be asked for or checked")
		}
		for _, v := range slices.Concat(scopeValues, targetValues) {
			inRole := func(patterns []string) bool {
				ceiling, err := access.Ceiling(patterns...)
				return err == nil && ceiling.Contains(v)
			}
			must(t, !p.Ceiling.Scopes.Contains(v) || inRole(r.Scopes), "the role allows the scope %s", v)
			must(t, !p.Ceiling.Audiences.Contains(v) || inRole(r.Audiences), "the role allows the audience %s", v)
		}
		again, err := r.Compile(kind{}, traits, 0)
		must(t, err == nil && reflect.DeepEqual(p.Ceiling, again.Ceiling), "the same role compiles to the same policy: %v", fmt.Sprint(err))
	})
}
