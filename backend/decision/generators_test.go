package decision_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// The vocabularies are so small that roles, subjects, requests and answers
// overlap nearly always. A star is a character of values too.
var (
	scopeValues    = []string{"a", "b", "repo:x", "repo:y", "repo:x:adm", "dir/f", "repo:*"}
	scopePatterns  = []string{"a", "b", "repo:x", "repo:y", "repo:x:adm", "repo:*", "repo:**", "*", "**", "dir/*"}
	targetValues   = []string{"https://a.test/x", "https://a.test/y", "https://b.test", "urn:c", "https://a.test/*"}
	targetPatterns = []string{"https://a.test/x", "https://a.test/*", "https://b.test", "https://**", "urn:*", "**"}
	permissions    = []string{"contents", "issues", "secrets"}
	levels         = access.DefaultLevels()
	entities       = []string{"e1", "e2"}
	groups         = []string{"ops", "contractors", "everybody"}
	teams          = []string{"red", "blue"}
	cidrs          = []string{"10.0.0.0/8", "10.0.0.7", "::ffff:10.1.0.0/112", "0.0.0.0/0", "2001:db8::/32", "::/0", "2001:db8::7/128"}
	addresses      = []string{"10.0.0.7", "10.1.0.9", "::ffff:10.0.0.7", "192.0.2.1", "2001:db8::7", "2001:db8:1::1", "fe80::1%eth0", "2600::1"}
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// coin is true about once in n, and false when rapid looks for a simpler case. It
// is made of bits because rapid's numbers are mostly small ones.
func coin(t *rapid.T, n int, label string) bool {
	drawn := 0
	for size := 1; size < 4*n; size *= 2 {
		drawn *= 2
		if rapid.Bool().Draw(t, label) {
			drawn++
		}
	}
	return drawn%n == n-1
}

func listOf(t *rapid.T, from []string, label string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, min(4, len(from)), rapid.ID).Draw(t, label)
}

// maybeList is nil half the time.
func maybeList(t *rapid.T, from []string, label string) []string {
	if coin(t, 2, label) {
		return nil
	}
	return listOf(t, from, label)
}

func drawDetails(t *rapid.T, label string) json.RawMessage {
	elements := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) map[string]any {
		e := map[string]any{"type": rapid.SampledFrom([]string{"pay", "read"}).Draw(t, "type")}
		if !coin(t, 4, "has actions") {
			e["actions"] = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "y", "z"}), 1, 3, rapid.ID).Draw(t, "actions")
		}
		if coin(t, 4, "has amount") {
			e["amount"] = rapid.IntRange(1, 2).Draw(t, "amount")
		}
		return e
	}), 1, 3).Draw(t, label)
	raw, err := json.Marshal(elements)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func drawDuration(t *rapid.T, label string) time.Duration {
	return time.Duration(rapid.SampledFrom([]int{0, 0, 1, 60, 300, 600, 3600, 86400}).Draw(t, label)) * time.Second
}

// world is one random role on one random provider.
type world struct {
	*decision.Policy
	role   *role.Role
	traits provider.Traits
	// met is the oracle of the policy's condition; nil if there is none.
	met func(view) bool
}

func drawWorld(t *rapid.T) world {
	w := world{role: drawRole(t), traits: drawTraits(t)}
	return w.compile(t)
}

// compile compiles the role, and sometimes gives it a condition.
func (w world) compile(t *rapid.T) world {
	maxTTL := drawDuration(t, "provider's max_ttl")
	p, err := w.role.Compile(kind{}, w.traits, maxTTL)
	if err != nil {
		// The parent has nothing of a ceiling, or cannot be asked: give it all.
		w.traits = able()
		if p, err = w.role.Compile(kind{}, w.traits, maxTTL); err != nil {
			t.Fatalf("%+v: %v", w.role, err)
		}
	}
	w.Policy, w.met = p, nil
	if c := rapid.SampledFrom(conditions).Draw(t, "condition"); coin(t, 2, "condition") && (p.Subject != nil || !c.program.Uses("subject")) {
		p.Condition, w.met = c.program, c.met
	}
	return w
}

// edited is w after an operator changed one thing in it, or all.
func (w world) edited(t *rapid.T) world {
	other := drawRole(t)
	r := *w.role
	switch rapid.SampledFrom([]string{"time", "scopes", "audiences", "permissions", "who", "subject", "condition", "all"}).Draw(t, "edit") {
	case "time":
		r.TTL, r.MaxTTL = other.TTL, other.MaxTTL
	case "scopes":
		r.Scopes, r.DefaultScopes = other.Scopes, other.DefaultScopes
	case "audiences":
		r.Audiences = other.Audiences
	case "permissions":
		r.Permissions = other.Permissions
	case "who":
		r.BoundEntityIDs, r.BoundGroupNames, r.BoundCIDRs = other.BoundEntityIDs, other.BoundGroupNames, other.BoundCIDRs
	case "subject":
		r.SubjectIssuers, r.BoundSubjectClaims, r.RequiredACR = other.SubjectIssuers, other.BoundSubjectClaims, other.RequiredACR
		r.MaxAuthAge, r.SubjectSingleUse = other.MaxAuthAge, other.SubjectSingleUse
	case "all":
		r = *other
	}
	return world{role: &r, traits: w.traits}.compile(t)
}

func drawRole(t *rapid.T) *role.Role {
	r := &role.Role{
		Provider: "test/it", Mode: provider.ModeMint, OnExcess: rapid.SampledFrom([]string{role.Strip, role.Refuse}).Draw(t, "on_excess"),
		Scopes: maybeList(t, scopePatterns, "scopes"), Audiences: maybeList(t, targetPatterns, "audiences"), Resources: maybeList(t, targetPatterns, "resources"),
		BoundEntityIDs: rareList(t, entities, "bound_entity_ids"), BoundGroupNames: rareList(t, groups, "bound_group_names"), BoundCIDRs: rareList(t, cidrs, "bound_cidrs"),
		TTL: drawDuration(t, "ttl"), MaxTTL: drawDuration(t, "max_ttl"),
	}
	if r.MaxTTL > 0 {
		r.TTL = min(r.TTL, r.MaxTTL)
	}
	if coin(t, 2, "permissions") {
		r.Permissions = drawPermissions(t, "permissions")
	}
	if coin(t, 2, "details") {
		r.Details = drawDetails(t, "details")
	}
	if coin(t, 4, "metadata") {
		r.BoundEntityMetadata = map[string]string{"team": rapid.SampledFrom(teams).Draw(t, "team")}
	}
	if r.Scopes != nil && coin(t, 3, "defaults") {
		ceiling, err := access.Ceiling(r.Scopes...)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range listOf(t, scopeValues, "default_scopes") {
			if ceiling.Contains(v) && v != "repo:*" {
				r.DefaultScopes = append(r.DefaultScopes, v)
			}
		}
	}
	if coin(t, 3, "subject") {
		drawSubjectTerms(t, r)
	}
	return r
}

func rareList(t *rapid.T, from []string, label string) []string {
	if !coin(t, 4, label) {
		return nil
	}
	return listOf(t, from, label)
}

func drawSubjectTerms(t *rapid.T, r *role.Role) {
	r.SubjectIssuers = []string{"ci"}
	if coin(t, 2, "claims") {
		r.BoundSubjectClaims = map[string][]string{"team": listOf(t, teams, "claim")}
	}
	if coin(t, 3, "acr") {
		r.RequiredACR = []string{"gold"}
	}
	if coin(t, 3, "age") {
		r.MaxAuthAge = 10 * time.Minute
	}
	r.SubjectSingleUse = coin(t, 3, "single use")
}

func drawPermissions(t *rapid.T, label string) map[string]string {
	return rapid.MapOfN(rapid.SampledFrom(permissions), rapid.SampledFrom(levels), 1, 3).Draw(t, label)
}

// drawTraits draws a provider that can do everything, or one that is limited in
// what it can be asked, or a parent that can grant less.
func drawTraits(t *rapid.T) provider.Traits {
	traits := able()
	if coin(t, 3, "mute") {
		dim := rapid.SampledFrom(access.AllDimensions()).Draw(t, "dimension")
		traits.Askable[dim] = false
	}
	if coin(t, 3, "limited parent") {
		traits.Ceiling.Scopes = access.Exactly(listOf(t, scopeValues, "parent's scopes")...)
	}
	if coin(t, 5, "limited parent") {
		ceiling, err := access.NewPermissions(nil, drawPermissions(t, "parent's permissions"))
		if err != nil {
			t.Fatal(err)
		}
		traits.Ceiling.Permissions = ceiling
	}
	return traits
}

func drawCaller(t *rapid.T) decision.Caller {
	var c decision.Caller
	if !coin(t, 8, "unknown address") {
		c.RemoteAddr = netip.MustParseAddr(rapid.SampledFrom(addresses).Draw(t, "address"))
	}
	if coin(t, 6, "no entity") {
		return c
	}
	c.EntityID = rapid.SampledFrom(entities).Draw(t, "entity")
	c.Name = c.EntityID
	c.Groups = rapid.SliceOfNDistinct(rapid.SampledFrom(groups), 0, 3, rapid.ID).Draw(t, "groups")
	c.Disabled = coin(t, 20, "disabled")
	if !coin(t, 4, "no team") {
		c.Metadata = map[string]string{"team": rapid.SampledFrom(teams).Draw(t, "team")}
	}
	return c
}

// drawSubject draws a subject token, half of the time one that meets r.
func drawSubject(t *rapid.T, now time.Time, r *role.Role) *subject.Token {
	tok := &subject.Token{
		IssuerName: "ci", Issuer: "https://ci.test", Subject: "alice", ID: "j1", ACR: "gold", AuthTime: now.Add(-time.Minute),
		ExpiresAt: now.Add(time.Duration(rapid.SampledFrom([]int{7200, 600, 120, 1, 0}).Draw(t, "subject's life")) * time.Second),
		Claims:    map[string]any{"iss": "https://ci.test", "sub": "alice", "acr": "gold", "team": "red"},
	}
	if allowed := r.BoundSubjectClaims["team"]; allowed != nil {
		tok.Claims["team"] = allowed[0]
	}
	if coin(t, 2, "scopes") {
		tok.HasScopes = true
		tok.Scopes = rapid.SliceOfNDistinct(rapid.SampledFrom(scopeValues), 0, len(scopeValues), rapid.ID).Draw(t, "subject's scopes")
	}
	if coin(t, 4, "details") {
		details, err := access.ParseDetails(drawDetails(t, "subject's details"))
		if err != nil {
			t.Fatal(err)
		}
		tok.Details = &details
	}
	if coin(t, 10, "ambiguous scopes") {
		tok.HasScopes, tok.OtherScopes = true, []string{"other"}
	}
	if coin(t, 2, "as wanted") {
		return tok
	}
	if coin(t, 4, "no jti") {
		tok.ID = ""
	}
	switch rapid.IntRange(0, 2).Draw(t, "team") {
	case 0:
		delete(tok.Claims, "team")
	default:
		tok.Claims["team"] = rapid.SampledFrom(teams).Draw(t, "claimed team")
	}
	if coin(t, 3, "no acr") {
		tok.ACR = ""
		delete(tok.Claims, "acr")
	}
	tok.AuthTime = now.Add(-time.Duration(rapid.SampledFrom([]int{0, 5, 30}).Draw(t, "minutes since the login")) * time.Minute)
	return tok
}

// drawSituation draws a situation for w, half of the time one in which the caller
// is welcome.
func drawSituation(t *rapid.T, w world) decision.Situation {
	s := decision.Situation{
		Now: noon.Add(time.Duration(rapid.IntRange(0, 59).Draw(t, "minute")) * time.Minute), Caller: admitted(w.role),
		MountTTL: drawDuration(t, "mount's ttl"), MountMaxTTL: max(time.Second, drawDuration(t, "mount's max_ttl")),
	}
	if w.Subject != nil {
		s.Subject = subject.Verified(drawSubject(t, s.Now, w.role))
	}
	if coin(t, 2, "welcome") {
		return s
	}
	if coin(t, 2, "another caller") {
		s.Caller = drawCaller(t)
	}
	switch {
	case coin(t, 10, "limits unknown"):
		s.MountTTL, s.MountMaxTTL = 0, 0
	case coin(t, 10, "stopped"):
		s.Stopped = []*fault.Error{fault.New(fault.AccessDenied, "frozen")}
	case coin(t, 10, "forged"):
		s.Subject = subject.Refused(fault.New(fault.InvalidGrant, "forged"))
	case coin(t, 10, "wrong about the subject") && s.Subject.Token() != nil:
		s.Subject = subject.Verdict{}
	case coin(t, 10, "wrong about the subject"):
		s.Subject = subject.Verified(drawSubject(t, s.Now, w.role))
	}
	return s
}

// admitted meets all of a role's terms on who.
func admitted(r *role.Role) decision.Caller {
	c := decision.Caller{EntityID: "e1", Name: "e1", Groups: groups, Metadata: r.BoundEntityMetadata, RemoteAddr: netip.MustParseAddr("10.0.0.7")}
	if r.BoundEntityIDs != nil {
		c.EntityID = r.BoundEntityIDs[0]
	}
	for _, a := range addresses {
		addr := netip.MustParseAddr(a)
		if slices.ContainsFunc(r.BoundCIDRs, func(v string) bool { return within(addr, v) }) {
			c.RemoteAddr = addr
		}
	}
	return c
}

// drawRequest draws a request to w: mostly of what the role allows, by name where
// it has patterns. Now and then it is malformed.
func drawRequest(t *rapid.T, w world) decision.Request {
	q := decision.Request{
		Scopes:    w.drawAsked(t, access.DimScopes, scopeValues),
		Audiences: w.drawAsked(t, access.DimAudiences, targetValues),
		Resources: w.drawAsked(t, access.DimResources, targetValues),
		TTL:       drawDuration(t, "asked ttl"),
	}
	if w.drawNaming(t, access.DimPermissions) {
		names := permissions
		if w.role.Permissions != nil && !coin(t, 3, "beyond the role") {
			names = slices.Sorted(maps.Keys(w.role.Permissions))
		}
		q.Permissions = rapid.MapOfN(rapid.SampledFrom(names), rapid.SampledFrom(levels), 1, len(names)).Draw(t, "asked permissions")
	}
	if w.drawNaming(t, access.DimDetails) {
		raw := w.role.Details
		if raw == nil || coin(t, 2, "other details") {
			raw = drawDetails(t, "asked details")
		}
		d, err := access.ParseDetails(raw)
		if err != nil {
			t.Fatal(err)
		}
		q.Details = &d
	}
	if !coin(t, 16, "malformed") {
		return q
	}
	switch rapid.IntRange(1, 6).Draw(t, "malformed") {
	case 1:
		q.Scopes = append(q.Scopes, "a b")
	case 2:
		q.Audiences = append(q.Audiences, "")
	case 3:
		q.Permissions = map[string]string{"contents": "own"}
	case 4:
		q.TTL = -time.Second
	case 5:
		q.Details = &access.Details{}
	case 6:
		q.Scopes = []string{}
	}
	return q
}

// drawNaming says whether the request names the dimension.
func (w world) drawNaming(t *rapid.T, dim access.Dimension) bool {
	switch {
	case !w.Bounded[dim]:
		return coin(t, 32, "without a ceiling")
	case w.Ceiling.Enumerable(dim):
		return coin(t, 3, "named")
	default:
		return !coin(t, 12, "silent")
	}
}

func (w world) drawAsked(t *rapid.T, dim access.Dimension, from []string) []string {
	if !w.drawNaming(t, dim) {
		return nil
	}
	if !coin(t, 3, "beyond the role") {
		bound, _ := w.Ceiling.Set(dim)
		if within := slices.DeleteFunc(slices.Clone(from), func(v string) bool { return !bound.Contains(v) }); len(within) > 0 {
			from = within
		}
	}
	return listOf(t, from, "asked "+string(dim))
}

// drawAnswer draws what a provider might say that was asked for this: mostly the
// truth, sometimes less or more, sometimes nothing about a dimension.
func drawAnswer(t *rapid.T, granted access.Access) decision.Answer {
	a := decision.Answer{Granted: granted, Confirmed: access.Dimensions{}}
	for _, dim := range access.AllDimensions() {
		a.Confirmed[dim] = !coin(t, 4, "silence")
		if !a.Confirmed[dim] || !coin(t, 6, "another answer") {
			continue
		}
		a.Granted = a.Granted.With(dim, drawAccess(t))
	}
	return a
}

func drawAccess(t *rapid.T) access.Access {
	q := decision.Request{Permissions: drawPermissions(t, "permissions")}
	p, err := access.NewPermissions(nil, q.Permissions)
	if err != nil {
		t.Fatal(err)
	}
	d, err := access.ParseDetails(drawDetails(t, "details"))
	if err != nil {
		t.Fatal(err)
	}
	some := func(from []string, label string) access.Set {
		return access.Exactly(rapid.SliceOfN(rapid.SampledFrom(from), 0, 3).Draw(t, label)...)
	}
	return access.Access{Scopes: some(scopeValues, "scopes"), Audiences: some(targetValues, "audiences"), Resources: some(targetValues, "resources"), Permissions: p, Details: d}
}

// shuffled is a copy in another order, nil if list is nil.
func shuffled(t *rapid.T, list []string) []string {
	if len(list) < 2 {
		return slices.Clone(list)
	}
	return rapid.Permutation(list).Draw(t, "order")
}
