// Package gitlab is the provider type of GitLab's tokens: of projects, groups, service
// accounts and users, and fine-grained ones.
//
// It follows the pages of GitLab 19.6 below https://docs.gitlab.com/api/ that its files
// name, and, where these are silent, the source that stands behind them. No GitLab runs in
// our tests: what was read only, and not tried, is what docs/gitlab.md says so of.
//
// # What a token's end is
//
// GitLab knows days alone: a token is dead at 00:00 UTC on its expires_at. So a child is
// asked for with the day after its lease's end, and killed at the lease's end.
//
// # A token that replaces itself
//
// Who holds a token with the scope api or self_rotate can have GitLab replace it by another
// one of the same name, with an end up to a year ahead. Such a child is dead when none of
// its name is active any more: a revocation looks for those too.
package gitlab

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// TypeName is the type's name.
const TypeName = "gitlab"

// The fields by name.
const (
	fieldBaseURL   = "base_url"
	fieldToken     = "token"
	fieldTokenNext = "token_next"
)

// parameterKind is the only parameter of a role.
const parameterKind = "kind"

// fieldUsername is a child's login for git over HTTPS.
const fieldUsername = "username"

const defaultBaseURL = "https://gitlab.com"

// apiPath is where the REST API is below an instance's address.
const apiPath = "/api/v4"

var hidden = &framework.DisplayAttributes{Sensitive: true}

// Type is the provider type.
type Type struct{}

var _ provider.Type = Type{}

// Guide implements provider.Guided.
func (Type) Guide() provider.Guide {
	return provider.Guide{
		About: `
A GitLab. Its children are tokens of projects, groups, service accounts or users: a role says
which, as parameters={"kind":"project"}.

  vault write broker/providers/gitlab/main base_url=https://gitlab.acme.example \
      token=@token.txt token_next=@next.txt rotation_period=30d`,
		Rotation: `
Has GitLab replace token_next while token works; then the two change places. It needs both.`,
	}
}

// Name implements provider.Type.
func (Type) Name() string { return TypeName }

// Fields implements provider.Type.
func (Type) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldBaseURL: {
			Type: framework.TypeString, Default: defaultBaseURL,
			Description: "The instance's address, such as https://gitlab.example.com; with or without /api/v4.",
		},
		fieldToken: {
			Type: framework.TypeString, DisplayAttrs: hidden,
			Description: "A personal access token with the scope api, best a service account's. Its user makes the children: as Maintainer or Owner of projects and groups, as Owner of a service account's group, as administrator for kind=personal.",
		},
		fieldTokenNext: {
			Type: framework.TypeString, DisplayAttrs: hidden,
			Description: "Another such token of the same user, with which rotate begins: GitLab replaces a token and ends it at once, so that of one alone a lost answer would be the loss of both. After a rotation the two have changed places.",
		},
	}
}

// Parameters implements provider.Type.
func (Type) Parameters() map[string]string {
	return map[string]string{parameterKind: "What its tokens are: " + strings.Join(kindNames(), ", ") + ". Required."}
}

// Answer implements provider.Type.
func (Type) Answer() map[string]*framework.FieldSchema {
	fields := provider.TokenField()
	fields[fieldUsername] = &framework.FieldSchema{Type: framework.TypeString, Description: "The user's name to give where git asks for one; the token is the password."}
	return fields
}

type settings struct {
	BaseURL string `json:"base_url"`
}

func parseSettings(raw json.RawMessage) (s settings, err error) {
	if json.Unmarshal(raw, &s) != nil {
		return s, fault.New(fault.InvalidRequest, "the fields cannot be read: write the provider anew")
	}
	if s.BaseURL == "" {
		s.BaseURL = defaultBaseURL
	}
	s.BaseURL = strings.TrimSuffix(strings.TrimSuffix(strings.TrimRight(s.BaseURL, "/"), apiPath), "/")
	return s, nil
}

func (s settings) api() string { return s.BaseURL + apiPath }

// Configure implements provider.Type. Nothing is asked: there is nothing to discover.
func (Type) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	s, err := parseSettings(change.Config.Fields)
	if err != nil {
		return nil, err
	}
	if err := httpclient.CheckURL(s.BaseURL, change.AllowHTTP); err != nil {
		return nil, kit.Invalid(fieldBaseURL, "%s", err)
	}
	if strings.ContainsAny(s.BaseURL, "?#") {
		return nil, kit.Invalid(fieldBaseURL, "it is the address of an instance, which has no query")
	}
	if change.Parent.Secrets[fieldToken].Empty() {
		return nil, kit.Invalid(fieldToken, "write a personal access token with the scope api")
	}
	for _, name := range []string{fieldToken, fieldTokenNext} {
		if text := change.Parent.Secrets[name].Reveal(); !kit.IsASCII(text) || strings.ContainsAny(text, " \t") {
			return nil, kit.Invalid(name, "it has a character that no token has")
		}
	}
	if change.Parent.Secrets[fieldToken].Equal(change.Parent.Secrets[fieldTokenNext]) {
		return nil, kit.Invalid(fieldTokenNext, "it is another token than token, of the same user: make a second one")
	}
	return &provider.Pinned{Destinations: []string{httpclient.BelowNested(s.api())}, Account: s.BaseURL}, nil
}

// Open implements provider.Type.
func (Type) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	s, err := parseSettings(cfg.Fields)
	if err != nil {
		return nil, err
	}
	return &Provider{settings: s, deps: deps, parent: parent}, nil
}

// Provider is one user of one instance.
type Provider struct {
	settings settings
	deps     provider.Deps

	mu     sync.Mutex
	parent provider.Parent
}

var (
	_ provider.Provider         = (*Provider)(nil)
	_ provider.Finder           = (*Provider)(nil) // and so a Revoker
	_ provider.Locating         = (*Provider)(nil)
	_ provider.Checker          = (*Provider)(nil)
	_ provider.Rotator          = (*Provider)(nil)
	_ provider.Varying          = (*Provider)(nil)
	_ provider.ParameterChecker = (*Provider)(nil)
	_ provider.CeilingChecker   = (*Provider)(nil)
)

func (p *Provider) secret(field string) secret.Text {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parent.Secrets[field]
}

func (p *Provider) adopt(parent provider.Parent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parent = parent
}

// longest is how far GitLab has tokens end ahead at most: 365 days, or fewer where an
// administrator says so; the day after the lease's end is one of them.
const longest = 364 * 24 * time.Hour

// Traits implements provider.Provider: those of a project's tokens.
func (p *Provider) Traits() provider.Traits { return p.traits(kinds[kindProject]) }

// TraitsFor implements provider.Varying.
func (p *Provider) TraitsFor(_ provider.Mode, parameters map[string]string) provider.Traits {
	return p.traits(kinds[parameters[parameterKind]])
}

func (p *Provider) traits(k kind) provider.Traits {
	dimensions := access.Dimensions{access.DimScopes: true, access.DimResources: true}
	hints := map[access.Dimension]string{
		access.DimAudiences: "a token is good at its own instance alone; bound resources instead",
		access.DimDetails:   "GitLab knows scopes, resources and an access_level",
	}
	if k.leveled {
		dimensions[access.DimPermissions] = true
	} else {
		hints[access.DimPermissions] = "only tokens of a project or a group have an access_level of their own; bound scopes and resources instead"
	}
	return provider.Traits{
		Class:        provider.ClassToken,
		Life:         provider.Life{Most: longest, Beyond: 48 * time.Hour},
		Askable:      dimensions,
		Checkable:    dimensions,
		Required:     dimensions,
		Hints:        hints,
		Ceiling:      access.Everything(),
		Levels:       levels,
		RotatesAlone: !p.secret(fieldTokenNext).Empty(),
	}
}

// CheckParameters implements provider.ParameterChecker.
func (p *Provider) CheckParameters(_ provider.Mode, parameters map[string]string) error {
	if _, known := kinds[parameters[parameterKind]]; !known {
		return fault.New(fault.InvalidRequest, "parameters: kind is %q, and must be one of %s", parameters[parameterKind], strings.Join(kindNames(), ", "))
	}
	return nil
}

// CheckCeiling implements provider.CeilingChecker. Which scopes there are is left to GitLab,
// which has more of them with each version.
func (p *Provider) CheckCeiling(_ provider.Mode, parameters map[string]string, ceiling access.Access) error {
	name := parameters[parameterKind]
	k := kinds[name]
	for _, pattern := range ceiling.Resources.Excess(access.Set{}) {
		if strings.Contains(pattern, "*") && patternShape.MatchString(pattern) {
			continue
		}
		if !k.resource.MatchString(pattern) {
			return kit.Invalid("resources", "%q is none of a token of kind %s, which is %s", pattern, name, k.wanted)
		}
	}
	for permission := range ceiling.Permissions.Map() {
		if permission != permissionLevel {
			return kit.Invalid("permissions", "a token of kind %s has no permission %q, but access_level alone, of %s", name, permission, strings.Join(levels, ", "))
		}
	}
	return nil
}
