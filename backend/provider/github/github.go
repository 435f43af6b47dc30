// Package github is the provider type for GitHub Apps. The parent is an App's private key;
// a child is an installation access token, which has some of the installation's repositories
// and permissions, lives for an hour, and is killed by itself.
//
// github.go is the type: what an operator writes, and what the provider is. ceiling.go
// judges roles, permissions.go knows which permissions there are. installation.go finds
// the installation, repositories.go what a role's patterns stand for in it. mint.go makes
// children and kills them, check.go proves and changes the key. app.go sends as the App,
// and system.go is the wire: one request, one answer.
//
// What GitHub answers is described at https://docs.github.com/en/rest/apps, and in
// testdata/openapi, against which package conformance holds this one.
package github

import (
	"context"
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// TypeName is the path segment of this provider type.
const TypeName = "github"

// The fields by name. Those that say which installation are parameters of a role, too.
const (
	fieldAppID          = "app_id"
	fieldClientID       = "client_id"
	fieldPrivateKey     = "private_key"
	fieldNextKey        = "private_key_next"
	fieldBaseURL        = "base_url"
	fieldInstallationID = "installation_id"
	fieldOrganization   = "organization"
	fieldUser           = "user"
	fieldEnterprise     = "enterprise"
)

// fieldUsername is the one field that a child has beside the token.
const fieldUsername = "username"

// publicGitHub is where the API of github.com is.
const publicGitHub = "https://api.github.com"

// life is how long an installation token lives, which nobody can choose.
const life = time.Hour

// Type is the provider type.
type Type struct{}

var (
	_ provider.Type      = Type{}
	_ provider.Reserving = Type{}
)

// Guide implements provider.Guided.
func (Type) Guide() provider.Guide {
	return provider.Guide{
		About: `
A GitHub App in an account. Its children are installation tokens, for some repositories
(resources) with some permissions.

  vault write broker/providers/github/acme client_id=Iv23li private_key=@app.pem organization=acme`,
		Rotation: `
Puts private_key_next in the place of private_key, once GitHub has known the App by it. Then
the former key can be deleted at GitHub.`,
	}
}

// Name implements provider.Type.
func (Type) Name() string { return TypeName }

// Fields implements provider.Type.
func (Type) Fields() map[string]*framework.FieldSchema {
	hidden := &framework.DisplayAttributes{Sensitive: true}
	text := framework.TypeString
	return map[string]*framework.FieldSchema{
		fieldBaseURL:        {Type: text, Default: publicGitHub, Description: "Where the API is: https://HOST/api/v3 for GitHub Enterprise Server, https://api.SUBDOMAIN.ghe.com for data residency."},
		fieldAppID:          {Type: text, Description: "The App's id. Either this or client_id."},
		fieldClientID:       {Type: text, Description: "The App's client id, which GitHub prefers to app_id."},
		fieldPrivateKey:     {Type: text, Description: "A private key of the App, PEM, as GitHub gives it.", DisplayAttrs: hidden},
		fieldNextKey:        {Type: text, Description: "The key that rotate proves and puts in the place of private_key. It is also used where GitHub refuses private_key.", DisplayAttrs: hidden},
		fieldInstallationID: {Type: text, Description: placeWords[fieldInstallationID] + " A reinstallation changes it."},
		fieldOrganization:   {Type: text, Description: placeWords[fieldOrganization]},
		fieldUser:           {Type: text, Description: placeWords[fieldUser]},
		fieldEnterprise:     {Type: text, Description: placeWords[fieldEnterprise]},
	}
}

// placeWords describe what says which installation, at a provider or on a role.
var placeWords = map[string]string{
	fieldInstallationID: "The App's installation, by its id.",
	fieldOrganization:   "The App's installation, by the organization that has it.",
	fieldUser:           "The App's installation, by the user who has it.",
	fieldEnterprise:     "The App's installation, by the slug of the enterprise that has it. It has no repositories.",
}

// Parameters implements provider.Type.
func (Type) Parameters() map[string]string {
	words := map[string]string{}
	for name, word := range placeWords {
		words[name] = word + " For providers that leave open which one."
	}
	return words
}

// Answer implements provider.Type.
func (Type) Answer() map[string]*framework.FieldSchema {
	fields := provider.TokenField()
	fields[fieldUsername] = &framework.FieldSchema{Type: framework.TypeString, Description: "The username for git over https, to which the token is the password."}
	return fields
}

type settings struct {
	BaseURL        string `json:"base_url"`
	AppID          string `json:"app_id"`
	ClientID       string `json:"client_id"`
	InstallationID string `json:"installation_id"`
	Organization   string `json:"organization"`
	User           string `json:"user"`
	Enterprise     string `json:"enterprise"`
}

func parseSettings(raw json.RawMessage) (s settings, err error) {
	if json.Unmarshal(raw, &s) != nil {
		return s, fault.New(fault.InvalidRequest, "the fields cannot be read: write the provider anew")
	}
	if s.BaseURL = strings.TrimRight(s.BaseURL, "/"); s.BaseURL == "" {
		s.BaseURL = publicGitHub
	}
	return s, nil
}

// app is who the broker is: the iss of its JWTs.
func (s settings) app() string {
	if s.ClientID != "" {
		return s.ClientID
	}
	return s.AppID
}

// place is which installation it is; none if roles say that.
func (s settings) place() (place, error) {
	return placeIn(map[string]string{
		fieldInstallationID: s.InstallationID, fieldOrganization: s.Organization, fieldUser: s.User, fieldEnterprise: s.Enterprise,
	})
}

var (
	appIDShape    = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)
	clientIDShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)
)

// Configure implements provider.Type. Everything is judged here, and nothing is asked. A
// child is killed by itself at base_url, so that is all that must not change while one
// lives: another App's number for the same App must not wait for that.
func (Type) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	s, err := parseSettings(change.Config.Fields)
	if err != nil {
		return nil, err
	}
	if err := checkBaseURL(s.BaseURL, change.AllowHTTP); err != nil {
		return nil, err
	}
	switch {
	case (s.AppID == "") == (s.ClientID == ""):
		return nil, kit.Invalid(fieldAppID, "write either app_id or client_id: the App's settings at GitHub show both")
	case s.AppID != "" && !appIDShape.MatchString(s.AppID):
		return nil, kit.Invalid(fieldAppID, "is a number, such as 123456: see the App's settings at GitHub (what begins with Iv is its client_id)")
	case s.ClientID != "" && !clientIDShape.MatchString(s.ClientID):
		return nil, kit.Invalid(fieldClientID, "is a word such as Iv23liAbcdEFGhijKLmn: see the App's settings at GitHub")
	}
	if _, err := s.place(); err != nil {
		return nil, err
	}
	if _, err := keysOf(change.Parent); err != nil {
		return nil, err
	}
	return &provider.Pinned{Destinations: []string{httpclient.Below(s.BaseURL)}, Account: s.BaseURL}, nil
}

// checkBaseURL also refuses what people write instead of the API's URL.
func checkBaseURL(raw string, allowHTTP bool) error {
	if err := httpclient.CheckURL(raw, allowHTTP); err != nil {
		return kit.Invalid(fieldBaseURL, "%s", err)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return kit.Invalid(fieldBaseURL, "is not a URL")
	}
	switch host := strings.ToLower(u.Hostname()); {
	case host == "github.com" || host == "www.github.com" || host == "api.github.com" && u.Path != "":
		return kit.Invalid(fieldBaseURL, "the API of github.com is at %s: leave base_url out", publicGitHub)
	case strings.HasSuffix(host, ".ghe.com") && (!strings.HasPrefix(host, "api.") || u.Path != ""):
		return kit.Invalid(fieldBaseURL, "with data residency the API is at https://api.SUBDOMAIN.ghe.com")
	}
	return nil
}

// ReservedAudiences implements provider.Reserving.
func (Type) ReservedAudiences(cfg provider.Config) provider.Reserved {
	s, err := parseSettings(cfg.Fields)
	if err != nil {
		return provider.Reserved{}
	}
	return provider.Reserved{Endpoints: []string{s.BaseURL}}
}

// Open implements provider.Type.
func (Type) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	s, err := parseSettings(cfg.Fields)
	if err != nil {
		return nil, err
	}
	at, err := s.place()
	if err != nil {
		return nil, err
	}
	keys, err := keysOf(parent)
	if err != nil {
		return nil, err
	}
	return &Provider{settings: s, at: at, deps: deps, keys: keys}, nil
}

// Provider is one App. It is safe for concurrent use.
type Provider struct {
	settings settings
	at       place // none if roles say which installation
	deps     provider.Deps

	installations kept[*installation]
	lists         kept[*listing]

	mu      sync.Mutex
	keys    []*appKey // the current one, and the next one if there is one
	working *appKey   // the one that GitHub took last
	ahead   time.Duration
}

var (
	_ provider.Provider         = (*Provider)(nil)
	_ provider.Revoker          = (*Provider)(nil)
	_ provider.Checker          = (*Provider)(nil)
	_ provider.Rotator          = (*Provider)(nil)
	_ provider.ParameterChecker = (*Provider)(nil)
	_ provider.CeilingChecker   = (*Provider)(nil)
	_ provider.Varying          = (*Provider)(nil)
)

// Traits implements provider.Provider.
func (p *Provider) Traits() provider.Traits { return p.traits(p.at) }

// TraitsFor implements provider.Varying: an enterprise's installation has no repositories.
func (p *Provider) TraitsFor(_ provider.Mode, parameters map[string]string) provider.Traits {
	at, err := p.placeFor(parameters)
	if err != nil {
		return p.Traits()
	}
	return p.traits(at)
}

func (p *Provider) traits(at place) provider.Traits {
	dimensions := access.Dimensions{access.DimPermissions: true}
	hints := map[access.Dimension]string{
		access.DimScopes:    "an App has permissions and no scopes: write permissions",
		access.DimAudiences: "a token is good at GitHub alone: write resources, the repositories",
		access.DimDetails:   "GitHub knows resources and permissions alone",
	}
	if at.kind == fieldEnterprise {
		hints[access.DimResources] = "an enterprise's installation has no repositories: leave resources out, or name an organization"
	} else {
		dimensions[access.DimResources] = true
	}
	return provider.Traits{
		Class: provider.ClassToken, Life: provider.Life{Least: life, Most: life},
		// GitHub takes a list that is not there for all of them.
		Askable: dimensions, Checkable: dimensions, Required: dimensions, Hints: hints,
		Expands: access.Dimensions{access.DimResources: true},
		Levels:  levels, Ceiling: access.Everything(),
	}
}
