package subject

import (
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// MaxToken is the size above which no token is looked at, in bytes.
const MaxToken = jwks.MaxToken

// maxDepth bounds how deep a token's claims may nest. Kubernetes' claims, the
// deepest of the well-known ones, nest three deep.
const maxDepth = 16

// compact is a token taken apart, with nothing verified.
type compact struct {
	*jwks.Token
	claims map[string]any
}

// parseCompact takes a JWS in compact serialization apart (RFC 7515 7.1).
func parseCompact(raw secret.Text) (*compact, error) {
	if raw.Empty() {
		return nil, invalid("the token is missing: bring a JWT of a trusted issuer")
	}
	t, err := jwks.Parse(raw.Reveal())
	if err != nil {
		return nil, refuse("%s", err)
	}
	// enc and zip belong to JWE, and their presence shows that someone reads the token
	// differently.
	for _, name := range []string{"enc", "zip"} {
		if _, present := t.Member(name); present {
			return nil, refuse("the token's header holds %s, which is not accepted", name)
		}
	}
	if cty, present := t.Member("cty"); present {
		if s, ok := cty.(string); !ok || isJWTType(s) {
			return nil, refuse("the token holds another token (cty), which is not accepted")
		}
	}
	claims, err := form.Object(t.Payload, maxDepth)
	if err != nil {
		return nil, refuse("the token's claims cannot be used: %s", err)
	}
	return &compact{Token: t, claims: claims}, nil
}

// subjectTypes are the values of typ with which a JWT can stand for someone: the
// plain one, which OpenID Connect's ID tokens and CI systems' tokens have, JOSE, which
// says no more than that it is a JWS in compact form (RFC 7515 4.1.9), and RFC 9068's
// access token. Kubernetes gives none. Every other kind was made for another purpose
// (dpop+jwt proves a key, logout+jwt ends a session, oauth-id-jag+jwt is for one
// authorization server's token endpoint, an oauth-authz-req+jwt is a request),
// and one key may sign several of them (RFC 8725 3.11).
var subjectTypes = map[string]bool{"jwt": true, "jose": true, "at+jwt": true}

// check compares the header with the allow-list and the kinds of JWT.
func (c *compact) check(algs []jwa.SignatureAlgorithm) *fault.Error {
	h := c.Header
	switch {
	case strings.EqualFold(string(h.Algorithm), "none"):
		return refuse("the token is not signed (alg none)")
	case !slices.Contains(algs, h.Algorithm):
		return refuse("the token is signed with an algorithm that is not among the issuer's allowed_algorithms")
	case h.Type != "" && !subjectTypes[mediaType(h.Type)]:
		return refuse("the token's typ says that it is of another kind; a subject or actor token has JWT or at+jwt, or no typ")
	}
	return nil
}

// mediaType is a typ or cty without case and without the prefix application/,
// which RFC 7515 4.1.9 lets senders leave out.
func mediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}

func isJWTType(s string) bool {
	s = mediaType(s)
	return s == "jwt" || strings.HasSuffix(s, "+jwt")
}
