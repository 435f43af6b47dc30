package oauth2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// The error codes that an exchange has beside those of every token request: RFC
// 6749 5.2, 7009 2.2.1, OpenID Connect Core 3.1.2.6 and RFC 9470 3.
const (
	codeUnsupportedGrant = "unsupported_grant_type"
	codeUnsupportedType  = "unsupported_token_type"
	codeInteraction      = "interaction_required"
	codeConsent          = "consent_required"
	codeLogin            = "login_required"
	codeStepUp           = "insufficient_user_authentication"
	// codeReplayed is Hydra's own for a subject token that it has taken before, where
	// RFC 7523 3.1 has invalid_grant.
	codeReplayed = "jti_known"
)

// refuseExchange is refusal for an exchange, where the subject token may be at
// fault and not the parent. sent are the tokens that were exchanged: no text that
// repeats one of them is passed on.
func (p *Provider) refuseExchange(resp *httpclient.Response, sent []secret.Text) error {
	code := errorCode(resp.Body)
	if wantsConsent(resp.Body) {
		code = codeConsent // another subject token would not help
	}
	switch code {
	case codeInvalidGrant:
		return fault.New(fault.InvalidGrant, "the provider refuses the subject token (invalid_grant): get a new one, and see that the provider trusts its issuer and is in its audience")
	case codeReplayed:
		return fault.New(fault.InvalidGrant, "the provider has taken this subject token before, and takes each one once (jti_known): get a new one")
	case codeInvalidRequest:
		// RFC 8693 2.2.2 has no other code for a subject or actor token that is
		// "invalid for any reason".
		return invalid("the provider calls the exchange invalid (invalid_request): often it does not take this subject or actor token, or not as the type that was named; or the client may not have that audience or resource")
	case codeUnsupportedType:
		return fault.New(fault.UnsupportedTokenType, "the provider does not take or give tokens of this type (unsupported_token_type): let an operator change the role's parameters")
	case codeUnsupportedGrant:
		return unavailable("the provider does not know exchange=%s (unsupported_grant_type): an operator must write the provider's exchange", p.settings.exchangeForm())
	case codeInteraction, codeConsent, codeLogin, codeStepUp:
		return fault.New(fault.StepUp, "the provider wants the user to log in again (%s), and a new subject token from that login%s", code, p.loginHints(resp.Body, sent))
	}
	return p.refusal(resp, sent...)
}

// maxHint bounds what is passed on of a provider's wishes for the next login.
const maxHint = 2048

// loginHints are the members that the next login needs: claims (Entra's, for the
// parameter of OpenID Connect Core 5.5), acr_values and max_age (RFC 9470 3). They
// are passed on as far as they are well-formed; all other text is not.
func (p *Provider) loginHints(body []byte, sent []secret.Text) string {
	members, _, err := form.Members(body)
	if err != nil {
		return ""
	}
	var hints strings.Builder
	if acr, err := stringMember(members["acr_values"]); err == nil && wellFormedACR(acr) && !p.repeatsSecret(acr, sent) {
		fmt.Fprintf(&hints, ` acr_values="%s"`, acr)
	}
	if age, ok := maxAge(members["max_age"]); ok {
		fmt.Fprintf(&hints, " max_age=%d", age)
	}
	if claims := claimsObject(members["claims"]); claims != "" && !p.repeatsSecret(claims, sent) {
		fmt.Fprintf(&hints, " claims=%s", claims)
	}
	if hints.Len() == 0 {
		return ""
	}
	return ":" + hints.String()
}

// wellFormedACR judges a list of acr values, separated by single spaces, as it can
// stand between quotes.
func wellFormedACR(list string) bool {
	return list != "" && len(list) <= 512 && kit.IsASCII(list) && !strings.ContainsAny(list, `"\`) &&
		strings.Join(strings.Fields(list), " ") == list
}

// maxAge reads a number of seconds.
func maxAge(raw json.RawMessage) (seconds int64, ok bool) {
	seconds, ok = wholeSeconds(present(raw))
	return seconds, ok && seconds >= 0 && seconds <= math.MaxInt32
}

// claimsObject is the claims member, a JSON object or a string that holds one, as
// one line of printable ASCII; "" if it is anything else.
func claimsObject(raw json.RawMessage) string {
	content := []byte(raw)
	var text string
	if json.Unmarshal(raw, &text) == nil {
		content = []byte(text)
	}
	object, err := form.UniqueMembers(content)
	if err != nil || len(content) > 2*maxHint || len(object) == 0 {
		return ""
	}
	var line bytes.Buffer
	if json.Compact(&line, content) != nil || line.Len() > maxHint || !kit.IsASCII(line.String()) {
		return ""
	}
	return line.String()
}

// repeatsSecret is kit.Repeats for the parent's secrets and the tokens that were sent.
func (p *Provider) repeatsSecret(text string, sent []secret.Text) bool {
	return kit.Repeats(text, append(p.ownSecrets(), sent...)...)
}
