package oauth2

import (
	"context"
	"encoding/json"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

var _ provider.Forwarder = (*Provider)(nil)

// Forward implements provider.Forwarder. The caller has verified the token's
// signature and claims; with verify=introspect the server is asked whether it
// still lives, and what it says of it is believed before the claims.
func (p *Provider) Forward(ctx context.Context, r provider.Request) (*provider.Child, error) {
	if r.Subject == nil || r.Subject.Token.Empty() {
		return nil, invalid("subject_token is missing: there is nothing to forward")
	}
	claims, err := rawMembers(r.Subject.Claims)
	if err != nil || isOtherKind(claims) {
		return nil, fault.New(fault.InvalidGrant, "the token is an ID or refresh token, which is good at no service: bring an access token")
	}
	bound, err := p.possession(r, claims)
	if err != nil {
		return nil, err
	}
	child := &provider.Child{
		Secrets:       provider.OneToken(r.Subject.Token),
		TokenType:     typeBearerToken,
		ExpiresAt:     r.Subject.ExpiresAt,
		SelfContained: true, // it was verified offline
		Granted:       r.Access,
		Confirmed:     access.Dimensions{access.DimScopes: true, access.DimAudiences: true},
	}
	if bound.jkt != "" {
		child.TokenType = typeDPoPToken
	}
	if p.settings.Verify == verifyIntrospect {
		if err := p.lookAt(ctx, child, r, bound); err != nil {
			return nil, err
		}
	}
	child.Class, child.Handle = provider.ClassExpiry, p.killSwitch(claims, r.Subject.Token)
	if !child.Handle.Empty() {
		child.Class = provider.ClassToken
	}
	if err := p.lookOnce(ctx, child); err != nil {
		return nil, err
	}
	return child, nil
}

// possession has the caller prove to hold the key that the token is bound to, if it is
// bound to one (RFC 9449 7): whoever merely found the token is not helped along, and
// cannot end it by giving up its lease. It returns what the token is bound to.
func (p *Provider) possession(r provider.Request, claims map[string]json.RawMessage) (confirmation, error) {
	if claims["cnf"] == nil {
		return confirmation{}, nil
	}
	bound, err := parseConfirmation(claims["cnf"])
	if err != nil || bound != (confirmation{jkt: bound.jkt}) || bound.jkt == "" || !p.settings.DPoP {
		return confirmation{}, errNoProof
	}
	proof, err := p.proofOf(r)
	if err != nil {
		return confirmation{}, err
	}
	if proof.thumbprint != bound.jkt {
		return confirmation{}, fault.New(fault.InvalidGrant, "the token is bound to another key (cnf.jkt) than that of the dpop_proof: make the proof with the token's own key")
	}
	return bound, nil
}

var errNoProof = fault.New(fault.InvalidGrant, "the token is bound to a key (cnf), and a caller can prove to hold it only if that is a DPoP key (cnf.jkt) and an operator has written dpop=true on the provider: bring a token that is not bound")

// lookAt introspects a token that is to be forwarded, and notes what that says.
func (p *Provider) lookAt(ctx context.Context, child *provider.Child, r provider.Request, bound confirmation) error {
	got, err := p.introspect(ctx, p.at.Introspection, child.Token().Reveal(), hintAccess)
	if err != nil {
		return err
	}
	if !got.active {
		return fault.New(fault.InvalidGrant, "the provider's introspection calls the token inactive: get a new one; or the broker's client may not introspect it")
	}
	if sub, err := stringMember(got.facts.members["sub"]); err != nil || (sub != "" && sub != r.Subject.ID) {
		return violation("%s", errOtherSubject)
	}
	if got.facts.bound != (confirmation{}) && got.facts.bound != bound {
		return errNoProof // the server knows of a key that the token does not name
	}
	if err := p.shortenEnd(child, got.facts); err != nil {
		return violation("%s", err)
	}
	noteScopes(child, scopeList{}, got.facts.scope, r.Access)
	if err := noteDetails(child, nil, got.facts.details, r.Access); err != nil {
		return violation("%s", err)
	}
	if len(got.facts.audience) == 0 {
		return nil // the token's own claim, which was checked, stands
	}
	if err := p.noteTargets(child, got.facts.audience, r.Access); err != nil {
		return violation("%s", err)
	}
	return nil
}

// killSwitch is the handle of a token that was issued to this very client, the
// only ones that RFC 7009 2.1 lets it revoke; a server answers 200 for the others,
// too, and they live on.
func (p *Provider) killSwitch(claims map[string]json.RawMessage, token secret.Text) secret.Text {
	if p.class != provider.ClassToken {
		return secret.Text{}
	}
	for _, claim := range []string{"client_id", "azp"} {
		client, err := stringMember(claims[claim])
		if err == nil && client != "" {
			if client != p.settings.ClientID {
				return secret.Text{}
			}
			return p.handleFor(doomed{Token: token.Reveal(), Hint: hintAccess}).encode()
		}
	}
	return secret.Text{}
}

// rawMembers is a set of decoded claims as the parsers here take them.
func rawMembers(claims map[string]any) (map[string]json.RawMessage, error) {
	raw, err := json.Marshal(claims)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	err = json.Unmarshal(raw, &members)
	return members, err
}
