package oauth2

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/url"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// The grant types of an exchange (RFC 8693 2.1, RFC 7523 2.1).
const (
	grantTypeExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantTypeJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

// The token types of RFC 8693 3 that steer.
const (
	typeAccessToken  = "urn:ietf:params:oauth:token-type:access_token"
	typeRefreshToken = "urn:ietf:params:oauth:token-type:refresh_token"
	typeJWT          = "urn:ietf:params:oauth:token-type:jwt"
)

var (
	_ provider.Exchanger        = (*Provider)(nil)
	_ provider.ParameterChecker = (*Provider)(nil)
)

// exchanging is one exchange. It uses the parent for the client's authentication
// alone: no refresh token of the parent's is ever used up by it.
type exchanging struct {
	p *Provider
	r provider.Request
	// wanted is requested_token_type, "" where the form of exchange has none.
	wanted string
	// actorToken is what names the actor, empty if nobody is named.
	actorToken secret.Text
	// actorShown is true once a checked source has named the actor.
	actorShown bool
}

// Exchange implements provider.Exchanger in the form that the field exchange
// names: RFC 8693, RFC 7523, or Entra's on-behalf-of, which is RFC 7523 with a
// parameter of its own.
//
// An exchanged child has the provider's revocation class, also with
// grant=refresh_token, where that is expiry by default although the child is not
// of the parent's family: one provider has one class, against which its roles are
// judged. Who wants to exchange and to kill writes a second provider, without the
// refresh token.
func (p *Provider) Exchange(ctx context.Context, r provider.Request) (*provider.Child, error) {
	if r.Subject == nil || r.Subject.Token.Empty() {
		return nil, invalid("subject_token is missing: there is nothing to exchange")
	}
	x := &exchanging{p: p, r: r}
	form, err := x.form(ctx)
	if err != nil {
		return nil, err
	}
	proof, err := p.proofOf(r)
	if err != nil {
		return nil, err
	}
	got, err := p.ask(ctx, form, p.sending(proof), x.refusal)
	got.exchanged, got.theirs, got.proof = true, x.secrets(), proof
	if err != nil {
		return p.assumeEnd(p.childOf(got), got.started), err
	}
	child, err := x.judge(ctx, got)
	return p.assumeEnd(child, got.started), err
}

// secrets are the tokens that were sent. They are the caller's, or about the
// caller: never a child, never revoked, never in a message.
func (x *exchanging) secrets() []secret.Text {
	tokens := []secret.Text{x.r.Subject.Token}
	if !x.actorToken.Empty() {
		tokens = append(tokens, x.actorToken)
	}
	return tokens
}

// form says what to exchange for what. Scope, targets and authorization_details
// travel as they do for a mint.
func (x *exchanging) form(ctx context.Context) (url.Values, error) {
	form, err := x.p.tokenForm(x.r.Access)
	if err != nil {
		return nil, err
	}
	switch x.p.settings.exchangeForm() {
	case exchangeOnBehalfOf:
		form.Set("requested_token_use", "on_behalf_of")
		fallthrough
	case exchangeJWTBearer:
		form.Set("grant_type", grantTypeJWTBearer)
		form.Set("assertion", x.r.Subject.Token.Reveal())
		return form, nil
	}
	x.wanted = cmp.Or(x.r.Parameters[parameterRequestedType], typeAccessToken)
	form.Set("grant_type", grantTypeExchange)
	form.Set("subject_token", x.r.Subject.Token.Reveal())
	form.Set("subject_token_type", cmp.Or(x.r.Parameters[parameterSubjectType], tokenTypeOf(x.r.Subject.Token)))
	form.Set("requested_token_type", x.wanted)
	if err := x.addResources(form); err != nil {
		return nil, err
	}
	return form, x.addActor(ctx, form)
}

// addResources adds what RFC 8693 2.1 has beside audience. A role's resources
// travel as resource there also with audience_parameter=audience, where a mint has
// no word for them; so Traits does not call them askable, and a role needs a
// provider that verifies to bound them.
func (x *exchanging) addResources(form url.Values) error {
	resources, listed := x.r.Access.Resources.Values()
	if x.p.settings.AudienceParameter != audienceAudience || !listed {
		return nil
	}
	for _, v := range resources {
		if err := access.CheckResource(v); err != nil {
			return invalid("resources: %s", err)
		}
		form.Add("resource", v)
	}
	return nil
}

// actorLife is how long an actor token that the broker signs is good: for this
// one request and the difference of two clocks.
const actorLife = 90 * time.Second

// addActor names who acts: by the caller's own token, or by one in which the
// broker vouches for the Vault entity.
func (x *exchanging) addActor(ctx context.Context, form url.Values) error {
	actor := x.r.Actor
	if actor == nil {
		return nil
	}
	x.actorToken = actor.Token
	kind := tokenTypeOf(actor.Token)
	if actor.Token.Empty() {
		var err error
		if x.actorToken, err = x.vouch(ctx); err != nil {
			return err
		}
		kind = typeJWT
	}
	form.Set("actor_token", x.actorToken.Reveal())
	form.Set("actor_token_type", cmp.Or(x.r.Parameters[parameterActorType], kind))
	return nil
}

// vouch has the broker sign an actor token for the Vault entity, for this server
// alone.
func (x *exchanging) vouch(ctx context.Context) (secret.Text, error) {
	now := x.p.deps.Now()
	return x.p.deps.Signer.Sign(ctx, provider.PurposeActor, map[string]any{
		"sub": x.r.Actor.ID,
		"aud": cmp.Or(x.p.at.Issuer, x.p.at.Token),
		"iat": now.Unix(),
		"exp": now.Add(actorLife).Unix(),
		"jti": rand.Text(),
	})
}

// judge is Provider.judge for an exchange: it also holds the answer against what
// was to be exchanged, and for whom.
func (x *exchanging) judge(ctx context.Context, got reply) (*provider.Child, error) {
	child, a, err := x.p.read(got, x.judgeTypes)
	if err != nil {
		return child, err
	}
	child.IssuedTokenType = cmp.Or(a.issuedType, typeAccessToken)
	if child.TokenType == notAccess {
		if len(got.tokens.refresh) > 0 {
			return child, violation("the provider issued a refresh token beside a token that cannot be revoked, and nothing that lives so long is kept")
		}
		child.Class, child.Handle = provider.ClassExpiry, secret.Text{} // RFC 7009 2.1 revokes access and refresh tokens alone
	}
	if err := x.p.verify(ctx, child, a, x.r.Access, x.samePeople); err != nil {
		return child, err
	}
	child.ActorConfirmed = x.actorShown
	if err := x.p.lookOnce(ctx, child); err != nil {
		return child, err
	}
	return child, x.p.settleEnd(child, got.started)
}

// refusal is an error of the token endpoint; see refuseExchange.
func (x *exchanging) refusal(resp *httpclient.Response) error {
	return x.p.refuseExchange(resp, x.secrets())
}

// tokenTypeOf is the type that a token says it has: at+jwt is an access token (RFC
// 9068 2.1), any other JWT is just that.
func tokenTypeOf(token secret.Text) string {
	header, err := jwks.ReadHeader(token.Reveal())
	if err == nil && strings.TrimPrefix(strings.ToLower(header.Type), "application/") == "at+jwt" {
		return typeAccessToken
	}
	return typeJWT
}
