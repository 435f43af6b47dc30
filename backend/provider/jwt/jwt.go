// Package jwt is the provider type that needs no downstream system: the broker
// itself signs the children, as the issuer that the config path names, in RFC
// 9068's profile of a JWT access token. A resource server that trusts the broker's
// issuer verifies them by its published keys; nobody keeps a parent secret.
//
// # Who is in a token
//
// A mint is about the caller: sub is a template over the Vault entity, by default
// its id. An exchange (RFC 8693) is about the subject token's subject: its sub is
// kept as it is, sub_id (RFC 9493 3.2.4) says which issuer's sub that is, so that
// no foreign sub can pass for an entity's id, and act (RFC 8693 4.1) says who acts,
// with the chain that the subject token already had below it. client_id, which RFC
// 9068 2.2 requires, is who asked the broker: by default the entity's id too.
//
// Claims of the operator's about the caller stand beside the caller's sub alone. In an
// exchange there are others: constants, copies of the subject token's, and inside act
// what is about the entity that acts.
//
// may_act stays with the subject (RFC 8693 4.4): a token that named the only party
// that may act for it is not exchanged for one that anybody may act with.
//
// Left to the caller: whether the subject token is genuine, whether its may_act
// allows the actor, how long a chain may be, and the record of what was signed.
// That record is what a revocation changes: resource servers that ask
// oauth/introspect see it at once, the others at exp.
package jwt

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// TypeName is the path segment of this provider type.
const TypeName = "jwt"

// Type is the provider type.
type Type struct{}

var _ provider.Type = Type{}

// Guide implements provider.Guided.
func (Type) Guide() provider.Guide {
	return provider.Guide{
		About: `
Services that trust the broker's own issuer (config issuer): it signs their tokens itself.

  vault write broker/providers/jwt/own claims='{"team":"{{identity.entity.metadata.team}}"}'`,
		Rotation: `
Refuses: there is no parent credential. The keys by which the broker signs rotate by
themselves, and with issuer/rotate.`,
	}
}

// Name implements provider.Type.
func (Type) Name() string { return TypeName }

// Parameters implements provider.Type: there are none.
func (Type) Parameters() map[string]string { return nil }

// Fields implements provider.Type.
func (Type) Fields() map[string]*framework.FieldSchema { return fields() }

// Answer implements provider.Type.
func (Type) Answer() map[string]*framework.FieldSchema { return provider.TokenField() }

// Configure implements provider.Type: everything is judged here, templates
// included, and there is nothing to discover. The account is always the same one,
// because what kills a child is the broker's own record of it.
func (Type) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	if _, err := parseSettings(change.Config.Fields); err != nil {
		return nil, err
	}
	return &provider.Pinned{Destinations: []string{}, Account: TypeName}, nil
}

// Open implements provider.Type.
func (Type) Open(cfg provider.Config, _ provider.Parent, deps provider.Deps) (provider.Provider, error) {
	s, err := parseSettings(cfg.Fields)
	if err != nil {
		return nil, err
	}
	return &Provider{settings: s, signer: deps.Signer, client: deps.Client, now: deps.Now}, nil
}

// Provider signs tokens of one kind. It is immutable.
type Provider struct {
	settings settings
	signer   provider.Signer
	client   *httpclient.Client // for public documents
	now      func() time.Time
}

var (
	_ provider.Provider  = (*Provider)(nil)
	_ provider.Exchanger = (*Provider)(nil)
	_ provider.Revoker   = (*Provider)(nil)
	_ provider.Checker   = (*Provider)(nil)
	_ provider.Composer  = (*Provider)(nil)
	_ provider.Trusted   = (*Provider)(nil)
)

// Unprovable implements provider.Trusted.
func (p *Provider) Unprovable() string {
	return "services take its tokens once they trust the broker's own issuer: write config issuer, and register its .well-known/openid-configuration or its .well-known/jwks.json at them"
}

// signed are the dimensions that a token says in so many words.
func signed() access.Dimensions {
	return access.Dimensions{
		access.DimScopes: true, access.DimAudiences: true, access.DimResources: true, access.DimDetails: true,
	}
}

// Traits implements provider.Provider.
func (p *Provider) Traits() provider.Traits {
	return provider.Traits{
		Class:     p.settings.class,
		Modes:     []provider.Mode{provider.ModeMint, provider.ModeExchange},
		Askable:   signed(),
		Checkable: signed(),
		Hints: map[access.Dimension]string{
			access.DimPermissions: "a jwt provider has no permissions; bound its scopes or authorization_details instead",
		},
		Ceiling: access.Everything(),
		// A token without an audience is good everywhere (RFC 9068 2.2 requires aud).
		Required:      access.Dimensions{access.DimAudiences: true},
		Signed:        true,
		Actors:        true,
		ActsByDefault: true,
		SignsNames:    true,
		NeedsEntity:   p.settings.needsEntity(),
		NeedsGroups:   p.settings.needsGroups(),
		Proofs:        []provider.ProofKind{provider.ProofThumbprint},
	}
}

// Mint implements provider.Provider: a token about the caller.
func (p *Provider) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	r.Subject, r.Actor = nil, nil
	return p.issue(ctx, r, "")
}

// accessTokenType is RFC 8693 3's name for what an exchange gives.
const accessTokenType = "urn:ietf:params:oauth:token-type:access_token"

// Exchange implements provider.Exchanger: a token about the subject.
func (p *Provider) Exchange(ctx context.Context, r provider.Request) (*provider.Child, error) {
	if r.Subject == nil {
		return nil, fault.New(fault.InvalidRequest, "subject_token is missing: it says on whose behalf the token shall be")
	}
	return p.issue(ctx, r, accessTokenType)
}

// maxToken is the longest token that is handed out, in bytes: most servers take no
// longer Authorization header.
const maxToken = 8 << 10

func (p *Provider) issue(ctx context.Context, r provider.Request, issuedType string) (*provider.Child, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "the request was given up before anything was signed").Because(err)
	}
	issuer, longest, err := p.signer.Issuer(ctx)
	if err != nil {
		return nil, err
	}
	c, err := p.claims(r, issuer, longest)
	if err != nil {
		return nil, err
	}
	token, err := p.signer.Sign(ctx, provider.PurposeChild, c.values)
	if err != nil {
		return nil, err
	}
	if len(token.Reveal()) > maxToken {
		// Nobody has seen it, and nobody will.
		return nil, fault.New(fault.InvalidRequest, "the token would be longer than %d bytes: ask for fewer scopes, audiences or details, or have an operator take claims from the provider", maxToken)
	}
	child := &provider.Child{
		Secrets: provider.OneToken(token), TokenType: "Bearer", Class: p.settings.class, ExpiresAt: c.expires, SelfContained: true,
		Granted: c.granted, Confirmed: signed(), IssuedTokenType: issuedType,
		ActorConfirmed: r.Actor != nil, Issuer: issuer,
	}
	if c.bound {
		child.TokenType = "DPoP"
	}
	if p.settings.class == provider.ClassToken {
		child.Handle = secret.New(handle)
	}
	return child, nil
}
