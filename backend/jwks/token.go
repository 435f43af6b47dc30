package jwks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// maxDepth bounds how deep a header may nest. One that brings a key along, the deepest of
// the usual ones, nests two deep.
const maxDepth = 16

// Header is what a caller may need of a token's protected header. The keys that one can
// bring along (jwk, jku, x5c, x5u) are no part of it: a token does not say by which key
// it is to be verified (RFC 8725 3.10).
type Header struct {
	// KeyID is the kid, "" if the token names none.
	KeyID string
	// Type is the typ, such as "at+jwt" (RFC 9068) or "JWT"; "" if absent.
	Type      string
	Algorithm jwa.SignatureAlgorithm
}

// Token is a JWS in compact form taken apart (RFC 7515 7.1), with nothing of it verified.
type Token struct {
	Header  Header
	Payload []byte

	members   map[string]any
	signed    []byte // the signing input of RFC 7515 5.2, as it came
	signature []byte
}

// Member is a member of the protected header as form.Value reads it.
func (t *Token) Member(name string) (value any, present bool) {
	value, present = t.members[name]
	return value, present
}

// malformed is why a text is no token that is looked at further, for whoever brought it.
// It is an ErrInvalid.
type malformed string

// Error implements error.
func (m malformed) Error() string { return string(m) }

// Is makes it ErrInvalid.
func (malformed) Is(target error) bool { return target == ErrInvalid }

// Parse takes a token apart and judges its form, strictly, so that one token has one
// spelling and one meaning for everybody. Its errors are ErrInvalid, hold nothing of the
// token, and are fit to be shown.
func Parse(compact string) (*Token, error) {
	switch {
	case len(compact) > MaxToken:
		return nil, malformed(fmt.Sprintf("the token is larger than %d bytes", MaxToken))
	case strings.IndexFunc(compact, notCompact) >= 0:
		return nil, malformed("the token is not a JWT in compact form: " + wrapping(compact))
	}
	parts := strings.Split(compact, ".")
	switch {
	case len(parts) == 5:
		return nil, malformed("the token is encrypted (JWE); only signed JWTs are accepted")
	case len(parts) != 3:
		return nil, malformed("the token is not a JWT in compact form: it does not have three parts")
	case parts[2] == "":
		return nil, malformed("the token is not signed")
	}
	header, members, err := readHeader(parts[0])
	if err != nil {
		return nil, err
	}
	payload, err := decodePart(parts[1])
	if err != nil {
		return nil, malformed("the token's payload is not base64url")
	}
	if len(payload) == 0 {
		return nil, malformed("the token's payload is not a JSON object: it is empty")
	}
	signature, err := decodePart(parts[2])
	if err != nil {
		return nil, malformed("the token's signature is not base64url")
	}
	return &Token{
		Header:    header,
		Payload:   payload,
		members:   members,
		signed:    []byte(compact[:len(parts[0])+1+len(parts[1])]),
		signature: signature,
	}, nil
}

// wrapping says in what a token seems to have come that is none as it stands: where it is
// taken out of there, it may be a good one.
func wrapping(text string) string {
	word := strings.ToLower(strings.TrimSpace(text))
	switch {
	case strings.HasPrefix(word, `"`), strings.HasPrefix(word, "'"):
		return "it stands in quotation marks, which are no part of it (jq prints it without them with -r)"
	case strings.HasPrefix(word, "bearer "), strings.HasPrefix(word, "authorization:"):
		return "it begins with words of an HTTP header: give the token alone, without Bearer"
	case strings.HasPrefix(word, "{"), strings.HasPrefix(word, "["):
		return "it is a JSON document: take the token out of it"
	case strings.HasPrefix(word, "\ufeff"):
		return "a byte order mark stands before it, as editors write one"
	case strings.HasPrefix(word, "-----begin "):
		return "it is PEM"
	case strings.HasSuffix(word, "="):
		return "it is padded (=), which RFC 7515 2 leaves out"
	}
	return "it holds characters other than base64url and dots, perhaps a space or a line end"
}

// notCompact keeps out what base64 decoders silently skip, such as line ends.
func notCompact(c rune) bool {
	switch {
	case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		return false
	}
	return true
}

// ReadHeader is the header of what Parse would take apart, or of the beginning of it.
func ReadHeader(compact string) (Header, error) {
	part, _, _ := strings.Cut(compact, ".")
	header, _, err := readHeader(part)
	return header, err
}

func readHeader(part string) (Header, map[string]any, error) {
	members, err := headerMembers(part)
	if err != nil {
		return Header{}, nil, err
	}
	// crit names extensions that must be understood, of which we understand none
	// (RFC 7515 4.1.11); b64 would need it (RFC 7797 6).
	for _, name := range []string{"crit", "b64"} {
		if _, present := members[name]; present {
			return Header{}, nil, malformed("the token's header holds " + name + ", which is not accepted")
		}
	}
	alg, isString := members["alg"].(string)
	if !isString {
		return Header{}, nil, malformed("the token's header names no algorithm (alg)")
	}
	h := Header{Algorithm: jwa.SignatureAlgorithm(alg)}
	if typ, present := members["typ"]; present {
		if h.Type, isString = typ.(string); !isString || h.Type == "" {
			return Header{}, nil, malformed("the token's header has a malformed typ")
		}
	}
	// RFC 7515 4.1.4 wants a string; without one every key is tried.
	h.KeyID, _ = members["kid"].(string)
	return h, members, nil
}

func headerMembers(part string) (map[string]any, error) {
	raw, err := decodePart(part)
	if err != nil {
		return nil, malformed("the token's header is not base64url")
	}
	members, err := form.Object(raw, maxDepth)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", malformed("the token's header cannot be used"), err)
	}
	return members, nil
}

// LooksLikeJWT reports whether s has the shape of a signed or encrypted JWT (RFC
// 7519 3): three or five parts, of which the first is a JSON object that names an
// algorithm. It proves nothing, and is no stricter than the laxest of those who may be
// shown s.
func LooksLikeJWT(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 && len(parts) != 5 {
		return false
	}
	header, err := decodePart(parts[0])
	if err != nil {
		return false
	}
	members, _, err := form.Members(header)
	var alg string
	return err == nil && json.Unmarshal(members["alg"], &alg) == nil && alg != ""
}

// decodePart is strict: no padding, no whitespace, no stray bits.
func decodePart(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(0)
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}
