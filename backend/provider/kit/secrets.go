package kit

import (
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Repeats reports whether a text of the provider's holds one of the secrets, in any usual
// encoding, or is a part of one that is too long to be there by accident. No message
// repeats such a text.
func Repeats(text string, secrets ...secret.Text) bool {
	partOf := func(s secret.Text) bool { return len(text) >= 8 && strings.Contains(s.Reveal(), text) }
	return slices.ContainsFunc(secrets, partOf) || secret.Anywhere(secrets...).In(text)
}

// Holds reports whether text has the secret inside, in any usual encoding, or is at least
// half of it: an id may be the beginning of a token (Salesforce's organization is). Nobody
// is given such a text beside the child.
func Holds(text string, own secret.Text) bool {
	plain := own.Reveal()
	if plain == "" || 2*len(text) < len(plain) { // much shorter than all its spellings: no work for a server to cause
		return false
	}
	return strings.Contains(plain, text) || secret.Anywhere(own).In(text)
}
