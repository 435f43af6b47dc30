package github

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// apiVersion is the version of the API whose description this package is held against.
const apiVersion = "2022-11-28"

// maxDepth bounds how deep GitHub's answers nest.
const maxDepth = 8

// send is one request with that token.
func (p *Provider) send(ctx context.Context, method, path string, token secret.Text, body []byte) (*httpclient.Response, error) {
	if method == http.MethodGet {
		ctx = httpclient.Reading(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.settings.BaseURL+"/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "vault-plugin-secrets-broker") // GitHub refuses requests without one
	req.Header.Set("X-GitHub-Api-Version", apiVersion)
	return p.deps.Client.Do(req)
}

// unread is a request that only reads and has brought no answer.
func unread(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return known
	}
	return kit.Unreached(err, "GitHub could not be reached, or did not answer in time: try again, and see the provider's base_url, ca_pem and timeout")
}

// odd200 is a success that cannot be read.
func odd200(what, why string) *fault.Error {
	return fault.New(fault.ProviderViolation, "GitHub's answer about %s cannot be used: %s", what, why)
}

// refusal is an answer that is no success, to a request for or about an installation that
// makes nothing. What GitHub says is only ever recognized, never repeated.
func (p *Provider) refusal(resp *httpclient.Response, at place) *fault.Error {
	if wait := p.limited(resp); wait != nil {
		return fault.New(fault.TemporarilyUnavailable, "GitHub's rate limit is reached (HTTP %d): try again later, or have fewer tokens minted, such as by sharing=entity", resp.Status).Because(wait)
	}
	switch said := wordsOf(resp); {
	case resp.Status == http.StatusUnauthorized:
		return p.unknownApp(resp)
	case resp.Status == http.StatusForbidden && strings.Contains(said, "suspended"):
		return p.suspended(at)
	case resp.Status == http.StatusForbidden && strings.Contains(said, "ip allow list"):
		return p.barred(at, "the IP allow list of whoever has the installation by %s keeps the broker out: have its address added there", at)
	case resp.Status == http.StatusForbidden:
		return p.barred(at, "GitHub forbids this to the App, in its installation by %s (HTTP 403): see the App's settings and those of the account, such as its policies for Apps", at)
	case resp.Status == http.StatusNotFound:
		return p.barred(at, "GitHub knows no such thing (HTTP 404): see base_url, which on a GitHub Enterprise Server ends with /api/v3, and which App it is")
	case resp.Status >= 500:
		return fault.New(fault.TemporarilyUnavailable, "GitHub failed (HTTP %d): try again later", resp.Status).Because(kit.RetryAfter(resp, p.deps.Now()))
	}
	return kit.Refusal(resp, p.deps.Now())
}

// unknownApp is a 401 to the App's JWT.
func (p *Provider) unknownApp(resp *httpclient.Response) *fault.Error {
	if ahead, known := p.aheadBy(resp); known && ahead.Abs() > mostAhead {
		return fault.New(fault.TemporarilyUnavailable, "GitHub refuses the App's JWT (HTTP 401), and its clock and the broker's differ by %s: set the broker's clock", ahead.Abs().Truncate(time.Minute))
	}
	return kit.ParentRefused("GitHub refuses the App's JWT (HTTP 401): see that private_key is one of the App's that %s names, and was not deleted there", p.appField())
}

// appField is the field that says which App.
func (p *Provider) appField() string {
	if p.settings.ClientID != "" {
		return fieldClientID
	}
	return fieldAppID
}

// unnamedWait is how long GitHub wants to be left alone where it does not say.
const unnamedWait = time.Minute

// limited is that GitHub wants to be left alone, as a provider.RetryLater, or nil. It says
// so with 403 or 429, and in three ways when that ends.
func (p *Provider) limited(resp *httpclient.Response) error {
	if resp.Status != http.StatusForbidden && resp.Status != http.StatusTooManyRequests {
		return nil
	}
	if wait := kit.RetryAfter(resp, p.theirNow()); wait != nil {
		return wait
	}
	if resp.Header.Get("X-Ratelimit-Remaining") == "0" {
		if reset, ok := form.WholeNumber(resp.Header.Get("X-Ratelimit-Reset")); ok && reset > 0 && reset < 1<<40 {
			return kit.Later(time.Unix(reset, 0).Sub(p.theirNow()))
		}
		return kit.Later(unnamedWait)
	}
	said := wordsOf(resp)
	if resp.Status == http.StatusTooManyRequests || strings.Contains(said, "rate limit") || strings.Contains(said, "abuse detection") {
		return kit.Later(unnamedWait)
	}
	return nil
}

// maxWords is as much of an answer as is looked at for words.
const maxWords = 4 << 10

// wordsOf is what an answer says, in small letters, for recognizing.
func wordsOf(resp *httpclient.Response) string {
	return strings.ToLower(string(resp.Body[:min(len(resp.Body), maxWords)]))
}

// The two ways in which GitHub refuses what a token was to have (HTTP 422).
const (
	wordsPermissions  = "permissions requested are not granted"
	wordsRepositories = "repository that does not exist or is not accessible"
)

// refusedMint is an answer of 300 and above, to a request that would have made a token.
func (p *Provider) refusedMint(resp *httpclient.Response, at place) *fault.Error {
	said := wordsOf(resp)
	switch {
	case resp.Status == http.StatusUnprocessableEntity && strings.Contains(said, wordsPermissions):
		return fault.New(fault.InvalidScope, "the App has not all of these permissions in its installation by %s: ask for fewer, or have them added to the App and accepted where it is installed", at)
	case resp.Status == http.StatusUnprocessableEntity && strings.Contains(said, wordsRepositories):
		return fault.New(fault.InvalidTarget, "GitHub knows one of these repositories not, or not in the App's installation by %s: it was renamed, transferred or deleted, or the installation has not been given it", at)
	case resp.Status == http.StatusUnprocessableEntity:
		return fault.New(fault.InvalidRequest, "GitHub refuses what the token was to have (HTTP 422): ask for other resources or permissions")
	case resp.Status < 400, resp.Status >= 500:
		return kit.Refusal(resp, p.deps.Now())
	}
	return p.refusal(resp, at)
}
