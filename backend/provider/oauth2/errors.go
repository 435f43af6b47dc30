package oauth2

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
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
	if slices.Contains(twice, "error") {
		return codeUnreadable // that there is none is not said by one of them alone
	}
	var code string
	if json.Unmarshal(members["error"], &code) != nil || code == "" {
		return ""
	}
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
		return unavailable("the provider refuses the parent credential: %s; see the provider's check path, and write a credential that works", code).Because(retryAfter(resp))
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
		return unavailable("the provider refuses the parent credential: %s; see the provider's check path, and write a credential that works%s", code, p.basicHint()).Because(retryAfter(resp))
	case codeUnauthorizedClient, codeInvalidGrant:
		return unavailable("the provider refuses the parent credential: %s; see the provider's check path, and write a credential that works", code).Because(retryAfter(resp))
	}
	return unavailable("the provider answered HTTP %d with %s: try again, and see the provider's check path", resp.Status, p.discreet(code, sent...)).Because(retryAfter(resp))
}

// failure is an answer without an OAuth error that is no success either.
func (p *Provider) failure(resp *httpclient.Response, sent ...secret.Text) *fault.Error {
	to := resp.PointsTo()
	switch {
	case to != "" && !p.repeatsSecret(to, sent):
		return violation("the provider answered with a redirect (HTTP %d) to %s, which is never followed with a credential: write the final URL", resp.Status, to)
	case resp.Status >= 300 && resp.Status < 400:
		return violation("the provider answered with a redirect (HTTP %d), which is never followed with a credential: write the final URL", resp.Status)
	case resp.Status == http.StatusUnauthorized:
		return unavailable("the provider refuses the parent credential (HTTP 401): see the provider's check path, and write a credential that works%s", p.basicHint())
	case resp.Status == http.StatusTooManyRequests || (resp.Status == http.StatusServiceUnavailable && retryAfter(resp) != nil):
		// Whoever says when to come back has not done the work. Any other 503 may be
		// a gateway's that lost the answer of the server behind it.
		return unavailable("the provider is overloaded (HTTP %d): try again later", resp.Status).Because(retryAfter(resp))
	case resp.Status >= 500:
		// A gateway that gave up does not know what the server behind it did.
		return unavailable("the provider failed (HTTP %d): try again later", resp.Status).Because(errors.Join(provider.ErrAnswerLost, retryAfter(resp)))
	}
	return unavailable("the provider answered HTTP %d: check its URLs", resp.Status)
}

// lost is a token request of which no whole answer arrived. If a token was seen
// in what did arrive, there is nothing that nobody knows of.
func lost(err error, tokens seen) *fault.Error {
	var failed *httpclient.Error
	var unsigned *fault.Error
	if errors.As(err, &unsigned) { // no assertion could be made, so nothing was sent
		return unsigned
	}
	sent := errors.As(err, &failed) && failed.Sent
	if sent && len(tokens.access) == 0 {
		err = errors.Join(provider.ErrAnswerLost, err)
	}
	switch {
	case errors.Is(err, httpclient.ErrBodyTooLarge):
		return violation("the provider's answer is larger than %d bytes", httpclient.MaxBody).Because(err)
	case errors.Is(err, httpclient.ErrCertificateRefused):
		return unavailable("the provider refuses the parent credential: it does not accept the client certificate; see the provider's check path, and let the server have the certificate that a read of the provider shows").Because(err)
	case sent:
		return unavailable("the provider's answer did not arrive whole or in time: try again, and see the provider's timeout").Because(err)
	}
	return unavailable("the provider could not be reached: try again, and see the provider's URLs and ca_pem").Because(err)
}

// discreet keeps a code that repeats one of our secrets, or of those that were
// sent, out of messages.
func (p *Provider) discreet(code string, sent ...secret.Text) string {
	if p.repeatsSecret(code, sent) {
		return codeUnreadable
	}
	return code
}

// RetryLater is in the chain of an error after which the server asked to wait
// (Retry-After, RFC 9110 10.2.3), as for a revocation in RFC 7009 2.2.1.
type RetryLater struct{ After time.Duration }

// Error implements error.
func (e *RetryLater) Error() string { return "the provider asks to wait " + e.After.String() }

// RetryAfter is how long to wait.
func (e *RetryLater) RetryAfter() time.Duration { return e.After }

// maxRetryAfter bounds what a server can make us wait.
const maxRetryAfter = time.Hour

// retryAfter reads the header; nil if there is none that can be read.
func retryAfter(resp *httpclient.Response) error {
	header := resp.Header.Get("Retry-After")
	if header == "" {
		return nil
	}
	var wait time.Duration
	if seconds, ok := form.WholeNumber(strings.TrimSpace(header)); ok && seconds >= 0 {
		if strings.ContainsAny(header, ".eE") {
			seconds++ // a fraction may have been cut off, and nobody asks too early
		}
		wait = time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		wait = time.Until(at)
	} else {
		return nil
	}
	return &RetryLater{After: min(max(wait, 0), maxRetryAfter)}
}

func violation(format string, args ...any) *fault.Error {
	return fault.New(fault.ProviderViolation, format, args...)
}
