// Package role is what an operator writes down about who may get what: its
// stored form, what makes it valid, and its compilation into a decision.Policy.
package role

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// Values of OnExcess.
const (
	Strip  = "strip"
	Refuse = "refuse"
)

// Role is the stored form. A nil list or map is a field that was never written.
type Role struct {
	Provider string        `json:"provider"`
	Mode     provider.Mode `json:"mode"`
	TTL      time.Duration `json:"ttl,omitempty"`
	MaxTTL   time.Duration `json:"max_ttl,omitempty"`

	Scopes        []string          `json:"scopes"`
	Audiences     []string          `json:"audiences"`
	Resources     []string          `json:"resources"`
	Permissions   map[string]string `json:"permissions"`
	Details       json.RawMessage   `json:"authorization_details,omitempty"`
	DefaultScopes []string          `json:"default_scopes,omitempty"`
	OnExcess      string            `json:"on_excess"`
	Parameters    map[string]string `json:"parameters,omitempty"`

	BoundEntityIDs      []string          `json:"bound_entity_ids,omitempty"`
	BoundGroupNames     []string          `json:"bound_group_names,omitempty"`
	BoundEntityMetadata map[string]string `json:"bound_entity_metadata,omitempty"`

	RequireEntity bool `json:"require_entity,omitempty"`

	BoundCIDRs []string `json:"bound_cidrs,omitempty"`
	Condition  string   `json:"condition,omitempty"`

	SubjectIssuers     []string            `json:"subject_issuers,omitempty"`
	BoundSubjectClaims map[string][]string `json:"bound_subject_claims,omitempty"`
	RequiredACR        []string            `json:"required_acr,omitempty"`
	RequiredAMR        []string            `json:"required_amr,omitempty"`
	MaxAuthAge         time.Duration       `json:"max_auth_age,omitempty"`
	SubjectSingleUse   bool                `json:"subject_single_use,omitempty"`

	// Actor is "" for the provider's own default.
	Actor        string   `json:"actor,omitempty"`
	ActorIssuers []string `json:"actor_issuers,omitempty"`

	RequireRevocable bool `json:"require_revocable,omitempty"`

	// Sharing is "" for SharingNone.
	Sharing string `json:"sharing,omitempty"`

	MaxGrantsPerEntity int `json:"max_grants_per_entity,omitempty"`
	MaxIssueRate       int `json:"max_issue_rate,omitempty"`
}

// maxRate bounds max_issue_rate: each issue of the last minute is remembered.
const maxRate = 1000

// asksSubject reports whether any of the terms on the subject token is set.
func (r *Role) asksSubject() bool {
	return len(r.BoundSubjectClaims)+len(r.RequiredACR)+len(r.RequiredAMR) > 0 || r.MaxAuthAge != 0 || r.SubjectSingleUse
}

var providerRef = regexp.MustCompile(`^\w+/\w(([\w-.]+)?\w)?$`)

// Validate judges the role by itself; Compile judges it against its provider.
func (r *Role) Validate() error {
	switch {
	case r.Provider == "":
		return fault.New(fault.InvalidRequest, "provider is missing: name one as <type>/<name>")
	case !providerRef.MatchString(r.Provider):
		return fault.New(fault.InvalidRequest, "provider must have the form <type>/<name>, such as oauth2/acme")
	case r.Mode != provider.ModeMint && r.Mode != provider.ModeExchange && r.Mode != provider.ModeForward:
		return fault.New(fault.InvalidRequest, "mode must be mint, exchange or forward")
	case r.OnExcess != Strip && r.OnExcess != Refuse:
		return fault.New(fault.InvalidRequest, "on_excess must be %q or %q", Strip, Refuse)
	case r.TTL < 0 || r.MaxTTL < 0:
		return fault.New(fault.InvalidRequest, "ttl and max_ttl must not be negative")
	case r.MaxTTL > 0 && r.TTL > r.MaxTTL:
		return fault.New(fault.InvalidRequest, "ttl must not be longer than max_ttl: they are %s and %s", r.TTL, r.MaxTTL)
	case r.MaxGrantsPerEntity < 0:
		return fault.New(fault.InvalidRequest, "max_grants_per_entity must not be negative: 0, or nothing, is any number")
	case r.MaxIssueRate < 0 || r.MaxIssueRate > maxRate:
		return fault.New(fault.InvalidRequest, "max_issue_rate must be between 0 and %d a minute", maxRate)
	case len(r.SubjectIssuers) == 0 && r.asksSubject():
		return fault.New(fault.InvalidRequest, "bound_subject_claims, required_acr, required_amr, max_auth_age and subject_single_use judge a subject token: name in subject_issuers whose tokens are trusted")
	}
	if err := r.validateMode(); err != nil {
		return err
	}
	return r.validateLists()
}

func (r *Role) validateLists() error {
	for _, list := range []struct {
		name   string
		values []string
		check  func(string) error
	}{
		{"scopes", r.Scopes, access.CheckScope},
		{"default_scopes", r.DefaultScopes, access.CheckScope},
		{"audiences", r.Audiences, access.CheckTarget},
		{"resources", r.Resources, access.CheckTarget},
		{"bound_entity_ids", r.BoundEntityIDs, checkName},
		{"bound_group_names", r.BoundGroupNames, checkName},
		{"subject_issuers", r.SubjectIssuers, checkName},
		{"actor_issuers", r.ActorIssuers, checkName},
	} {
		for _, v := range list.values {
			if err := list.check(v); err != nil {
				return fault.New(fault.InvalidRequest, "%s: %s", list.name, err)
			}
		}
	}
	for key := range r.BoundEntityMetadata {
		if err := checkName(key); err != nil {
			return fault.New(fault.InvalidRequest, "bound_entity_metadata: %s", err)
		}
	}
	return nil
}

func checkName(v string) error {
	if v == "" || len(v) > 512 {
		return fmt.Errorf("an empty name, or one of more than 512 bytes: is there a comma too many?")
	}
	if strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("a name with a control character")
	}
	return nil
}

// CheckParameters refuses parameters that a provider of type t with these traits does not
// know.
func (r *Role) CheckParameters(t provider.Type, traits provider.Traits) error {
	known := traits.Parameters
	if known == nil {
		known = t.Parameters()
	}
	for key := range r.Parameters {
		if _, ok := known[key]; !ok {
			knows := "none"
			if len(known) > 0 {
				knows = strings.Join(slices.Sorted(maps.Keys(known)), ", ")
			}
			return fault.New(fault.InvalidRequest, "parameters: providers of type %s know no %q; they know %s", t.Name(), key, knows)
		}
	}
	return nil
}

// Compile judges the role against what its provider can do and makes the policy
// of it. The errors are *fault.Error with invalid_request: what the provider
// could neither be asked for nor be checked for is no ceiling.
func (r *Role) Compile(t provider.Type, traits provider.Traits, providerMaxTTL time.Duration) (*decision.Policy, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	traits, err := r.inMode(traits)
	if err != nil {
		return nil, err
	}
	if err := r.checkRevocation(traits); err != nil {
		return nil, err
	}
	if err := r.CheckParameters(t, traits); err != nil {
		return nil, err
	}
	if most := traits.Life.Most; most > 0 && (providerMaxTTL == 0 || most < providerMaxTTL) {
		providerMaxTTL = most // no lease outlives its child
	}
	p := &decision.Policy{
		RefuseExcess: r.OnExcess == Refuse, Levels: traits.Levels, Askable: traits.Askable, Expands: traits.Expands, Indirect: traits.Indirect,
		TTL: r.TTL, MaxTTL: r.MaxTTL, ProviderMaxTTL: providerMaxTTL,
		Forward: r.Mode == provider.ModeForward, Acts: r.acts(traits),
	}
	if err := r.compileCeiling(p, traits); err != nil {
		return nil, err
	}
	if err := r.compileWho(p); err != nil {
		return nil, err
	}
	if err := r.compileSubject(p); err != nil {
		return nil, err
	}
	return p, r.checkIndirect(p)
}

// checkIndirect refuses a ceiling that says nothing of what the server will give for a
// scope such as Entra's .default, or not enough for the role's condition. In a mint the
// server names no scopes for one: what was consented to is the parent's own.
func (r *Role) checkIndirect(p *decision.Policy) error {
	at := slices.IndexFunc(r.Scopes, p.Indirect.Contains)
	if at < 0 {
		return nil
	}
	direct := slices.ContainsFunc(r.Scopes, func(v string) bool { return !p.Indirect.Contains(v) })
	switch {
	case r.Mode == provider.ModeExchange && !direct:
		return fault.New(fault.InvalidRequest, "scopes: %s names no result: the provider gives for it whatever the user has consented to. Write beside it every scope that it may come to, as the provider spells them: the answer is held against these", r.Scopes[at])
	case p.Condition != nil && p.Condition.Uses("request") && !p.Ceiling.Enumerable(access.DimScopes):
		return fault.New(fault.InvalidRequest, "scopes: beside %s, which names no result, a condition that looks at the request needs scopes without patterns", r.Scopes[at])
	}
	return nil
}

// CheckAudiences refuses a role whose audiences or resources cover a reserved one, in
// any usual spelling: a token for it could be used to authenticate there (rule 10 of
// the contract). endpoints are those that no child may be for, reserved are all that
// this role's may not.
func (r *Role) CheckAudiences(endpoints, reserved access.Targets) error {
	if endpoint, found := r.Covers(endpoints); found {
		return fault.New(fault.InvalidRequest, "audiences and resources must not cover %s, an endpoint of a provider or of this broker: a token for it could be used to authenticate there", endpoint)
	}
	if name, found := r.Covers(reserved); found {
		return fault.New(fault.InvalidRequest, "audiences and resources must not cover %s, by which a provider's server knows itself: a token for it, signed by this broker, could be used to authenticate there; if %s is another service, write the provider's issuer, so that its name need not be guessed", name, name)
	}
	return nil
}

// Covers returns one of the targets that the role's audiences or resources cover.
func (r *Role) Covers(targets access.Targets) (target string, found bool) {
	for _, values := range [][]string{r.Audiences, r.Resources} {
		set, err := access.Ceiling(values...)
		if err != nil {
			continue // which Compile refuses
		}
		if target, found = targets.FindIn(set); found {
			return target, true
		}
	}
	return "", false
}

func (r *Role) compileWho(p *decision.Policy) error {
	p.Who = decision.Who{
		Entity: r.RequireEntity, PerEntity: r.perEntity(),
		EntityIDs: setOf(r.BoundEntityIDs), Groups: setOf(r.BoundGroupNames), Metadata: r.BoundEntityMetadata,
	}
	for _, v := range r.BoundCIDRs {
		prefix, err := parseCIDR(v)
		if err != nil {
			return fault.New(fault.InvalidRequest, "bound_cidrs: %q is no address range, such as 10.0.0.0/8 or 2001:db8::/32", v)
		}
		p.Who.CIDRs = append(p.Who.CIDRs, prefix)
	}
	if r.Condition == "" {
		return nil
	}
	program, err := condition.Compile(r.Condition)
	if err != nil {
		return fault.New(fault.InvalidRequest, "%s", err)
	}
	if program.Uses("subject") && len(r.SubjectIssuers) == 0 {
		return fault.New(fault.InvalidRequest, "condition: it looks at subject, and the role takes no subject token: name its subject_issuers")
	}
	p.Condition = program
	return nil
}

// perEntity names the settings that treat each entity for itself.
func (r *Role) perEntity() []string {
	var names []string
	if r.MaxGrantsPerEntity > 0 {
		names = append(names, "max_grants_per_entity")
	}
	if r.MaxIssueRate > 0 {
		names = append(names, "max_issue_rate")
	}
	if r.SharesByEntity() {
		names = append(names, "sharing")
	}
	return names
}

// parseCIDR takes a range or a single address; a range of IPv4 addresses mapped
// into IPv6 is the range of IPv4 addresses that it means.
func parseCIDR(v string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(v)
	if err != nil {
		addr, err := netip.ParseAddr(v)
		if err != nil || addr.Zone() != "" {
			return prefix, fmt.Errorf("not an address range")
		}
		addr = addr.Unmap()
		return addr.Prefix(addr.BitLen())
	}
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < 96 {
			return prefix, fmt.Errorf("wider than all of IPv4")
		}
		return prefix.Addr().Unmap().Prefix(prefix.Bits() - 96)
	}
	return prefix.Masked(), nil
}

func (r *Role) compileSubject(p *decision.Policy) error {
	if len(r.SubjectIssuers) == 0 {
		return nil
	}
	claims, err := subject.CompileClaims(r.BoundSubjectClaims)
	if err != nil {
		return err
	}
	stepUp := subject.StepUp{RequiredACR: r.RequiredACR, RequiredAMR: r.RequiredAMR, MaxAuthAge: r.MaxAuthAge}
	if err := stepUp.Validate(); err != nil {
		return err
	}
	p.Subject = &decision.SubjectTerms{
		Claims: claims, StepUp: stepUp, SingleUse: r.SubjectSingleUse, Exchanged: r.Mode == provider.ModeExchange,
	}
	return nil
}

func (r *Role) checkRevocation(traits provider.Traits) error {
	if traits.Class != provider.ClassExpiry {
		return nil
	}
	if r.RequireRevocable {
		return fault.New(fault.InvalidRequest, "require_revocable: the provider's tokens cannot be revoked (class expiry): leave it out, or see the provider's revocation")
	}
	if traits.Endless {
		return fault.New(fault.InvalidRequest, "the provider's tokens may have no end and cannot be revoked: set assumed_lifetime, verify, or revocation on the provider")
	}
	return nil
}

// compileCeiling makes the ceiling, met with what the parent can grant.
func (r *Role) compileCeiling(p *decision.Policy, traits provider.Traits) error {
	p.Bounded = access.Dimensions{}
	var own access.Access
	for _, list := range []struct {
		dim    access.Dimension
		values []string
		into   *access.Set
	}{
		{access.DimScopes, r.Scopes, &own.Scopes},
		{access.DimAudiences, r.Audiences, &own.Audiences},
		{access.DimResources, r.Resources, &own.Resources},
	} {
		if list.values == nil {
			continue
		}
		set, err := access.Ceiling(list.values...)
		if err != nil {
			return fault.New(fault.InvalidRequest, "%s: %s", list.dim, err)
		}
		p.Bounded[list.dim], *list.into = true, set
	}
	if r.Permissions != nil {
		set, err := access.NewPermissions(traits.Levels, r.Permissions)
		if err != nil {
			return fault.New(fault.InvalidRequest, "permissions: %s", err)
		}
		p.Bounded[access.DimPermissions], own.Permissions = true, set
	}
	if r.Details != nil {
		set, err := access.ParseDetails(r.Details)
		if err != nil {
			return fault.New(fault.InvalidRequest, "authorization_details: %s", err)
		}
		p.Bounded[access.DimDetails], own.Details = true, set
	}
	for _, dim := range access.AllDimensions() {
		if p.Bounded[dim] && !traits.Askable[dim] && !traits.Checkable[dim] {
			return fault.New(fault.InvalidRequest, "%s: this provider can neither be asked for them nor be checked: %s", dim, hint(traits, dim))
		}
		if !p.Bounded[dim] && traits.Required[dim] {
			return fault.New(fault.InvalidRequest, "%s are missing: a role of this provider must name those that it may have", dim)
		}
	}
	p.Ceiling = own.Meet(traits.Ceiling)
	for _, dim := range access.AllDimensions() {
		if p.Bounded[dim] && p.Ceiling.IsNothing(dim) {
			return fault.New(fault.InvalidRequest, "%s: the parent credential can grant none of these: see what it can with providers/%s/check", dim, r.Provider)
		}
	}
	return r.compileDefaults(p, own)
}

func (r *Role) compileDefaults(p *decision.Policy, own access.Access) error {
	if r.DefaultScopes == nil {
		return nil
	}
	for _, v := range r.DefaultScopes {
		if strings.Contains(v, "*") {
			return fault.New(fault.InvalidRequest, "default_scopes: %s: they are asked for as they stand, so a pattern cannot be one", v)
		}
	}
	defaults := access.Exactly(r.DefaultScopes...)
	if excess := defaults.Excess(own.Scopes); len(excess) > 0 {
		return fault.New(fault.InvalidRequest, "default_scopes: %s is not within scopes: add it there, or leave it out", strings.Join(excess, ", "))
	}
	p.Defaults = &defaults
	return nil
}

func hint(traits provider.Traits, dim access.Dimension) string {
	if h := traits.Hints[dim]; h != "" {
		return h
	}
	return "leave the field out"
}

func setOf(values []string) map[string]bool {
	if len(values) == 0 {
		return nil
	}
	set := make(map[string]bool, len(values))
	for _, v := range slices.Compact(slices.Sorted(slices.Values(values))) {
		set[v] = true
	}
	return set
}
