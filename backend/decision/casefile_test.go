package decision_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// This file reads testdata/decisions; the README there describes the format. It is
// strict: a key that is not known here fails the test, because a misspelled
// expectation would otherwise expect nothing.

// caseFile is one file as it is written. Blocks stay loose until a case's own are
// laid over the file's.
type caseFile struct {
	Given map[string]any   `yaml:"given"`
	Cases []map[string]any `yaml:"cases"`
}

// tableCase is one case, complete.
type tableCase struct {
	Name     string                  `yaml:"case"`
	Mount    mountBlock              `yaml:"mount"`
	Provider providerBlock           `yaml:"provider"`
	Issuers  map[string]*issuerBlock `yaml:"issuers"`
	Role     roleBlock               `yaml:"role"`
	Stopped  string                  `yaml:"stopped"`
	Caller   callerBlock             `yaml:"caller"`
	Token    *tokenBlock             `yaml:"token"`
	Actor    *tokenBlock             `yaml:"actor_token"`
	Request  requestBlock            `yaml:"request"`
	Answer   *answerBlock            `yaml:"answer"`
	Want     wantBlock               `yaml:"want"`
	Renewal  *renewalBlock           `yaml:"renewal"`
}

type mountBlock struct {
	TTL    span `yaml:"ttl"`
	MaxTTL span `yaml:"max_ttl"`
}

type providerBlock struct {
	CannotAsk   []access.Dimension          `yaml:"cannot_ask"`
	CannotCheck []access.Dimension          `yaml:"cannot_check"`
	Hints       map[access.Dimension]string `yaml:"hints"`
	Parent      *accessBlock                `yaml:"parent"`
	Levels      []string                    `yaml:"levels"`
	Revocation  provider.Class              `yaml:"revocation"`
	Endless     bool                        `yaml:"endless"`
	MaxTTL      span                        `yaml:"max_ttl"`
	Parameters  []string                    `yaml:"parameters"`
	Endpoints   []string                    `yaml:"endpoints"`
	Reserved    []string                    `yaml:"reserved"`
	Since       []string                    `yaml:"reserved_since"`
	Signed      bool                        `yaml:"signed"`
	Modes       []provider.Mode             `yaml:"modes"`
	NoActors    bool                        `yaml:"no_actors"`
	Acts        bool                        `yaml:"acts_by_default"`
	Indirect    []string                    `yaml:"indirect"`
	Required    []access.Dimension          `yaml:"required"`
}

// accessBlock is a ceiling, a request's or an answer's part that is access. What
// is absent stays nil.
type accessBlock struct {
	Scopes      []string          `yaml:"scopes"`
	Audiences   []string          `yaml:"audiences"`
	Resources   []string          `yaml:"resources"`
	Permissions map[string]string `yaml:"permissions"`
	Details     []any             `yaml:"authorization_details"`
}

type issuerBlock struct {
	Issuer      string   `yaml:"issuer"`
	Audiences   []string `yaml:"bound_audiences"`
	ClockSkew   span     `yaml:"clock_skew"`
	MaxLifetime span     `yaml:"max_subject_lifetime"`
}

type roleBlock struct {
	accessBlock   `yaml:",inline"`
	Provider      string            `yaml:"provider"`
	Mode          string            `yaml:"mode"`
	OnExcess      string            `yaml:"on_excess"`
	DefaultScopes []string          `yaml:"default_scopes"`
	TTL           span              `yaml:"ttl"`
	MaxTTL        span              `yaml:"max_ttl"`
	Parameters    map[string]string `yaml:"parameters"`

	BoundEntityIDs      []string          `yaml:"bound_entity_ids"`
	BoundGroupNames     []string          `yaml:"bound_group_names"`
	BoundEntityMetadata map[string]string `yaml:"bound_entity_metadata"`
	BoundCIDRs          []string          `yaml:"bound_cidrs"`
	Condition           string            `yaml:"condition"`

	SubjectIssuers     []string       `yaml:"subject_issuers"`
	BoundSubjectClaims map[string]any `yaml:"bound_subject_claims"`
	RequiredACR        []string       `yaml:"required_acr"`
	RequiredAMR        []string       `yaml:"required_amr"`
	MaxAuthAge         span           `yaml:"max_auth_age"`
	SubjectSingleUse   bool           `yaml:"subject_single_use"`
	Actor              string         `yaml:"actor"`
	ActorIssuers       []string       `yaml:"actor_issuers"`
	RequireRevocable   bool           `yaml:"require_revocable"`

	RequireEntity      bool   `yaml:"require_entity"`
	MaxGrantsPerEntity int    `yaml:"max_grants_per_entity"`
	MaxIssueRate       int    `yaml:"max_issue_rate"`
	Sharing            string `yaml:"sharing"`
}

type callerBlock struct {
	Entity   string            `yaml:"entity"`
	Name     string            `yaml:"name"`
	Metadata map[string]string `yaml:"metadata"`
	Groups   []string          `yaml:"groups"`
	Aliases  []struct {
		Name          string            `yaml:"name"`
		MountAccessor string            `yaml:"mount_accessor"`
		MountType     string            `yaml:"mount_type"`
		Metadata      map[string]string `yaml:"metadata"`
	} `yaml:"aliases"`
	Disabled bool   `yaml:"disabled"`
	Address  string `yaml:"address"`
}

type tokenBlock struct {
	From     string         `yaml:"from"`
	SignedBy string         `yaml:"signed_by"`
	Claims   map[string]any `yaml:"claims"`
	Raw      string         `yaml:"raw"`
}

type requestBlock struct {
	accessBlock `yaml:",inline"`
	TTL         span `yaml:"ttl"`
}

type answerBlock struct {
	accessBlock `yaml:",inline"`
	ExpiresIn   span `yaml:"expires_in"`
}

type wantBlock struct {
	Granted      []string `yaml:"granted"`
	Asked        []string `yaml:"asked"`
	Stripped     []string `yaml:"stripped"`
	Unverified   []string `yaml:"unverified"`
	TTL          span     `yaml:"ttl"`
	TTLDecidedBy string   `yaml:"ttl_decided_by"`
	MaxTTL       span     `yaml:"max_ttl"`

	RoleRefused string   `yaml:"role_refused"`
	Refused     []string `yaml:"refused"`
	Killed      string   `yaml:"killed"`
}

type renewalBlock struct {
	After     span           `yaml:"after"`
	Increment span           `yaml:"increment"`
	Role      map[string]any `yaml:"role"`
	Caller    map[string]any `yaml:"caller"`
	Stopped   string         `yaml:"stopped"`
	Want      struct {
		TTL     span     `yaml:"ttl"`
		Refused []string `yaml:"refused"`
	} `yaml:"want"`

	// edited is the case with the renewal's role and caller laid over its own.
	edited *tableCase
}

// span is a duration as Vault writes it.
type span time.Duration

func (s *span) UnmarshalYAML(node *yaml.Node) error {
	d, err := time.ParseDuration(node.Value)
	*s = span(d)
	return err
}

// d is what a span stands for.
func (s span) d() time.Duration { return time.Duration(s) }

// readCases reads every file of testdata/decisions: file name to its cases.
func readCases(t *testing.T) map[string][]*tableCase {
	t.Helper()
	paths, err := filepath.Glob("../../testdata/decisions/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	all := map[string][]*tableCase{}
	for _, path := range paths {
		cases, err := readFile(path)
		require.NoError(t, err, path)
		all[strings.TrimSuffix(filepath.Base(path), ".yaml")] = cases
	}
	return all
}

func readFile(path string) ([]*tableCase, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f caseFile
	if err := decodeYAML(raw, &f); err != nil {
		return nil, err
	}
	var cases []*tableCase
	seen := map[string]bool{}
	for i, own := range f.Cases {
		c, err := complete(f.Given, own)
		switch {
		case err != nil:
			return nil, fmt.Errorf("case %d (%v): %w", i+1, own["case"], err)
		case c.Name == "" || seen[c.Name]:
			return nil, fmt.Errorf("case %d: a name that is missing or not its own: %q", i+1, c.Name)
		}
		seen[c.Name] = true
		cases = append(cases, c)
	}
	return cases, nil
}

// complete lays a case over what is given for its file.
func complete(given, own map[string]any) (*tableCase, error) {
	merged := overlay(given, own)
	c := &tableCase{}
	if err := remarshal(merged, c); err != nil {
		return nil, err
	}
	if c.Renewal != nil {
		later := map[string]any{"role": c.Renewal.Role, "caller": c.Renewal.Caller}
		c.Renewal.edited = &tableCase{}
		if err := remarshal(overlay(merged, later), c.Renewal.edited); err != nil {
			return nil, fmt.Errorf("renewal: %w", err)
		}
	}
	return c, nil
}

// overlay lays the blocks of one map over those of another, field by field; a
// null takes away what it is laid over.
func overlay(under, over map[string]any) map[string]any {
	merged := maps.Clone(under)
	if merged == nil {
		merged = map[string]any{}
	}
	for block, fields := range over {
		before, isMap := merged[block].(map[string]any)
		now, both := fields.(map[string]any)
		switch {
		case fields == nil:
			delete(merged, block)
		case isMap && both:
			laid := maps.Clone(before)
			for name, value := range now {
				laid[name] = value
				if value == nil {
					delete(laid, name)
				}
			}
			merged[block] = laid
		default:
			merged[block] = fields
		}
	}
	return merged
}

func remarshal(from, into any) error {
	raw, err := yaml.Marshal(from)
	if err != nil {
		return err
	}
	return decodeYAML(raw, into)
}

// decodeYAML decodes one document and nothing behind it, of known keys only.
func decodeYAML(raw []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something follows the document: %w", err)
	}
	return nil
}

// role is the role as an operator's write stores it: what is empty is unset.
func (c *tableCase) role() (*role.Role, error) {
	b := c.Role
	r := &role.Role{
		Provider: either(b.Provider, "test/it"), Mode: provider.Mode(either(b.Mode, string(provider.ModeMint))), OnExcess: either(b.OnExcess, role.Strip),
		TTL: b.TTL.d(), MaxTTL: b.MaxTTL.d(),
		Scopes: unset(b.Scopes), Audiences: unset(b.Audiences), Resources: unset(b.Resources), DefaultScopes: unset(b.DefaultScopes),
		BoundEntityIDs: unset(b.BoundEntityIDs), BoundGroupNames: unset(b.BoundGroupNames), BoundCIDRs: unset(b.BoundCIDRs),
		BoundEntityMetadata: b.BoundEntityMetadata, Condition: b.Condition, Parameters: b.Parameters,
		SubjectIssuers: unset(b.SubjectIssuers), RequiredACR: unset(b.RequiredACR), RequiredAMR: unset(b.RequiredAMR),
		Actor: b.Actor, ActorIssuers: unset(b.ActorIssuers),
		MaxAuthAge: b.MaxAuthAge.d(), SubjectSingleUse: b.SubjectSingleUse, RequireRevocable: b.RequireRevocable,
		RequireEntity: b.RequireEntity, MaxGrantsPerEntity: b.MaxGrantsPerEntity, MaxIssueRate: b.MaxIssueRate, Sharing: b.Sharing,
	}
	if len(b.Permissions) > 0 {
		r.Permissions = b.Permissions
	}
	if len(b.Details) > 0 {
		raw, err := json.Marshal(b.Details)
		if err != nil {
			return nil, err
		}
		r.Details = raw
	}
	if b.BoundSubjectClaims != nil {
		bounds, err := subject.ParseBounds(b.BoundSubjectClaims)
		if err != nil {
			return nil, err
		}
		r.BoundSubjectClaims = bounds
	}
	return r, nil
}

func either(written, otherwise string) string {
	if written == "" {
		return otherwise
	}
	return written
}

func unset(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

func (b *providerBlock) traits() (provider.Traits, error) {
	traits := able()
	traits.Class = provider.Class(either(string(b.Revocation), string(provider.ClassToken)))
	traits.Endless, traits.Levels, traits.Hints = b.Endless, b.Levels, b.Hints
	traits.Signed = b.Signed
	if b.Indirect != nil {
		var err error
		if traits.Indirect, err = access.Ceiling(b.Indirect...); err != nil {
			return traits, err
		}
	}
	traits.Actors, traits.ActsByDefault = !b.NoActors, b.Acts
	if b.Modes != nil {
		traits.Modes = b.Modes
	}
	for _, dim := range b.Required {
		traits.Required = access.Dimensions{dim: true}
	}
	for _, dim := range b.CannotAsk {
		traits.Askable[dim] = false
	}
	for _, dim := range b.CannotCheck {
		traits.Checkable[dim] = false
	}
	for _, dim := range slices.Concat(b.CannotAsk, b.CannotCheck, slices.Collect(maps.Keys(b.Hints))) {
		if !slices.Contains(access.AllDimensions(), dim) {
			return traits, fmt.Errorf("there is no dimension %q", dim)
		}
	}
	if b.Parent == nil {
		return traits, nil
	}
	parent, err := b.Parent.access(b.Levels, access.Ceiling)
	if err != nil {
		return traits, err
	}
	for dim := range b.Parent.named() {
		traits.Ceiling = traits.Ceiling.With(dim, parent)
	}
	return traits, nil
}

// access makes access of a block.
func (b *accessBlock) access(levels access.Levels, set func(...string) (access.Set, error)) (a access.Access, err error) {
	for list, into := range map[*[]string]*access.Set{&b.Scopes: &a.Scopes, &b.Audiences: &a.Audiences, &b.Resources: &a.Resources} {
		if *into, err = set(*list...); err != nil {
			return a, err
		}
	}
	if a.Permissions, err = access.NewPermissions(levels, b.Permissions); err != nil {
		return a, err
	}
	if len(b.Details) == 0 {
		return a, nil
	}
	raw, err := json.Marshal(b.Details)
	if err != nil {
		return a, err
	}
	a.Details, err = access.ParseDetails(raw)
	return a, err
}

func exactly(values ...string) (access.Set, error) { return access.Exactly(values...), nil }

// named are the dimensions that a block speaks of.
func (b *accessBlock) named() access.Dimensions {
	named := access.Dimensions{}
	for dim, there := range map[access.Dimension]bool{
		access.DimScopes: b.Scopes != nil, access.DimAudiences: b.Audiences != nil, access.DimResources: b.Resources != nil,
		access.DimPermissions: b.Permissions != nil, access.DimDetails: b.Details != nil,
	} {
		if there {
			named[dim] = true
		}
	}
	return named
}

func (c *callerBlock) caller() (decision.Caller, error) {
	caller := decision.Caller{EntityID: c.Entity, Name: either(c.Name, c.Entity), Metadata: c.Metadata, Groups: c.Groups, Disabled: c.Disabled}
	for _, a := range c.Aliases {
		caller.Aliases = append(caller.Aliases, decision.Alias{Name: a.Name, MountAccessor: a.MountAccessor, MountType: a.MountType, Metadata: a.Metadata})
	}
	if c.Address == "" {
		return caller, nil
	}
	var err error
	caller.RemoteAddr, err = netip.ParseAddr(c.Address)
	return caller, err
}

func (b *requestBlock) request() (decision.Request, error) {
	q := decision.Request{Scopes: b.Scopes, Audiences: b.Audiences, Resources: b.Resources, Permissions: b.Permissions, TTL: b.TTL.d()}
	if b.Details == nil {
		return q, nil
	}
	raw, err := json.Marshal(b.Details)
	if err != nil {
		return q, err
	}
	details, err := access.ParseDetails(raw)
	q.Details = &details
	return q, err
}
