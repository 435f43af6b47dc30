package jwks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
)

// Header is what a caller may need of a verified token's protected header.
type Header struct {
	// KeyID is the kid, "" if the token names none.
	KeyID string
	// Type is the typ, such as "at+jwt" (RFC 9068) or "JWT"; "" if absent.
	Type      string
	Algorithm jwa.SignatureAlgorithm
}

// token is a compact JWS taken apart, not yet verified.
type token struct {
	header    Header
	signed    []byte // the signing input of RFC 7515 5.2, as it came
	payload   []byte
	signature []byte
}

// LooksLikeJWT reports whether s has the shape of a signed or encrypted JWT (RFC
// 7519 3): three or five parts, of which the first is a JSON object that names an
// algorithm. It proves nothing.
func LooksLikeJWT(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 && len(parts) != 5 {
		return false
	}
	header, err := decodePart(parts[0])
	if err != nil {
		return false
	}
	var h struct {
		Algorithm string `json:"alg"`
	}
	return json.Unmarshal(header, &h) == nil && h.Algorithm != ""
}

// parseToken takes compact apart and judges its header. Members that bring a key
// along (jwk, jku, x5c, x5u) are ignored: only the issuer's own keys count.
func parseToken(compact string, allowed []jwa.SignatureAlgorithm) (*token, error) {
	if len(compact) > MaxToken {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrInvalid, MaxToken)
	}
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: it is no JWS in compact form", ErrInvalid)
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = decodePart(part); err != nil || len(decoded[i]) == 0 {
			return nil, fmt.Errorf("%w: it is no JWS in compact form", ErrInvalid)
		}
	}
	header, err := parseHeader(decoded[0], allowed)
	if err != nil {
		return nil, err
	}
	return &token{
		header:    header,
		signed:    []byte(compact[:len(parts[0])+1+len(parts[1])]),
		payload:   decoded[1],
		signature: decoded[2],
	}, nil
}

func parseHeader(raw []byte, allowed []jwa.SignatureAlgorithm) (Header, error) {
	var h struct {
		Algorithm string          `json:"alg"`
		KeyID     json.RawMessage `json:"kid"`
		Type      string          `json:"typ"`
		Critical  json.RawMessage `json:"crit"`
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return Header{}, fmt.Errorf("%w: its header is not readable", ErrInvalid)
	}
	if h.Critical != nil {
		// RFC 7515 4.1.11: whoever does not understand an extension must refuse.
		return Header{}, fmt.Errorf("%w: its header holds critical extensions", ErrInvalid)
	}
	alg := jwa.SignatureAlgorithm(h.Algorithm)
	if !usable(alg) || !slices.Contains(allowed, alg) {
		return Header{}, fmt.Errorf("%w: its algorithm is not allowed", ErrInvalid)
	}
	var id string
	if len(h.KeyID) > 0 && json.Unmarshal(h.KeyID, &id) != nil {
		id = "" // RFC 7515 4.1.4 wants a string; without one every key is tried
	}
	return Header{KeyID: id, Type: h.Type, Algorithm: alg}, nil
}

// decodePart is strict: no padding, no whitespace, no stray bits, so that one
// token has one spelling.
func decodePart(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(0)
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}
