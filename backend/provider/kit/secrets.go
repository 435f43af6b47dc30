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
	for _, spelling := range []string{
		plain, url.QueryEscape(plain), url.PathEscape(plain), base64.RawStdEncoding.EncodeToString([]byte(plain)), base64.RawURLEncoding.EncodeToString([]byte(plain)),
	} {
		if strings.Contains(text, spelling) {
			return true
		}
	}
	return false
}
