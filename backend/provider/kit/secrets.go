package kit

import (
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Repeats reports whether a text of the provider's holds one of the secrets, or is a part
// of one that is too long to be there by accident. No message repeats such a text.
func Repeats(text string, secrets ...secret.Text) bool {
	for _, s := range secrets {
		own := s.Reveal()
		if own != "" && strings.Contains(text, own) || len(text) >= 8 && strings.Contains(own, text) {
			return true
		}
	}
	return false
}

// Holds reports whether text has the secret inside, in any usual encoding, or is at least
// half of it: an id may be the beginning of a token (Salesforce's organization is). Nobody
// is given such a text beside the child.
func Holds(text string, own secret.Text) bool {
	plain := own.Reveal()
	if plain == "" || text == "" {
		return false
	}
	if len(text) < len(plain) { // which is shorter than all its spellings: no work for a server to cause
		return 2*len(text) >= len(plain) && strings.Contains(plain, text)
	}
	spelled := func(text string) bool {
		return strings.Contains(text, plain) || strings.Contains(text, url.QueryEscape(plain)) || strings.Contains(text, url.PathEscape(plain))
	}
	if spelled(text) || secret.NewSearch(own).In(text) {
		return true
	}
	for _, run := range strings.FieldsFunc(text, outsideBase64) {
		run = strings.NewReplacer("+", "-", "/", "_").Replace(run)
		if len(run)%4 == 1 { // no Base64 has such a length
			run = run[:len(run)-1]
		}
		// A name and a password together, as in a header of RFC 7617.
		if decoded, err := base64.RawURLEncoding.DecodeString(run); err == nil && spelled(string(decoded)) {
			return true
		}
	}
	return false
}

// outsideBase64 reports whether r stands in no Base64, padding aside.
func outsideBase64(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("+/-_", r)
}
