package oauth2

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// post sends form to endpoint as the client. If the server refuses the client
// secret and there is another, that is tried, and the one that worked goes first
// from then on. A refused client got nothing (RFC 6749 5.2), so trying again
// cannot mint twice; an answer that holds a token all the same is not retried.
func (p *Provider) post(ctx context.Context, endpoint string, form url.Values) (*httpclient.Response, error) {
	candidates := p.clientSecrets()
	var resp *httpclient.Response
	for i, candidate := range candidates {
		var err error
		resp, err = p.postAs(ctx, endpoint, form, candidate)
		if err != nil {
			return nil, err
		}
		if !clientRefused(resp) {
			if len(candidates) > 1 {
				p.remember(candidate)
			}
			return resp, nil
		}
		if len(seeTokens(resp).access) > 0 || i == len(candidates)-1 {
			break
		}
	}
	return resp, nil
}

// postAs sends form to endpoint, authenticated with that one client secret.
func (p *Provider) postAs(ctx context.Context, endpoint string, form url.Values, clientSecret secret.Text) (*httpclient.Response, error) {
	body := url.Values{}
	for name, values := range form {
		body[name] = values
	}
	if p.settings.AuthMethod != authBasic {
		body.Set("client_id", p.settings.ClientID)
	}
	if p.settings.AuthMethod == authPost {
		body.Set("client_secret", clientSecret.Reveal())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(body.Encode()))
	if err != nil {
		return nil, &httpclient.Error{Err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if p.settings.AuthMethod == authBasic {
		// RFC 6749 2.3.1: both are form-encoded before they are joined.
		req.SetBasicAuth(url.QueryEscape(p.settings.ClientID), url.QueryEscape(clientSecret.Reveal()))
	}
	return p.deps.Client.Do(req)
}

// clientSecrets are the secrets to try, the one that last worked first. A public
// client (auth_method=none) has one empty one.
func (p *Provider) clientSecrets() []secret.Text {
	p.mu.Lock()
	defer p.mu.Unlock()
	current, next := p.parent.Secrets[fieldClientSecret], p.parent.Secrets[fieldClientSecretNext]
	switch {
	case next.Empty() || next.Equal(current):
		return []secret.Text{current}
	case p.working == next.Fingerprint():
		return []secret.Text{next, current}
	}
	return []secret.Text{current, next}
}

// remember notes which client secret works.
func (p *Provider) remember(clientSecret secret.Text) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.working = clientSecret.Fingerprint()
}

// clientRefused reports whether the server did not accept the client's
// credential: invalid_client, with 401 or 400, or a bare 401 (RFC 6749 5.2).
func clientRefused(resp *httpclient.Response) bool {
	if resp.Status != http.StatusUnauthorized && resp.Status != http.StatusBadRequest {
		return false
	}
	code := errorCode(resp.Body)
	return code == codeInvalidClient || (code == "" && resp.Status == http.StatusUnauthorized)
}
