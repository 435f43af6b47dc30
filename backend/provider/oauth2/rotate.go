package oauth2

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// Rotate implements provider.Rotator. The next credential becomes the current one
// once a token was issued for it; the old one still works at the server, if the
// server says so, until it is withdrawn there. Where the broker makes the
// credential itself and there is no next one, the first call makes it.
func (p *Provider) Rotate(ctx context.Context) (provider.Health, error) {
	next, ok := p.nextCredential()
	if !ok {
		return p.prepare(ctx)
	}
	health, err := p.prove(ctx, func(proof *dpopProof) sender {
		return func(ctx context.Context, endpoint string, form url.Values) (*httpclient.Response, error) {
			return p.postAs(ctx, endpoint, form, next, proof)
		}
	})
	current, _ := p.settings.secretFields()
	if err != nil {
		hint, code := "", fault.CodeOf(err)
		if p.settings.makesKeys() {
			hint = " (is its public key in " + publicJWKS + " registered at the provider?)"
			if code == fault.InvalidRequest { // see clientRefused; the operator's is not
				code = fault.ParentRefused
			}
		}
		return health, fault.New(code, "%s was not proven to work, so %s stays: %s%s", next.field, current[0], message(err), hint).Because(err)
	}
	err = p.succession().Change(ctx, current[0], func(parent *provider.Parent) error { return p.promote(parent, next) })
	if err == nil {
		health.Detail = next.field + " works and is the " + current[0] + " now; the former one can be withdrawn at the provider"
	}
	return health, err
}

// message is err's text without its code, which another one replaces.
func message(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Message
	}
	return "an unexpected error"
}

// prepare makes the next credential, and leaves the current one as it is. The new
// one is tried only when the server refuses the current one, so nothing breaks
// before it is registered, nor if it never is.
func (p *Provider) prepare(ctx context.Context) (provider.Health, error) {
	current, next := p.settings.secretFields()
	switch {
	case p.settings.AssertionSigner == signerBroker:
		return provider.Health{}, invalid("there is nothing to rotate to: with assertion_signer=broker the broker signs with keys of its own, which issuer/rotate rotates")
	case next == nil:
		return provider.Health{}, invalid("there is nothing to rotate to: auth_method=%s has no client credential", p.settings.AuthMethod)
	case !p.settings.makesKeys():
		return provider.Health{}, invalid("there is nothing to rotate to: let the provider issue a second one, write it as %s, and rotate then", strings.Join(next, " and "))
	}
	made, err := p.settings.makeCredential(next, p.certified())
	if err != nil {
		return provider.Health{}, err
	}
	err = p.succession().Change(ctx, current[0], func(parent *provider.Parent) error {
		for name := range made {
			if !parent.Secrets[name].Empty() {
				return kit.ErrChangedMeanwhile
			}
		}
		maps.Copy(parent.Secrets, made)
		return nil
	})
	register := "all of " + publicJWKS
	if p.certified() {
		register = p.settings.companion(next[0])
	}
	return provider.Health{Untold: true, Detail: fmt.Sprintf("%s was made, and %s stays for now: register %s, which a read of the provider shows, at the provider, and rotate again", next[0], current[0], register)}, err
}

// promote puts proven, the next credential, in place of the current one.
func (p *Provider) promote(parent *provider.Parent, proven credential) error {
	current, next := p.settings.secretFields()
	stored, err := p.credentialIn(*parent, next)
	if err != nil || stored.id != proven.id {
		return kit.ErrChangedMeanwhile
	}
	if companion := p.settings.companion(current[0]); companion != "" { // it goes with its key, and is not kept without
		current, next = append(current, companion), append(next, p.settings.companion(next[0]))
	}
	kit.Promote(parent, current, next)
	return nil
}

// certified reports whether the server finds the client's key by its certificate.
func (p *Provider) certified() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.parent.Secrets[p.settings.companion(fieldPrivateKey)].Empty()
}
