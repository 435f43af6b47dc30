package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// The token type hints of RFC 7009 2.1.
const (
	hintAccess  = "access_token"
	hintRefresh = "refresh_token"
)

const handleVersion = 1

// handle is what kills a child. The client that authenticates the kill is not in it: that
// is the parent as it is at that time.
type handle struct {
	Version int    `json:"v"`
	URL     string `json:"url"`
	// Tokens are all that the answer held: usually the access token alone.
	Tokens []doomed `json:"tokens"`
	// Introspection is where to confirm the death, if that was wanted.
	Introspection string `json:"introspect,omitempty"`
	// Seen is true if introspection has called the token active: only then does
	// its "inactive" mean dead, and not that this client may not look (RFC 7662 2.2).
	Seen bool `json:"seen,omitempty"`
}

type doomed struct {
	Token string `json:"token"`
	Hint  string `json:"hint"`
}

func (h handle) encode() secret.Text {
	raw, err := json.Marshal(h)
	if err != nil { // strings and an int cannot fail
		return secret.Text{}
	}
	return secret.New(string(raw))
}

// handleFor kills tokens of this server.
func (p *Provider) handleFor(tokens ...doomed) handle {
	h := handle{Version: handleVersion, URL: p.at.Revocation, Tokens: tokens}
	if p.settings.ConfirmRevocation {
		h.Introspection = p.at.Introspection
	}
	return h
}

func decodeHandle(text secret.Text) (handle, error) {
	var h handle
	if err := json.Unmarshal([]byte(text.Reveal()), &h); err != nil {
		return handle{}, invalid("the child's handle is not readable") // err may hold its text
	}
	if h.Version != handleVersion || len(h.Tokens) == 0 {
		return handle{}, invalid("the child's handle is of version %d, which this version of the broker does not know", h.Version)
	}
	return h, nil
}

// Revoke implements provider.Revoker by RFC 7009.
func (p *Provider) Revoke(ctx context.Context, text secret.Text) error {
	h, err := decodeHandle(text)
	if err != nil {
		return err
	}
	if h.URL, err = p.revocationOf(h); err != nil {
		return err
	}
	if h.Introspection != "" || p.settings.ConfirmRevocation {
		h.Introspection = p.todays(h.Introspection, p.at.Introspection)
	}
	var failed []error
	for _, d := range h.Tokens {
		if err := p.kill(ctx, h, d); err != nil {
			failed = append(failed, err)
		}
	}
	// That one of them can never be killed says nothing of those that failed otherwise.
	for _, err := range failed {
		if !errors.Is(err, provider.ErrCannotRevoke) {
			return err
		}
	}
	return errors.Join(failed...)
}

// revocationOf is where h's tokens die: where the handle says, if the provider may still
// send its secret there; else where the issuer of the same account says today. Nobody
// else's word will do: another server would answer 200 for a token that it does not know.
func (p *Provider) revocationOf(h handle) (string, error) {
	switch {
	case slices.Contains(p.pinned.Destinations, h.URL):
		return h.URL, nil
	case p.settings.issuerRevokesAt(p.at):
		return p.at.Revocation, nil
	}
	bare, _, _ := strings.Cut(h.URL, "?") // what is in a query may be a key
	return "", unavailable("the revocation endpoint of this token%s is not the provider's any more: write the provider as it was", quoted(bare))
}

// todays is the endpoint that a handle names, if the provider may still send its
// secret there, else the one that it has now.
func (p *Provider) todays(named, current string) string {
	if named != "" && slices.Contains(p.pinned.Destinations, named) {
		return named
	}
	return current
}

// kill revokes one token. The server answers 200 also for tokens that it does
// not know or has already forgotten (RFC 7009 2.2), so gone is success. Where it
// answers an error, only an introspection that is known to see this client's tokens
// can tell that the token is gone.
func (p *Provider) kill(ctx context.Context, h handle, d doomed) error {
	if p.isOwn(reply{}, d.Token) {
		return violation("refusing to revoke the parent credential in place of a child")
	}
	resp, err := p.post(ctx, h.URL, url.Values{"token": {d.Token}, "token_type_hint": {d.Hint}})
	if err != nil {
		return kit.Unreached(err, "the revocation endpoint did not answer: the kill will be retried")
	}
	failure := p.judgeRevocation(resp)
	switch {
	case failure == nil && h.Introspection == "":
		p.sight.forget(d.Token)
		return nil
	case failure != nil && (!h.Seen || d != h.Tokens[0] || p.at.Introspection == ""):
		return failure // that one alone was seen (lookOnce)
	}
	if err := p.confirmDeath(ctx, h, d, failure); err != nil {
		return err
	}
	p.sight.forget(d.Token)
	return nil
}

// confirmDeath asks whether the token is dead. Not knowing counts as failed, and
// an error of the revocation endpoint stands unless the token is surely dead.
func (p *Provider) confirmDeath(ctx context.Context, h handle, d doomed, failure error) error {
	endpoint := h.Introspection
	if endpoint == "" {
		endpoint = p.at.Introspection
	}
	got, err := p.introspect(ctx, endpoint, d.Token, d.Hint)
	switch {
	case err == nil && !got.active && (failure == nil || p.sees(ctx, endpoint, h)):
		return nil
	case failure != nil:
		return failure
	case err != nil:
		return err
	}
	return unavailable("the provider answered the revocation with success, but the token is still active: is it this client's, and does the revocation endpoint belong to this server?")
}

// judgeRevocation is nil if the token is dead by the revocation endpoint's answer.
// RFC 7009 2.2 knows 200 alone, and 204 is that without a body.
func (p *Provider) judgeRevocation(resp *httpclient.Response) error {
	code, failed := failureIn(resp.Body, append(denials, "revoked")...)
	switch {
	case code == codeInvalidToken && resp.Status == http.StatusBadRequest:
		return nil // RFC 6750 3.1: expired, revoked or otherwise invalid
	case code == codeUnsupportedType && resp.Status != http.StatusUnauthorized && resp.Status < 500:
		return unavailable("the provider does not revoke tokens of this kind (%s), so they live until they expire: set revocation=expiry on the provider, or let it revoke access tokens", code).Because(provider.ErrCannotRevoke)
	case (resp.Status == http.StatusOK || resp.Status == http.StatusNoContent) && !failed:
		return nil
	case resp.Status == http.StatusAccepted && !failed:
		return unavailable("the provider has taken the revocation on (HTTP 202), and does not say that it is done: it is asked again").Because(p.retryAfter(resp))
	}
	if failed && code == "" {
		return unavailable("the revocation endpoint answered HTTP %d with a failure in its body: the kill will be retried", resp.Status).Because(p.retryAfter(resp))
	}
	return p.revocationRefusal(resp.Status, code).Because(p.retryAfter(resp))
}

// denials are the members by which servers say with false that there was no success.
var denials = []string{"ok", "success"}

// failureIn tells a failure by the body of an answer, whatever its status says, and by
// which code if that can be read: an error of any form, one of denials that says no, or a
// status that is a failure's.
func failureIn(body []byte, denials ...string) (code string, failed bool) {
	members, twice, err := form.Members(body)
	if err != nil {
		return "", false // the body says nothing (RFC 7009 2.2)
	}
	if code := codeIn(members, twice); code != "" {
		return code, true
	}
	if slices.Contains(twice, "errors") {
		return "", true
	}
	for _, member := range []string{"error", "errors"} {
		switch string(present(members[member])) {
		case "", `""`, "false", "0", "[]", "{}":
		default:
			return "", true
		}
	}
	for _, member := range denials {
		if slices.Contains(twice, member) || denied(members[member]) {
			return "", true
		}
	}
	return "", slices.Contains(twice, "status") || failedStatus(members["status"])
}

// denied reports whether a member says no, in any of the ways in which servers write that.
func denied(raw json.RawMessage) bool {
	return slices.Contains([]string{"false", "0", "no"}, strings.ToLower(numberIn(raw)))
}

// failedStatus reports whether a status in the body says that there was no success: by a
// word or by the number that HTTP has for it.
func failedStatus(raw json.RawMessage) bool {
	text := numberIn(raw)
	number, isNumber := form.WholeNumber(text)
	return isNumber && 400 <= number && number < 600 || slices.Contains([]string{"error", "fail", "failed", "failure"}, strings.ToLower(text))
}

func (p *Provider) revocationRefusal(status int, code string) *fault.Error {
	switch {
	case code == codeInvalidClient || status == 401:
		return unavailable("the revocation endpoint refuses the parent credential: write one that works%s", p.basicHint())
	case code != "":
		return unavailable("the revocation endpoint answered HTTP %d with %s", status, p.discreet(code))
	}
	return unavailable("the revocation endpoint answered HTTP %d", status)
}
