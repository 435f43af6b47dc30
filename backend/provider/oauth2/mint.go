package oauth2

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Mint implements provider.Provider.
func (p *Provider) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	form, err := p.tokenForm(r.Access)
	if err != nil {
		return nil, err
	}
	proof, err := p.proofOf(r)
	if err != nil {
		return nil, err
	}
	got, err := p.obtain(ctx, form, p.sending(proof), false)
	got.proof = proof
	if err != nil {
		child, _, _ := p.read(got, p.usualType) // for what it is, and until when
		return p.assumeEnd(child, got.started), err
	}
	child, err := p.judge(ctx, got, r.Access)
	return p.assumeEnd(child, got.started), err
}

// errEndless is the answer of a server whose tokens have no end that is known and
// cannot be revoked either.
func errEndless() error {
	return violation("the provider does not say when its tokens expire, and they cannot be revoked: set assumed_lifetime, or verify=introspect or verify=jwt, on the provider").Because(endless{})
}

// endless marks that a child has no end that is known and that nothing could kill it. Each
// further request of the same kind would bring such a child, so nobody need make one for a
// while; another kind may fare better, since a server's answer may hang on the scope or on
// the caller's token.
type endless struct{}

func (endless) Error() string { return "the token has no end" }

// LastsFor implements provider.Lasting.
func (endless) LastsFor() time.Duration { return time.Hour }

// assumeEnd gives a child without a known end the operator's word for it, also one
// that is not handed out: it is on record until then.
func (p *Provider) assumeEnd(child *provider.Child, started time.Time) *provider.Child {
	if child != nil && child.ExpiresAt.IsZero() && p.settings.AssumedLifetime > 0 {
		child.ExpiresAt = started.Add(p.settings.assumedLifetime())
	}
	return child
}

// obtain asks the token endpoint once, by the provider's grant; despite means even
// if the parent is known to be refused.
func (p *Provider) obtain(ctx context.Context, form url.Values, send sender, despite bool) (reply, error) {
	if p.settings.Grant == grantRefreshToken {
		return p.refresh(ctx, form, send, despite)
	}
	form.Set("grant_type", grantClientCredentials)
	return p.ask(ctx, form, send, p.refuse)
}

// tokenForm says in the token endpoint's words what to ask for: scope (RFC 6749
// 3.3), audience (RFC 8693 2.1), resource (RFC 8707 2) and authorization_details
// (RFC 9396 6). A dimension that cannot be asked for is left out; what the token
// turns out to hold is then compared with it.
func (p *Provider) tokenForm(asked access.Access) (url.Values, error) {
	form := url.Values{}
	scopes, err := exact(access.DimScopes, asked.Scopes)
	if err != nil {
		return nil, err
	}
	for _, s := range scopes {
		if err := access.CheckScope(s); err != nil {
			return nil, invalid("%s", err)
		}
	}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	if err := p.addTargets(form, asked); err != nil {
		return nil, err
	}
	if !asked.Details.IsUnbounded() && !asked.Details.IsNothing() {
		form.Set("authorization_details", string(asked.Details.JSON()))
	}
	return form, nil
}

// addTargets adds the audiences and resources. RFC 8693 2.1 repeats audience;
// Hydra takes repeated ones as well as a list with spaces. With the parameter
// resource both dimensions travel in it, so both must be what it can hold.
func (p *Provider) addTargets(form url.Values, asked access.Access) error {
	parameter := p.settings.AudienceParameter
	if parameter == audienceNone {
		return nil
	}
	targets, err := exact(access.DimAudiences, asked.Audiences)
	if err != nil {
		return err
	}
	check := access.CheckTarget
	if parameter == audienceResource {
		resources, err := exact(access.DimResources, asked.Resources)
		if err != nil {
			return err
		}
		targets = append(targets, resources...)
		check = access.CheckResource
	}
	for _, target := range targets {
		if err := check(target); err != nil {
			return invalid("audience_parameter=%s: %s", parameter, err)
		}
		if !slices.Contains(form[parameter], target) {
			form.Add(parameter, target)
		}
	}
	return nil
}

func exact(d access.Dimension, set access.Set) ([]string, error) {
	if set.IsUnbounded() {
		return nil, nil
	}
	values, listed := set.Values()
	if !listed {
		return nil, invalid("%s must be named one by one: a glob cannot be asked for", d)
	}
	return values, nil
}

// reply is what came back of one request to the token endpoint.
type reply struct {
	started time.Time // before the request left, so no lifetime is overestimated
	status  int
	body    []byte
	tokens  seen
	// own are secrets of the parent beside those it has now: the refresh token
	// that was sent and those that came back to replace it.
	own []secret.Text
	// theirs are tokens that an exchange has sent, which are the caller's.
	theirs []secret.Text
	// exchanged is true for an exchange: a refresh token in its answer is never the
	// next parent.
	exchanged bool
	// proof came with the request, nil for none; nonce is for the next one.
	proof *dpopProof
	nonce string
}

// ask sends one token request and never repeats it, except that post tries
// another client secret when the first one is refused. refuse words an error of
// the server's.
func (p *Provider) ask(ctx context.Context, form url.Values, send sender, refuse func(*httpclient.Response) error) (reply, error) {
	got := reply{started: p.deps.Now()}
	resp, err := send(ctx, p.at.Token, form)
	if err != nil {
		var failed *httpclient.Error
		if errors.As(err, &failed) {
			got.status, got.tokens = failed.Status, seeTokensIn(failed.Partial)
		}
		return got, kit.Lost(err, len(got.tokens.access) > 0)
	}
	got.status, got.body, got.tokens = resp.Status, resp.Body, seeTokens(resp)
	got.nonce = p.nonceIn(resp.Header)
	_, failed := failureIn(resp.Body, denials...)
	success := succeeded(resp.Status) && !failed
	switch {
	case !success && len(got.tokens.access) > 0:
		return got, violation("the provider answered HTTP %d with an error and a token at once", resp.Status)
	case !success:
		return got, refuse(resp)
	case len(got.tokens.access) == 0 && cutShort(resp):
		return got, violation("the provider's answer is not whole").Because(provider.ErrAnswerLost)
	}
	return got, nil
}

// judge makes a child of a success, or says why it must not be handed out; the
// child that must be killed is then returned too.
func (p *Provider) judge(ctx context.Context, got reply, asked access.Access) (*provider.Child, error) {
	child, a, err := p.read(got, p.usualType)
	if err != nil {
		return child, err
	}
	if err := p.verify(ctx, child, a, asked, nil); err != nil {
		return child, err
	}
	if err := p.lookOnce(ctx, child); err != nil {
		return child, err
	}
	return child, p.settleEnd(child, got.started)
}

// lookOnce notes in the handle that introspection sees the token alive, which a
// later "inactive" needs to mean anything. verify=introspect has looked already.
func (p *Provider) lookOnce(ctx context.Context, child *provider.Child) error {
	looked := p.settings.Verify == verifyIntrospect
	if child.Handle.Empty() || (!looked && !p.settings.ConfirmRevocation) {
		return nil
	}
	h, err := decodeHandle(child.Handle)
	if err != nil {
		return err
	}
	if !looked {
		got, err := p.introspect(ctx, p.at.Introspection, h.Tokens[0].Token, hintAccess)
		if err != nil {
			return err
		}
		if !got.active {
			return violation("the provider's introspection does not show this client its own tokens, so confirm_revocation would confirm nothing: let the client introspect them, or write confirm_revocation=false")
		}
	}
	h.Seen = true
	child.Handle = h.encode()
	p.sight.note(child.Token(), child.ExpiresAt)
	return nil
}

// read is the part of judge that concerns the answer alone; judgeType judges its
// token_type.
func (p *Provider) read(got reply, judgeType typeJudge) (*provider.Child, answer, error) {
	child := p.childOf(got)
	a, err := parseAnswer(got.body, got.tokens, judgeType)
	a.proof = got.proof
	if err == nil {
		err = p.checkType(a.tokenType, got.proof)
	}
	if child != nil && a.lifetime.known {
		child.ExpiresAt = got.started.Add(a.lifetime.value)
	}
	if err != nil {
		return child, a, violation("%s", err)
	}
	if carries(a.accessToken, got.theirs) {
		return child, a, violation("the provider answered with the very token that was to be exchanged, or with one that holds it")
	}
	if child == nil || p.isOwn(got, a.accessToken) {
		return child, a, violation("the provider answered with the parent credential itself instead of a child token")
	}
	for _, extra := range got.tokens.refresh {
		if !p.succeeds(got) && p.isOwn(got, extra) {
			return child, a, violation("the provider answered with the parent credential itself, or with a token that was to be exchanged, as a refresh token")
		}
	}
	child.Secrets[provider.FieldToken] = secret.New(a.accessToken)
	child.TokenType = a.tokenType
	child.Extra = p.extra(a, got)
	if got.proof != nil && got.nonce != "" {
		child.Extra["dpop_nonce"] = got.nonce // RFC 9449 8.2
	}
	child.SelfContained = selfContained(a.accessToken)
	return child, a, nil
}

// settleEnd is for tokens whose end neither the answer nor the check told. The
// contract refuses those that have no end and cannot be revoked either.
func (p *Provider) settleEnd(child *provider.Child, started time.Time) error {
	if !child.ExpiresAt.IsZero() {
		return nil
	}
	if p.assumeEnd(child, started).ExpiresAt.IsZero() && child.Handle.Empty() {
		return errEndless()
	}
	return nil
}

// childOf is a child that stands for every token of the answer that must be
// killed, nil if there is none. Nothing of the parent is ever among them.
func (p *Provider) childOf(got reply) *provider.Child {
	h := p.handleFor()
	for _, token := range slices.Concat(got.tokens.access, got.tokens.beside) {
		if !p.isOwn(got, token) {
			h.Tokens = append(h.Tokens, doomed{Token: token, Hint: hintAccess})
		}
	}
	for _, token := range got.tokens.refresh {
		if !p.succeeds(got) && !p.isOwn(got, token) && !slices.Contains(got.tokens.access, token) {
			h.Tokens = append(h.Tokens, doomed{Token: token, Hint: hintRefresh})
		}
	}
	if len(h.Tokens) == 0 {
		return nil
	}
	child := &provider.Child{
		Secrets:       provider.OneToken(secret.New(h.Tokens[0].Token)),
		SelfContained: selfContained(h.Tokens[0].Token),
		Class:         provider.ClassExpiry,
	}
	if p.class == provider.ClassExpiry {
		return child
	}
	child.Class, child.Handle = p.class, h.encode()
	switch {
	case p.class == provider.ClassLever:
		child.Lever = leverOf(h.Tokens[0].Token)
	// The refresh token of a user's login may take the login with it, and all that
	// came from it (RFC 7009 2.1). Nobody has it, and it must not live on.
	case got.exchanged && slices.ContainsFunc(h.Tokens, func(d doomed) bool { return d.Hint == hintRefresh }):
		child.Class = provider.ClassLever
	}
	return child
}

// leverOf names a token that the server may have given to others too, without telling it.
func leverOf(token string) string { return "token " + secret.New(token).Fingerprint()[:32] }

// isOwn reports whether token is a secret of the parent, or the caller's.
func (p *Provider) isOwn(got reply, token string) bool {
	if carries(token, got.theirs) {
		return true
	}
	candidate := secret.New(token)
	for _, own := range append(p.ownSecrets(), got.own...) {
		if own.Equal(candidate) {
			return true
		}
	}
	return false
}

// ownSecrets are the parent's secrets as they are now.
func (p *Provider) ownSecrets() []secret.Text {
	p.mu.Lock()
	defer p.mu.Unlock()
	var own []secret.Text
	for _, s := range p.parent.Secrets {
		if !s.Empty() {
			own = append(own, s)
		}
	}
	return own
}
