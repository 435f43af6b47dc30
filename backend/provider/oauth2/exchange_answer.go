package oauth2

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// notAccess is the token_type of a token that is no access token (RFC 8693 2.2.1).
const notAccess = "N_A"

var (
	errIssuedAbsent  = errors.New("the provider's answer holds no issued_token_type, which an exchange must name (RFC 8693 2.2.1)")
	errIssuedRefresh = errors.New("the provider issued a refresh token, and nothing that lives so long is handed out")
	errIssuedOther   = errors.New("the provider's issued_token_type is not the requested_token_type")
	errNotAccess     = errors.New("the provider's token_type is N_A for what it calls an access token")
	errOtherSubject  = errors.New("the provider's token is about another subject than the one that was to be exchanged")
	errOtherActor    = errors.New("the provider's token names another actor (act) than the one who asked")
)

// judgeTypes judges the two types of an exchange's answer and notes the issued one.
// A form of exchange without requested_token_type answers as any grant does.
func (x *exchanging) judgeTypes(members map[string]json.RawMessage, a *answer) error {
	if x.wanted == "" {
		return x.p.usualType(members, a)
	}
	issued, err := stringMember(members["issued_token_type"])
	issued = strings.TrimSpace(issued) // no URI has space in it
	switch {
	case err != nil || issued == "":
		return errIssuedAbsent
	case issued == typeRefreshToken:
		return errIssuedRefresh
	case issued != x.wanted:
		return errIssuedOther
	}
	a.issuedType = issued
	if kind, err := stringMember(members["token_type"]); err == nil && strings.EqualFold(kind, notAccess) {
		if issued == typeAccessToken {
			return errNotAccess
		}
		a.tokenType = notAccess
		return nil
	}
	return x.p.usualType(members, a)
}

// samePeople refuses a child that, by a checked source, is about somebody else:
// the subject is never replaced silently. A sub that is absent says nothing, and
// neither does an absent act. A server that gives each client a sub of its own for
// a user (OpenID Connect Core 8.1) passes only where it has an identifier that is
// the same for all (see sameAccount); elsewhere its answers can be believed, by
// verify=response, but not verified.
func (x *exchanging) samePeople(f facts) error {
	sub, err := stringMember(f.members["sub"])
	if err != nil {
		return errOtherSubject
	}
	if sub != "" && sub != x.r.Subject.ID && !x.sameAccount(f) {
		return errOtherSubject
	}
	if x.r.Actor == nil {
		return nil
	}
	return x.sameActor(f.members["act"])
}

// sameActor holds act against the actor: only its outermost level says who acts
// (RFC 8693 4.1), and a sub is somebody's only together with its iss.
func (x *exchanging) sameActor(raw json.RawMessage) error {
	if present(raw) == nil {
		return nil
	}
	act, err := form.UniqueMembers(raw)
	if err != nil {
		return errOtherActor
	}
	sub, err1 := stringMember(act["sub"])
	iss, err2 := stringMember(act["iss"])
	actor := x.r.Actor
	switch {
	case err1 != nil || err2 != nil:
		return errOtherActor
	case sub != "" && sub != actor.ID:
		return errOtherActor
	case iss != "" && actor.Issuer != "" && iss != actor.Issuer:
		return errOtherActor
	}
	x.actorShown = sub != ""
	return nil
}

// sameAccount is for Entra, whose sub is a user's at one application only. What
// names the user everywhere there is oid together with tid
// (learn.microsoft.com/entra/identity-platform/access-token-claims-reference).
func (x *exchanging) sameAccount(f facts) bool {
	if x.p.settings.exchangeForm() != exchangeOnBehalfOf {
		return false
	}
	for _, claim := range []string{"oid", "tid"} {
		has, err := stringMember(f.members[claim])
		if err != nil || has == "" || x.r.Subject.Claims[claim] != any(has) {
			return false
		}
	}
	return true
}

// carries reports whether token is one of the tokens that were sent, or has one
// inside. A JWT is the same one whatever its signature: ECDSA's has a twin, and its
// last character more than one spelling that lax decoders take.
func carries(token string, sent []secret.Text) bool {
	for _, s := range sent {
		if !s.Empty() && strings.Contains(token, unsigned(s.Reveal())) {
			return true
		}
	}
	return false
}

// unsigned is a JWT without its signature, and any other token as it is.
func unsigned(token string) string {
	if strings.Count(token, ".") != 2 {
		return token
	}
	return token[:strings.LastIndexByte(token, '.')+1]
}

// The parameters that a role can have, all of RFC 8693 2.1.
const (
	parameterSubjectType   = "subject_token_type"
	parameterRequestedType = "requested_token_type"
	parameterActorType     = "actor_token_type"
)

// Parameters implements provider.Type.
func (Type) Parameters() map[string]string {
	return map[string]string{
		parameterSubjectType:   "What the subject token is (RFC 8693 3), for exchange=token-exchange. Default: access_token if the token's typ is at+jwt, else jwt.",
		parameterRequestedType: "What is wanted for it. Default: urn:ietf:params:oauth:token-type:access_token. A refresh token is never handed out.",
		parameterActorType:     "What the actor token is. Default: as for the subject token, and jwt for one that the broker signs.",
	}
}

// CheckParameters implements provider.ParameterChecker.
func (p *Provider) CheckParameters(mode provider.Mode, parameters map[string]string) error {
	for name, value := range parameters {
		switch {
		case mode != provider.ModeExchange:
			return invalid("parameters: %s is for mode=exchange: leave it out", name)
		case p.settings.exchangeForm() != exchangeToken:
			return invalid("parameters: %s is for exchange=%s, and the provider has exchange=%s: leave it out", name, exchangeToken, p.settings.exchangeForm())
		case !tokenTypeURI(value):
			return invalid("parameters: %s must be a URI of at most 255 characters, such as %s (RFC 8693 3)", name, typeAccessToken)
		case name == parameterRequestedType && value == typeRefreshToken:
			return invalid("parameters: %s must not be a refresh token: nothing that lives so long is handed out", name)
		}
	}
	return nil
}

// tokenTypeURI reports whether value looks like an absolute URI (RFC 3986 4.3).
func tokenTypeURI(value string) bool {
	scheme, rest, found := strings.Cut(value, ":")
	return found && scheme != "" && rest != "" && len(value) <= 255 && kit.IsASCII(value) && !strings.ContainsAny(value, ` "<>\^{|}`+"`")
}
