package oauth2

import (
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Servers have other words than RFC 6749 5.2's invalid_grant for a refresh token that
// is no good any more, and say invalid_grant of other things than that.

// deadRefreshToken are the codes that say so alone.
var deadRefreshToken = []string{
	"bad_refresh_token", "invalid_refresh_token", "expired_refresh_token", "refresh_token_expired", "refresh_token_revoked",
}

// wantsConsent reports whether an invalid_grant is about what was asked for, and not
// about the token: Entra's suberror says of which kind it is.
func wantsConsent(body []byte) bool {
	return errorCode(body) == codeInvalidGrant && textOf(body, "suberror") == codeConsent
}

// refusesParent is the code by which an answer calls the refresh token that was sent
// no good any more, or "".
func refusesParent(body []byte) string {
	code := errorCode(body)
	switch {
	case code == codeInvalidGrant && !wantsConsent(body), slices.Contains(deadRefreshToken, code):
		return code
	case code == codeUnauthorizedClient && blamesRefreshToken(textOf(body, "error_description")):
		return code
	}
	return ""
}

// blamesRefreshToken reports whether an error_description calls the refresh token bad. The
// text itself is shown to nobody, because it may echo what was sent.
func blamesRefreshToken(description string) bool {
	text := strings.ToLower(strings.NewReplacer("_", " ", "-", " ").Replace(description))
	return strings.Contains(text, "refresh token") && slices.ContainsFunc([]string{"invalid", "expired", "revoked", "unknown"}, func(word string) bool {
		return strings.Contains(text, word)
	})
}

// textOf is a member of an answer, or "" if it is no text.
func textOf(body []byte, member string) string {
	members, _, err := form.Members(body)
	if err != nil {
		return ""
	}
	text, _ := stringMember(members[member])
	return text
}
