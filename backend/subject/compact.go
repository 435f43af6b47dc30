package subject

import (
	"encoding/base64"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// MaxToken is the size above which no token is looked at, in bytes.
const MaxToken = 16 << 10

// compact is a token taken apart, with nothing verified.
type compact struct {
	header  header
	payload []byte
	claims  map[string]any
}

// header holds the members of a JOSE header that matter here. Everything else,
// jwk, jku, x5u and x5c above all, is not even read: a token does not say by
// which key it is to be verified (RFC 8725 3.10).
type header struct{ alg, typ string }

// parseCompact takes a JWS in compact serialization apart (RFC 7515 7.1).
func parseCompact(raw secret.Text) (*compact, error) {
	text := raw.Reveal()
	switch {
	case text == "":
		return nil, invalid("the token is missing")
	case len(text) > MaxToken:
		return nil, refuse("the token is larger than %d bytes", MaxToken)
	case strings.IndexFunc(text, notCompact) >= 0:
		return nil, refuse("the token is not a JWT in compact form: " +
			"it holds characters other than base64url and dots, perhaps a space or a line end")
	}
	parts := strings.Split(text, ".")
	switch {
	case len(parts) == 5:
		return nil, refuse("the token is encrypted (JWE); only signed JWTs are accepted")
	case len(parts) != 3:
		return nil, refuse("the token is not a JWT in compact form: it does not have three parts")
	case parts[2] == "":
		return nil, refuse("the token is not signed")
	}
	h, err := parseHeader(parts[0])
	if err != nil {
		return nil, err
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, refuse("the token's payload is not base64url")
	}
	claims, err := decodeObject(payload)
	if err != nil {
		return nil, refuse("the token's claims cannot be used: %s", err)
	}
	return &compact{header: h, payload: payload, claims: claims}, nil
}

// notCompact keeps out what base64 decoders silently skip, such as line ends,
// so that one token has one spelling.
func notCompact(c rune) bool {
	switch {
	case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		return false
	}
	return true
}

func parseHeader(part string) (header, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return header{}, refuse("the token's header is not base64url")
	}
	members, err := decodeObject(raw)
	if err != nil {
		return header{}, refuse("the token's header cannot be used: %s", err)
	}
	// crit names extensions that must be understood, of which we understand none
	// (RFC 7515 4.1.11); b64 would need it (RFC 7797 6). enc and zip belong to
	// JWE, and their presence shows that someone reads the token differently.
	for _, name := range []string{"crit", "b64", "enc", "zip"} {
		if _, present := members[name]; present {
			return header{}, refuse("the token's header holds %s, which is not accepted", name)
		}
	}
	var h header
	var isString bool
	if h.alg, isString = members["alg"].(string); !isString {
		return header{}, refuse("the token's header names no algorithm (alg)")
	}
	if typ, present := members["typ"]; present {
		if h.typ, isString = typ.(string); !isString || h.typ == "" {
			return header{}, refuse("the token's header has a malformed typ")
		}
	}
	if cty, present := members["cty"]; present {
		if s, ok := cty.(string); !ok || isJWTType(s) {
			return header{}, refuse("the token holds another token (cty), which is not accepted")
		}
	}
	return h, nil
}

// WithoutLineEnd is a token as a file holds it, without the one line end that editors
// and echo put after it. What else is no part of a token is refused.
func WithoutLineEnd(raw secret.Text) secret.Text {
	text, ended := strings.CutSuffix(raw.Reveal(), "\n")
	if !ended {
		return raw
	}
	return secret.New(strings.TrimSuffix(text, "\r"))
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
func (h header) check(algs []jwa.SignatureAlgorithm) *fault.Error {
	allowed := false
	for _, a := range algs {
		allowed = allowed || string(a) == h.alg
	}
	switch {
	case strings.EqualFold(h.alg, "none"):
		return refuse("the token is not signed (alg none)")
	case !allowed:
		return refuse("the token is signed with an algorithm that is not among the issuer's allowed_algorithms")
	case h.typ != "" && !subjectTypes[mediaType(h.typ)]:
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
