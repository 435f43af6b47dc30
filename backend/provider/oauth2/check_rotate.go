package oauth2

import (
	"context"
	"errors"
	"maps"
	"net/url"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Check implements provider.Checker. A refresh token that the server's
// introspection calls active is proven without minting; everything else needs a
// real request for a token.
func (p *Provider) Check(ctx context.Context) (provider.Health, error) {
	if !p.settings.mints() {
		return provider.Health{Detail: "a public client that only exchanges has no credential to prove: the subject tokens are all that counts"}, nil
	}
	if p.settings.Grant == grantRefreshToken && p.at.Introspection != "" {
		if health, done, err := p.checkByIntrospection(ctx); done {
			return health, err
		}
	}
	health, err := p.prove(ctx, p.post)
	if err == nil {
		health.Detail += p.whichSecret()
	} else if why := p.refused(); why != "" {
		err = refusedForGood(why).Because(err)
	}
	return health, err
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
	next := p.parent.Secrets[fieldClientSecretNext]
	if !next.Empty() && p.working == next.Fingerprint() {
		return "; it took client_secret_next, not client_secret: rotate"
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
	if _, waiting := unsaved.get(parent.Secrets[fieldRefreshToken]); waiting {
		return provider.Health{}, false, nil
	}
	got, err := p.introspect(ctx, p.at.Introspection, parent.Secrets[fieldRefreshToken].Reveal(), hintRefresh)
	known := err == nil && got.active
	return provider.Health{
		Detail: "the provider's introspection says that the parent refresh token is active",
		Grants: access.Access{Scopes: access.Exactly(got.facts.scope.values...)}.Flat(),
	}, known, nil
}

// prove asks for a token without naming a scope, which is what the parent can
// grant by default, and hands the token over to be killed. A server that wants to
// be asked for a scope has accepted the client before it says so (RFC 6749 3.2).
func (p *Provider) prove(ctx context.Context, send sender) (provider.Health, error) {
	health := provider.Health{Detail: "the provider issued a token for the parent credential"}
	got, err := p.obtain(ctx, url.Values{}, send, true)
	child := p.childOf(got)
	if err == nil {
		var a answer
		child, a, err = p.read(got, bearerAlone)
		health.Grants = access.Access{Scopes: access.Exactly(a.scope.values...)}.Flat()
	}
	if child != nil {
		health.Children = append(health.Children, p.assumeEnd(child, got.started))
	}
	if p.settings.Exchange != "" && errorCode(got.body) == codeUnauthorizedClient {
		// RFC 6749 5.2: this is said of a client that has authenticated.
		health.Detail, err = "the provider accepts the parent credential, for exchanges alone: the client may not have tokens of its own", nil
	}
	if code := fault.CodeOf(err); child == nil && (code == fault.InvalidScope || code == fault.InvalidTarget) {
		health.Detail, err = "the provider accepts the parent credential, and wants to be asked for a scope or a target", nil
	}
	return health, err
}

// Rotate implements provider.Rotator: client_secret_next becomes client_secret
// once a token was issued for it. The old secret still works at the server, if
// the server says so, until it is withdrawn there.
func (p *Provider) Rotate(ctx context.Context) (provider.Health, error) {
	p.mu.Lock()
	next := p.parent.Secrets[fieldClientSecretNext]
	p.mu.Unlock()
	if next.Empty() {
		return provider.Health{}, invalid("there is nothing to rotate to: let the provider issue a second client secret, write it as client_secret_next, and rotate then")
	}
	health, err := p.prove(ctx, func(ctx context.Context, endpoint string, form url.Values) (*httpclient.Response, error) {
		return p.postAs(ctx, endpoint, form, next)
	})
	if err != nil {
		return health, fault.New(fault.CodeOf(err), "client_secret_next was not proven to work, so client_secret stays: %s", message(err)).Because(err)
	}
	release, err := p.deps.Turn(ctx)
	if err != nil {
		return health, unavailable("another request is using this provider's parent credential: try again").Because(err)
	}
	defer release()
	if err := p.promote(ctx, next); err != nil {
		return health, err
	}
	health.Detail = "client_secret_next works and is the client_secret now; the former one can be withdrawn at the provider"
	return health, nil
}

// message is err's text without its code, which another one replaces.
func message(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Message
	}
	return "an unexpected error"
}

// promote stores the parent with proven, the next client secret, in place of the
// current one. It runs in the parent's turn.
func (p *Provider) promote(ctx context.Context, proven secret.Text) error {
	parent, err := p.loadParent(ctx)
	if err != nil {
		return err
	}
	if !parent.Secrets[fieldClientSecretNext].Equal(proven) {
		return unavailable("the parent credential was changed meanwhile: rotate again")
	}
	parent.Secrets = maps.Clone(parent.Secrets)
	parent.Secrets[fieldClientSecret] = proven
	delete(parent.Secrets, fieldClientSecretNext)
	switch err := p.deps.SaveParent(ctx, parent); {
	case errors.Is(err, provider.ErrParentChanged):
		return unavailable("the parent credential was changed meanwhile: rotate again")
	case err != nil:
		return unavailable("the rotated parent credential could not be stored, so client_secret stays: try again").Because(err)
	}
	p.setParent(parent)
	return nil
}
