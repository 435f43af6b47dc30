package oauth2

import (
	"context"
	"errors"
	"net/url"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Check implements provider.Checker. A refresh token that the server's
// introspection calls active is proven without minting; everything else needs a
// real request for a token.
func (p *Provider) Check(ctx context.Context) (provider.Health, error) {
	if !p.settings.mints() { // which Unprovable says at a write
		return provider.Health{Untold: true, Detail: "a public client that only exchanges has no credential to prove: the subject tokens are all that counts"}, nil
	}
	if p.settings.Grant == grantRefreshToken && p.at.Introspection != "" {
		if health, done, err := p.checkByIntrospection(ctx); done {
			if err == nil {
				p.refusals.forget()
			}
			return health, err
		}
	}
	health, err := p.prove(ctx, p.sending)
	if err == nil {
		health.Detail += p.whichSecret()
	} else if why := p.refused(); why != "" {
		err = refusedForGood(why).Because(errors.Join(err, provider.ErrRefusalKnown))
	}
	return health, err
}

// Unprovable implements provider.Trusted. Where the broker signs as its own issuer, what
// has to be registered may well come after the provider.
func (p *Provider) Unprovable() string {
	switch {
	case p.settings.AssertionSigner == signerBroker:
		return "the authorization server has to trust the broker's own issuer for this client: register the issuer of the config path, or its .well-known/jwks.json, there"
	case !p.settings.mints():
		return "a public client that only exchanges has no credential to prove: register client_id at the authorization server"
	}
	return ""
}

// refused is why the parent is known to be refused, or "".
func (p *Provider) refused() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parent.Refused
}

// whichSecret tells an operator in the middle of a change of secrets where it is.
func (p *Provider) whichSecret() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.credentials) > 1 && p.working == p.credentials[1].id {
		return "; it took " + p.credentials[1].field + ", not " + p.credentials[0].field + ": rotate"
	}
	return ""
}

// checkByIntrospection is done when introspection says that the credential is
// active. Servers that do not introspect refresh tokens call all of them inactive,
// so that proves nothing; and one that was refused has to prove itself by a use.
func (p *Provider) checkByIntrospection(ctx context.Context) (provider.Health, bool, error) {
	parent, err := p.deps.LoadParent(ctx)
	if err != nil {
		return provider.Health{}, true, unavailable("the parent credential could not be read from storage: try again").Because(err)
	}
	if parent.Refused != "" {
		return provider.Health{}, false, nil
	}
	if p.succession().Waiting(parent.Secrets[fieldRefreshToken]) {
		return provider.Health{}, false, nil
	}
	got, err := p.introspect(ctx, p.at.Introspection, parent.Secrets[fieldRefreshToken].Reveal(), hintRefresh)
	known := err == nil && got.active
	return provider.Health{
		Detail: "the provider's introspection says that the parent refresh token is active",
		Grants: access.Access{Scopes: access.Exactly(got.facts.scope.values...)}.Flat(),
	}, known, nil
}

// prove asks for a token without naming a scope, which is what the parent can grant by
// default, or for check_scopes and check_audiences, and hands the token over to be killed.
// A server that answers that a scope is missing should have accepted the client by then (RFC
// 6749 3.2), but nothing has come of it.
func (p *Provider) prove(ctx context.Context, with func(*dpopProof) sender) (provider.Health, error) {
	health := provider.Health{Detail: "the provider issued a token for the parent credential"}
	got, err := p.obtainBound(ctx, with)
	child := p.childOf(got)
	if err == nil {
		var a answer
		child, a, err = p.read(got, p.usualType)
		health.Grants = access.Access{Scopes: access.Exactly(a.scope.values...)}.Flat()
	}
	if child != nil {
		health.Children = append(health.Children, p.assumeEnd(child, got.started))
	}
	if p.settings.Exchange != "" && errorCode(got.body) == codeUnauthorizedClient && refusesParent(got.body) == "" {
		// RFC 6749 5.2: this is said of a client that has authenticated.
		health.Detail, err = "the provider accepts the parent credential, for exchanges alone: the client may not have tokens of its own", nil
	}
	if code := fault.CodeOf(err); child == nil && (code == fault.InvalidScope || code == fault.InvalidTarget) {
		health.Detail, err = "the provider accepts the parent credential, and wants to be asked for a scope or a target; set check_scopes or check_audiences on the provider to see it issue a token", nil
		health.Untold = len(p.plainly()) == 0 // it may look at the request before it looks at the client
	}
	if child == nil && fault.CodeOf(err) == fault.InvalidRequest && len(p.plainly()) == 0 {
		err = invalid("%s; at a server that grants nothing without a scope or an audience, set check_scopes or check_audiences", message(err)).Because(errors.Join(err, provider.ErrUntold))
	}
	return health, err
}

// plainly is a request for no more than the server needs to grant anything.
func (p *Provider) plainly() url.Values {
	form, err := p.tokenForm(access.Access{Scopes: access.Exactly(p.settings.CheckScopes...), Audiences: access.Exactly(p.settings.CheckAudiences...)})
	if err != nil { // Configure has judged them
		return url.Values{}
	}
	return form
}

// obtainBound is obtain with a proof of its own where the provider binds tokens. A
// server that wants a nonce in it has minted nothing (RFC 9449 8).
func (p *Provider) obtainBound(ctx context.Context, with func(*dpopProof) sender) (reply, error) {
	var got reply
	var wanted challenge
	for range 2 {
		proof, err := p.ownProof(wanted.nonce)
		if err != nil {
			return got, err
		}
		got, err = p.obtain(ctx, p.plainly(), with(proof), true)
		got.proof = proof
		if !errors.As(err, &wanted) {
			return got, err
		}
	}
	return got, violation("the provider wants another nonce in the DPoP proof than the one that it gave")
}
