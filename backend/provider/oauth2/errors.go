package oauth2

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// The error codes of RFC 6749 5.2, 7009 2.2.1, 8707 2 and 9396 5 that steer.
const (
	codeInvalidClient      = "invalid_client"
	codeInvalidGrant       = "invalid_grant"
	codeUnauthorizedClient = "unauthorized_client"
	codeInvalidRequest     = "invalid_request"
	codeInvalidScope       = "invalid_scope"
	codeInvalidTarget      = "invalid_target"
	codeInvalidDetails     = "invalid_authorization_details"
	codeInvalidToken       = "invalid_token"
)

// errorCode is the error member of an answer, or "". Only what looks like a code
// is taken, because it ends up in messages; error_description is never read: it
// may echo what was sent.
func errorCode(body []byte) string {
	members, twice, err := form.Members(body)
	if err != nil {
		return ""
	}
	return codeIn(members, twice)
}

// codeIn is errorCode of a body that has been taken apart.
func codeIn(members map[string]json.RawMessage, twice []string) string {
	if slices.Contains(twice, "error") {
		return codeUnreadable // that there is none is not said by one of them alone
	}
	var code string
	raw := present(members["error"])
	if !isText(raw) || json.Unmarshal(raw, &code) != nil || code == "" {
		return ""
	}
	code = strings.TrimSpace(code) // RFC 6749 5.2 has space in it, and no code has it around it
	odd := strings.ContainsFunc(code, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.", r)
	})
	if odd || len(code) > 64 {
		return codeUnreadable
	}
	return code
}

// codeUnreadable stands for an error member that is not shown.
const codeUnreadable = "an unreadable error code"

// refuse is refusal of a request in which nothing was exchanged.
func (p *Provider) refuse(resp *httpclient.Response) error { return p.refusal(resp) }

// refusal is an OAuth error that the server answered with, in the broker's words.
// sent are secrets of the request beside the parent's.
func (p *Provider) refusal(resp *httpclient.Response, sent ...secret.Text) *fault.Error {
	code := errorCode(resp.Body)
	if code == codeInvalidGrant && p.settings.DPoP && p.settings.Grant == grantClientCredentials {
		return p.proofRefused(resp, code) // there is no other grant to be invalid
	}
	switch {
	case wantsConsent(resp.Body):
		return invalid("the provider refuses what was asked for (invalid_grant, consent_required): ask for other scopes or targets, or let whoever consented to the token consent to these at the provider")
	case p.settings.Grant == grantRefreshToken && refusesParent(resp.Body) != "":
		return kit.ParentRefused("the provider refuses the parent credential: %s; see the provider's check path, and write a credential that works", code).Because(p.retryAfter(resp))
	}
	switch code {
	case "":
		return p.failure(resp, sent...)
	case codeInvalidScope:
		return fault.New(fault.InvalidScope, "the provider refuses the scopes (invalid_scope): ask for fewer, or let the client have them at the provider")
	case codeInvalidTarget:
		return fault.New(fault.InvalidTarget, "the provider refuses the audience or resource (invalid_target): ask for another, or let the client have it at the provider")
	case codeInvalidDetails:
		return invalid("the provider refuses the authorization_details (invalid_authorization_details): ask for others, or let the client have them at the provider")
	case codeUseDPoPNonce, codeInvalidDPoPProof:
		return p.proofRefused(resp, code)
	case codeInvalidRequest:
		if p.settings.AuthMethod == authPrivateKeyJWT {
			return invalid("the provider calls the request invalid (invalid_request): often an audience or resource that the client may not have there; or the client's key is not registered there: compare client_jwks, which a read of the provider shows")
		}
		return invalid("the provider calls the request invalid (invalid_request): often an audience or resource that the client may not have there, or another audience_parameter is needed")
	case codeInvalidClient:
		return kit.ParentRefused("the provider refuses the parent credential: %s; see the provider's check path, and write a credential that works%s", code, p.basicHint()).Because(p.retryAfter(resp))
	case codeUnauthorizedClient, codeInvalidGrant:
		return kit.ParentRefused("the provider refuses the parent credential: %s; see the provider's check path, and write a credential that works", code).Because(p.retryAfter(resp))
	}
	return unavailable("the provider answered HTTP %d with %s: try again, and see the provider's check path", resp.Status, p.discreet(code, sent...)).Because(p.retryAfter(resp))
}

// failure is an answer without an OAuth error that is no success either.
func (p *Provider) failure(resp *httpclient.Response, sent ...secret.Text) *fault.Error {
	if succeeded(resp.Status) {
		return violation("the provider answered HTTP %d with an error in a form that RFC 6749 does not have: try again, and see the provider's check path", resp.Status).Because(p.retryAfter(resp))
	}
	if resp.Status == http.StatusUnauthorized {
		return kit.ParentRefused("the provider refuses the parent credential (HTTP 401): see the provider's check path, and write a credential that works%s", p.basicHint())
	}
	return kit.Refusal(resp, p.deps.Now(), append(p.ownSecrets(), sent...)...)
}

// discreet keeps a code that repeats one of our secrets, or of those that were
// sent, out of messages.
func (p *Provider) discreet(code string, sent ...secret.Text) string {
	if p.repeatsSecret(code, sent) {
		return codeUnreadable
	}
	return code
}

// retryAfter is for the chain of an error after which the server asked to wait, as for a
// revocation in RFC 7009 2.2.1.
func (p *Provider) retryAfter(resp *httpclient.Response) error {
	return kit.RetryAfter(resp, p.deps.Now())
}

func violation(format string, args ...any) *fault.Error {
	return fault.New(fault.ProviderViolation, format, args...)
}
