package oauth2

import (
	"context"
	"net/url"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// succession is how one parent follows another: the refresh token, if there is one, is
// the server's to replace.
func (p *Provider) succession() kit.Succession {
	return kit.Succession{Field: fieldRefreshToken, Deps: p.deps, Adopt: p.setParent}
}

// refresh uses the parent's refresh token once (RFC 6749 6). The exchange and
// the saving are finished even if the caller gives up meanwhile: abandoning them
// would lose the next refresh token, and with it the parent. The client's
// timeout and the caller's deadline, if that is not too near, bound them.
func (p *Provider) refresh(ctx context.Context, form url.Values, send sender, despite bool) (reply, error) {
	asked := form.Encode()
	if err := p.refusals.recent(asked, p.deps.Now()); err != nil && !despite {
		return reply{}, err
	}
	release, err := p.succession().Turn(ctx)
	if err != nil {
		return reply{}, err
	}
	defer release()
	if err := ctx.Err(); err != nil {
		return reply{}, unavailable("the request was given up before the provider was asked").Because(err)
	}
	// Whoever was before us in the queue may have found it out.
	if err := p.refusals.recent(asked, p.deps.Now()); err != nil && !despite {
		return reply{}, err
	}
	parent, err := p.succession().Load(ctx)
	if err != nil {
		return reply{}, err
	}
	if parent.Refused != "" && !despite {
		return reply{}, refusedForGood(parent.Refused)
	}
	sent := parent.Secrets[fieldRefreshToken]
	form.Set("grant_type", grantRefreshToken)
	form.Set("refresh_token", sent.Reveal())
	use, cancel := kit.ToTheEnd(ctx)
	defer cancel()
	got, err := p.ask(use, form, send, p.refuse)
	got.own = []secret.Text{sent}
	for _, token := range got.tokens.refresh {
		got.own = append(got.own, secret.New(token))
	}
	if err != nil && wantsConsent(got.body) {
		err = p.refusals.remember(asked, p.deps.Now(), err)
	}
	// A proof is the caller's, and servers call also a bad one invalid_grant
	// (oidc-provider does): that must not cost everybody the parent.
	blame := !p.settings.DPoP || despite
	if blame && grantRefused(got, err) {
		return p.doubt(use, parent, asked, err)
	}
	if err == nil && despite {
		p.refusals.forget()
	}
	if saveErr := p.follow(ctx, parent, got, err, blame); saveErr != nil && err == nil {
		err = saveErr
	}
	return got, err
}

// grantRefused reports whether the answer calls the refresh token no good any more.
func grantRefused(got reply, failed error) bool {
	return failed != nil && len(got.tokens.access) == 0 && got.status < 500 && refusesParent(got.body) != ""
}

// follow stores what a use of parent's refresh token led to: the next refresh
// token, or that the server refuses this one for good, where nobody but the parent
// is to blame.
func (p *Provider) follow(ctx context.Context, parent provider.Parent, got reply, failed error, blame bool) error {
	sent := parent.Secrets[fieldRefreshToken]
	cleared := failed == nil && parent.Refused != ""
	if failed == nil {
		parent.Refused = ""
	}
	if next, ok := p.successor(got); ok && !next.Equal(sent) {
		return p.succession().Save(ctx, sent, kit.With(parent, fieldRefreshToken, next))
	}
	if cleared {
		return p.succession().Save(ctx, sent, parent)
	}
	if blame && grantRefused(got, failed) {
		parent.Refused = refusesParent(got.body) + " at " + p.deps.Now().UTC().Format(time.RFC3339)
		return p.succession().Save(ctx, sent, parent)
	}
	return nil
}

// successor is the refresh token that replaces the one that was sent (RFC 6749
// 6). It is taken also from a success that broke off or is otherwise unusable:
// the server has forgotten the old one all the same.
func (p *Provider) successor(got reply) (secret.Text, bool) {
	given := got.tokens.next
	if _, failed := failureIn(got.body, denials...); failed || !succeeded(got.status) || given == "" {
		return secret.Text{}, false
	}
	next := secret.New(given)
	if len(given) > maxToken || !kit.IsASCII(given) {
		return secret.Text{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range allSecretFields {
		if s := p.parent.Secrets[name]; !s.Empty() && s.Equal(next) {
			return secret.Text{}, false
		}
	}
	return next, true
}

// succeeds reports whether a refresh token in the answer is the next parent, and
// not a child.
func (p *Provider) succeeds(got reply) bool {
	return p.settings.Grant == grantRefreshToken && !got.exchanged
}

func refusedForGood(why string) *fault.Error {
	return kit.ParentRefused("the provider has refused the parent refresh token (%s): write a new refresh_token to the provider, or prove by its check path that this one works again", why).Because(provider.ErrRefusalKnown)
}
