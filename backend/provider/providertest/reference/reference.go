// Package reference is a type of provider for whoever writes one. It is no product: its
// system is package fake. It has what most systems need and OAuth does not: a child that
// is made in two steps and consists of two secrets and a name, a parent that signs, names
// by which what a mint has left behind is found again.
//
// The system has accounts, and accounts have keys. An account has a name, scopes and an
// id; a key is two secrets and an id, ends at a time, and is good for what its account is.
// An account with keys cannot be deleted.
//
// reference.go is the type: what an operator writes, and what the provider is. mint.go
// makes children and unmakes them. system.go is the wire: one request, one answer.
package reference

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// TypeName is the path segment of this provider type.
const TypeName = "reference"

// The fields by name.
const (
	fieldBaseURL    = "base_url"
	fieldClientID   = "client_id"
	fieldPrivateKey = "private_key"
)

// The fields of a child by name.
const (
	partID      = "access_id"
	partAccess  = "access_secret"
	partSigning = "signing_secret"
)

// hidden marks what is a secret.
var hidden = &framework.DisplayAttributes{Sensitive: true}

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
A system that makes each child of several pieces, and knows the broker by a key.

  vault write broker/providers/reference/acme base_url=https://reference.example/v1 \
      client_id=broker private_key=@key.pem`,
		Rotation: "Refuses: a write brings the next key.",
	}
}

// Name implements provider.Type.
func (Type) Name() string { return TypeName }

// Fields implements provider.Type.
func (Type) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldBaseURL:    {Type: framework.TypeString, Description: "Where the system's API is, such as https://reference.example/v1."},
		fieldClientID:   {Type: framework.TypeString, Description: "Who the broker is there."},
		fieldPrivateKey: {Type: framework.TypeString, Description: "The private key whose public half is registered there: PEM or a JWK.", DisplayAttrs: hidden},
	}
}

// Parameters implements provider.Type: there are none.
func (Type) Parameters() map[string]string { return nil }

// Answer implements provider.Type.
func (Type) Answer() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		partID:      {Type: framework.TypeString, Description: "The key's id, which tells the system whose secrets these are."},
		partAccess:  {Type: framework.TypeString, Description: "The secret that is sent with a request.", DisplayAttrs: hidden},
		partSigning: {Type: framework.TypeString, Description: "The secret that signs a request, and is never sent.", DisplayAttrs: hidden},
	}
}

type settings struct {
	BaseURL  string `json:"base_url"`
	ClientID string `json:"client_id"`
}

func parseSettings(raw json.RawMessage) (s settings, err error) {
	if json.Unmarshal(raw, &s) != nil {
		return s, fault.New(fault.InvalidRequest, "the fields cannot be read: write the provider anew")
	}
	return s, nil
}

// Configure implements provider.Type. Everything is judged here, so that Open has nothing
// to refuse, and nothing is asked: there is nothing to discover. Every path below base_url
// is the same system's, so the secret may go to all of them, and an account is whose
// children they are.
func (Type) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	s, err := parseSettings(change.Config.Fields)
	if err != nil {
		return nil, err
	}
	if err := httpclient.CheckURL(s.BaseURL, change.AllowHTTP); err != nil {
		return nil, kit.Invalid(fieldBaseURL, "%s", err)
	}
	if s.ClientID == "" || !kit.IsPrintable(s.ClientID) {
		return nil, kit.Invalid(fieldClientID, "write who the broker is at the system, in printable characters")
	}
	if _, err := kit.ParseSigningKey(change.Parent.Secrets[fieldPrivateKey].Reveal(), ""); err != nil {
		return nil, kit.Invalid(fieldPrivateKey, "%s", err)
	}
	return &provider.Pinned{
		Destinations: []string{httpclient.Below(s.BaseURL)},
		Account:      s.ClientID + " at " + s.BaseURL,
	}, nil
}

// ReservedAudiences implements provider.Reserving: the system takes JWTs for itself as
// credentials.
func (Type) ReservedAudiences(cfg provider.Config) provider.Reserved {
	s, err := parseSettings(cfg.Fields)
	if err != nil || s.BaseURL == "" {
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
	key, err := kit.ParseSigningKey(parent.Secrets[fieldPrivateKey].Reveal(), "")
	if err != nil {
		return nil, kit.Invalid(fieldPrivateKey, "%s", err)
	}
	return &Provider{settings: s, key: key, deps: deps}, nil
}

// Provider is one client of one system.
type Provider struct {
	settings settings
	key      *kit.SigningKey
	deps     provider.Deps
	jwt      kit.Reused
}

var (
	_ provider.Provider = (*Provider)(nil)
	_ provider.Finder   = (*Provider)(nil) // and so a Revoker
	_ provider.Checker  = (*Provider)(nil)
)

// Traits implements provider.Provider. Whatever the system cannot be asked for has a hint,
// which is what a role's writer is told.
func (p *Provider) Traits() provider.Traits {
	scopes := access.Dimensions{access.DimScopes: true}
	return provider.Traits{
		Class:     provider.ClassToken,
		Life:      provider.Life{Least: 5 * time.Minute, Most: time.Hour},
		Askable:   scopes,
		Checkable: scopes,
		Hints: map[access.Dimension]string{
			access.DimAudiences:   "a key of this system is good at this system alone; bound its scopes instead",
			access.DimResources:   "the system knows scopes alone",
			access.DimPermissions: "the system knows scopes alone",
			access.DimDetails:     "the system knows scopes alone",
		},
		Ceiling: access.Everything(),
	}
}

// Check implements provider.Checker: the system knows the client by its key. Nothing is
// made for that.
func (p *Provider) Check(ctx context.Context) (provider.Health, error) {
	if _, err := p.ask(ctx, "GET", "client", nil); err != nil {
		return provider.Health{}, err
	}
	return provider.Health{Detail: "the system knows the client " + p.settings.ClientID + " by its key"}, nil
}
