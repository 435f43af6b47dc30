package oauth2

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// A client must not use a token whose type it does not understand (RFC 6749 7.1). So the
// broker takes Bearer (RFC 6750) and DPoP (RFC 9449), and beside them what an operator
// answers for.

var (
	errTokenType   = errors.New("the provider's token_type is neither Bearer nor DPoP, so nobody could use the token")
	errTypeAbsent  = errors.New("the provider's answer holds no token_type (RFC 6749 5.1): if its tokens are presented as Bearer tokens are, write assumed_token_type=Bearer on the provider")
	errTypeUnbound = errors.New("the provider's answer holds no token_type, which for a token that is bound to a key says DPoP (RFC 9449 5)")
	errTypeNotUs   = errors.New("the provider's token_type is N_A, so what it issued is no access token (RFC 8693 2.2.1)")
	errTypeDPoP    = errors.New("the provider's token_type is DPoP although no proof was sent, so that nobody but the broker could use the token")
)

// usualType judges the token_type of every token but those that an exchange calls no
// access tokens.
func (p *Provider) usualType(members map[string]json.RawMessage, a *answer) (err error) {
	a.tokenType, err = p.tokenType(members)
	return err
}

// tokenType spells the types that are registered as they are registered, in whatever
// case they came. Whether DPoP was wanted is checkType's to judge.
func (p *Provider) tokenType(members map[string]json.RawMessage) (string, error) {
	s, err := stringMember(members["token_type"])
	s = strings.TrimSpace(s)
	assumed := p.settings.assumedTokenType()
	switch {
	case err != nil:
		return "", errTokenType
	case strings.EqualFold(s, typeBearerToken):
		return typeBearerToken, nil
	case strings.EqualFold(s, typeDPoPToken):
		return typeDPoPToken, nil
	case strings.EqualFold(s, notAccess):
		return "", errTypeNotUs
	case s == "" && p.settings.DPoP:
		return "", errTypeUnbound
	case s == "" && assumed == "":
		return "", errTypeAbsent
	case s == "" || (s == assumed && !p.settings.DPoP):
		return assumed, nil
	}
	return "", p.otherType(s, members)
}

// otherType names the word that the server has for its tokens, if it is one.
func (p *Provider) otherType(word string, members map[string]json.RawMessage) error {
	var tokens []secret.Text
	for _, name := range []string{memberAccess, memberRefresh, memberIdentity} {
		if token, err := stringMember(members[name]); err == nil && token != "" {
			tokens = append(tokens, secret.New(token))
		}
	}
	if p.settings.DPoP || len(word) > 32 || !typeName.MatchString(word) || p.repeatsSecret(word, tokens) {
		return errTokenType
	}
	return errors.New(`the provider's token_type is "` + word + `": if callers know how to present such a token, write assumed_token_type=` + word + ` on the provider`)
}

// checkType holds the answer's token_type against what was asked for.
func (p *Provider) checkType(tokenType string, proof *dpopProof) error {
	switch {
	case tokenType == typeDPoPToken && proof == nil:
		return errTypeDPoP
	case tokenType != typeDPoPToken && (proof != nil || p.settings.DPoP):
		return errDowngraded
	}
	return nil
}

// typeName is RFC 6749 A.13's, of a bounded length.
var typeName = regexp.MustCompile(`^[-._A-Za-z0-9]{1,64}$`)

// assumedTokenType is the operator's word for a type that is absent, or is exactly it.
func (s settings) assumedTokenType() string {
	if strings.EqualFold(s.AssumedTokenType, typeBearerToken) {
		return typeBearerToken
	}
	return s.AssumedTokenType
}

// checkTokenType judges assumed_token_type. A binding is seen by nothing but the type,
// so none is assumed where tokens are bound.
func (s settings) checkTokenType() error {
	word := s.AssumedTokenType
	switch {
	case word == "":
		return nil
	case s.DPoP:
		return invalid("assumed_token_type contradicts dpop=true: a server that binds tokens says so by token_type=DPoP, and nothing stands in for that")
	case strings.EqualFold(word, typeDPoPToken):
		return invalid("assumed_token_type cannot be DPoP: write dpop=true, with which the server must say so itself")
	case strings.EqualFold(word, notAccess):
		return invalid("assumed_token_type cannot be N_A, which is the type of what is no access token")
	case !typeName.MatchString(word):
		return invalid("assumed_token_type must be Bearer, or the server's own word of at most 64 letters, digits, '-', '.' and '_'")
	case slices.Contains([]string{memberAccess, memberRefresh, memberIdentity}, word):
		return invalid("assumed_token_type must be what the server says in token_type, such as Bearer")
	}
	return nil
}
