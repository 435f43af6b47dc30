package jwt

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// claims are what a token says, and what the caller must know of it.
type claims struct {
	values  map[string]any
	granted access.Access
	expires time.Time
	bound   bool // to a key of the caller's
}

// claims makes RFC 9068 2.2's claims; iss and typ are the signer's. The operator's
// own come first and the broker's over them, so that no mistake in the list of
// reserved names could change what the broker says.
func (p *Provider) claims(r provider.Request, issuer string, longest time.Duration) (*claims, error) {
	now := p.now()
	expires, err := end(now, r, longest)
	if err != nil {
		return nil, err
	}
	c := &claims{values: map[string]any{}, expires: expires}
	filling := kit.FillingOf(r.Identity)
	if err := c.further(p, r, filling); err != nil {
		return nil, err
	}
	client, err := p.settings.clientID.Identifier(filling)
	if err != nil {
		return nil, err
	}
	if err := c.about(p, r, issuer, filling); err != nil {
		return nil, err
	}
	if err := c.allow(r.Access); err != nil {
		return nil, err
	}
	if err := c.bind(r.Proofs); err != nil {
		return nil, err
	}
	c.values["client_id"] = client
	c.values["jti"] = r.GrantID
	c.values["iat"] = now.Unix()
	c.values["exp"] = expires.Unix()
	return c, nil
}

// end is the exp: never later than asked for, than the issuer's longest life and
// than the subject token's own end. It is a whole second, as it stands in the token.
func end(now time.Time, r provider.Request, longest time.Duration) (time.Time, error) {
	expires := now.Add(min(r.TTL, longest))
	if r.Subject != nil && r.Subject.ExpiresAt.Before(expires) {
		expires = r.Subject.ExpiresAt
	}
	expires = time.Unix(expires.Unix(), 0)
	if !expires.After(now) {
		return expires, fault.New(fault.InvalidRequest, "less than a second is left for the token: ask for a longer ttl, or bring a fresh subject token")
	}
	return expires, nil
}

// about sets who the token is about and who acts.
func (c *claims) about(p *Provider, r provider.Request, issuer string, f kit.Filling) error {
	if r.Subject == nil {
		sub, err := p.settings.subject.Identifier(f)
		c.values["sub"] = sub
		return err
	}
	return c.delegate(p, r, issuer, f)
}

// further sets the operator's claims. What says something of the caller stands beside
// the caller's own sub alone: groups, roles and entitlements are read as the subject's
// (RFC 9068 2.2.3.1).
func (c *claims) further(p *Provider, r provider.Request, f kit.Filling) error {
	if r.Subject == nil {
		return fill(c.values, p.settings.claims, func(t kit.Template) (any, error) { return t.Value(f) })
	}
	return fill(c.values, p.settings.subjects, func(c copied) (any, error) { return c.of(r.Subject.Claims) })
}

// fill sets the claims of the templates, in no order.
func fill[T any](values map[string]any, templates map[string]T, value func(T) (any, error)) error {
	for name, t := range templates {
		var err error
		if values[name], err = value(t); err != nil {
			return err
		}
	}
	return nil
}

// allow sets what the token is good for: aud (RFC 9068 2.2, with the resources, RFC
// 8707 2), scope and authorization_details (RFC 9396 9.1). Which audiences nobody gets
// the signer knows.
func (c *claims) allow(a access.Access) error {
	audiences, _ := a.Audiences.Values()
	resources, _ := a.Resources.Values()
	scopes, _ := a.Scopes.Values()
	aud := slices.Compact(slices.Sorted(slices.Values(slices.Concat(audiences, resources))))
	if len(audiences) == 0 {
		return fault.New(fault.InvalidTarget, "a token without an audience would be good everywhere: ask for one of the role's audiences")
	}
	c.values["aud"] = aud
	c.granted = access.Access{Audiences: access.Exactly(audiences...), Resources: access.Exactly(resources...), Scopes: access.Exactly(scopes...)}
	if len(scopes) > 0 {
		c.values["scope"] = strings.Join(scopes, " ")
	}
	if details := a.Details.JSON(); details != nil {
		c.granted.Details = a.Details
		c.values["authorization_details"] = details
	}
	return nil
}

// bind ties the token to the key whose RFC 7638 thumbprint the caller brought (RFC 9449
// 6.1). Nobody checks that the caller has the key: whoever names another's cannot use the
// token.
func (c *claims) bind(proofs map[provider.ProofKind]secret.Text) error {
	proof, ok := proofs[provider.ProofThumbprint]
	if !ok {
		return nil
	}
	thumbprint := proof.Reveal()
	sum, err := base64.RawURLEncoding.Strict().DecodeString(thumbprint)
	if err != nil || len(sum) != 32 || len(thumbprint) != 43 {
		return fault.New(fault.InvalidRequest, "%s: want the SHA-256 thumbprint of a public key (RFC 7638): 43 characters of base64url without padding", provider.ProofThumbprint)
	}
	c.bound = true
	c.values["cnf"] = map[string]any{"jkt": thumbprint}
	return nil
}
