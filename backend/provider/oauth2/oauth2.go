// Package oauth2 is the provider type for authorization servers that speak
// OAuth 2.0: children come from the token endpoint (RFC 6749 4.4 and 6, or for a
// subject token by RFC 8693 or 7523, narrowed by RFC 8707 and RFC 9396), what was really granted is learnt from the answer,
// by introspection (RFC 7662) or from the signed token (RFC 9068), and a child is
// killed at the revocation endpoint (RFC 7009).
//
// The token endpoint's client and parser are its own. golang.org/x/oauth2 gives
// up on the whole answer when one member of it is malformed, so a token that the
// server did issue would be lost, live and unrecorded; and it reads an expires_in
// of 0 or less as "never expires". Here the tokens are taken out of the answer
// first, from whatever arrived, and everything else is judged afterwards.
//
// Left to the caller: deciding what to ask for, comparing what was granted with
// what was allowed, recording, and killing the child that comes beside an error.
package oauth2

import (
	"cmp"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// TypeName is the path segment of this provider type.
const TypeName = "oauth2"

// Type is the provider type.
type Type struct{}

var _ provider.Type = Type{}

// Guide implements provider.Guided.
func (Type) Guide() provider.Guide {
	return provider.Guide{
		About: `
An authorization server, which gives children by client credentials, by a refresh token that
is the parent, or for a caller's own token (exchange, forward).

  vault write broker/providers/oauth2/acme issuer=https://login.acme.example \
      client_id=broker client_secret=@secret.txt verify=introspect`,
		Rotation: `
Proves what comes next (client_secret_next, private_key_next, client_certificate_next) and puts it in the
place of the current one. Where the broker makes the key itself the first call makes the next
one, to be registered at the server, and the second changes to it. A refresh token is changed
by a write.`,
	}
}

// Name implements provider.Type.
func (Type) Name() string { return TypeName }

// Fields implements provider.Type.
func (Type) Fields() map[string]*framework.FieldSchema { return fields() }

// Provider is one authorization server and the client that the broker is there.
type Provider struct {
	settings settings
	at       endpoints
	pinned   provider.Pinned
	class    provider.Class
	deps     provider.Deps
	keys     *jwks.Set // nil unless the server has a JWKS
	refusals refusals
	sight    sight
	// audiences are what other endpoints than the token endpoint want in assertions.
	audiences audiences

	mu      sync.Mutex // guards what follows; never held across a call
	parent  provider.Parent
	working string // id of the credential that last worked
	// credentials are the parent's, made ready.
	credentials []credential
}

var (
	_ provider.Provider = (*Provider)(nil)
	_ provider.Revoker  = (*Provider)(nil)
	_ provider.Checker  = (*Provider)(nil)
	_ provider.Rotator  = (*Provider)(nil)
)

// Open implements provider.Type.
func (Type) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	s, err := parseSettings(cfg.Fields)
	if err != nil {
		return nil, err
	}
	var at endpoints
	if err := json.Unmarshal(cfg.Pinned.Data, &at); err != nil {
		return nil, fmt.Errorf("the stored endpoints are not readable; write the provider anew: %w", err)
	}
	p := &Provider{
		settings: s,
		at:       at,
		pinned:   cfg.Pinned,
		class:    s.class(at),
		deps:     deps,
		parent:   parent,
	}
	if at.JWKS != "" {
		p.keys = jwks.New(p.fetchKeys, deps.Now)
	}
	if p.credentials, err = p.credentialsOf(parent); err != nil {
		return nil, err
	}
	return p, nil
}

// class is the revocation class by the contract's defaults: many servers kill a
// refresh token together with an access token of its family (Hydra does), so
// without the operator's word no child of a refresh token is revoked.
func (s settings) class(at endpoints) provider.Class {
	switch {
	case s.Revocation != "":
		return provider.Class(s.Revocation)
	case s.Grant == grantRefreshToken, at.Revocation == "":
		return provider.ClassExpiry
	}
	return provider.ClassToken
}

// Traits implements provider.Provider.
func (p *Provider) Traits() provider.Traits {
	verified := p.settings.Verify != verifyResponse
	audience := p.settings.AudienceParameter
	var proofs []provider.ProofKind
	if p.settings.DPoP {
		proofs = []provider.ProofKind{provider.ProofDPoP}
	}
	return provider.Traits{
		Class:  p.class,
		Answer: p.settings.answer(),
		Modes:  p.settings.modes(p.at),
		Proofs: proofs,
		Askable: access.Dimensions{
			access.DimScopes:    true,
			access.DimDetails:   true,
			access.DimAudiences: audience != audienceNone,
			access.DimResources: audience == audienceResource,
		},
		Checkable: access.Dimensions{
			access.DimScopes:    true,
			access.DimDetails:   true,
			access.DimAudiences: verified,
			access.DimResources: verified,
		},
		Hints: map[access.Dimension]string{
			access.DimAudiences:   "set audience_parameter=audience or audience_parameter=resource on the provider, or verify=jwt or verify=introspect",
			access.DimResources:   "set audience_parameter=resource on the provider, or verify=jwt or verify=introspect",
			access.DimPermissions: "an oauth2 provider has no permissions; bound its scopes or authorization_details instead",
		},
		Ceiling:  access.Everything(),
		Indirect: indirect,
		// The other forms of exchange have no parameter for an actor.
		Actors: p.settings.exchangeForm() == exchangeToken,
		Issuer: p.at.Issuer,
		// A JWT without exp is refused, and so is any child without an end where
		// nothing could kill it, so neither kind ever turns out endless.
		Endless: p.class != provider.ClassExpiry && p.settings.AssumedLifetime == 0 && p.settings.Verify != verifyJWT,
	}
}

// indirect is Entra's .default, of any resource: what was consented to, or what was
// configured for the client (learn.microsoft.com/entra/identity-platform/scopes-oidc).
var indirect = func() access.Set {
	set, err := access.Ceiling(".default", "**/.default")
	if err != nil {
		panic(err) // they are constants
	}
	return set
}()

// mints reports whether the client can have tokens without a subject: a public
// client has nothing to show for that but a refresh token.
func (s settings) mints() bool {
	return s.AuthMethod != authNone || s.Grant == grantRefreshToken
}

// modes are the ways to a child. A token can be forwarded only where it can be told
// whose it is.
func (s settings) modes(at endpoints) []provider.Mode {
	var modes []provider.Mode
	if s.mints() {
		modes = append(modes, provider.ModeMint)
	}
	modes = append(modes, provider.ModeExchange)
	if at.Issuer != "" {
		modes = append(modes, provider.ModeForward)
	}
	return modes
}

// exchangeForm is the form of exchange, by default RFC 8693's.
func (s settings) exchangeForm() string { return cmp.Or(s.Exchange, exchangeToken) }

// assumedLifetime is the operator's word for servers that send no expires_in.
func (s settings) assumedLifetime() time.Duration {
	return time.Duration(s.AssumedLifetime) * time.Second
}

// maxToken bounds every token that a server may answer with, in bytes.
const maxToken = 16 << 10
