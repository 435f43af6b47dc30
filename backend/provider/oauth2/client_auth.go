package oauth2

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// post sends form to endpoint as the client.
func (p *Provider) post(ctx context.Context, endpoint string, form url.Values) (*httpclient.Response, error) {
	return p.postWith(ctx, endpoint, form, nil)
}

// sender is what sends a token request: post, or it with a proof, or with one
// credential alone.
type sender func(ctx context.Context, endpoint string, form url.Values) (*httpclient.Response, error)

// sending is a sender that brings proof along, which may be nil. Only a token
// request carries one (RFC 9449 5).
func (p *Provider) sending(proof *dpopProof) sender {
	return func(ctx context.Context, endpoint string, form url.Values) (*httpclient.Response, error) {
		return p.postWith(ctx, endpoint, form, proof)
	}
}

// postWith sends form. If the server refuses the client's credential and there is
// another, that is tried, and the one that worked goes first from then on. A
// refused client got nothing (RFC 6749 5.2), so trying again cannot mint twice; an
// answer that holds a token all the same is not retried.
//
// The second try brings the same proof. To a server that authenticates clients
// before it looks at proofs that is the first one it sees. One that does it the
// other way round calls it used (RFC 9449 11.1), which the caller answers with a
// new proof; the credential that was tried last then goes first.
func (p *Provider) postWith(ctx context.Context, endpoint string, form url.Values, proof *dpopProof) (*httpclient.Response, error) {
	candidates := p.candidatesAt(endpoint)
	var resp *httpclient.Response
	var err error
	for i, candidate := range candidates {
		last := i == len(candidates)-1
		resp, err = p.postAs(ctx, endpoint, form, candidate, proof)
		switch {
		case errors.Is(err, httpclient.ErrCertificateRefused) && !last:
			continue
		case err != nil:
			return nil, err
		case !p.clientRefused(resp):
			if len(candidates) > 1 {
				p.remember(candidate)
				p.audiences.remember(endpoint, candidate.audience, resp.Status)
			}
			return resp, nil
		case last || len(seeTokens(resp).access) > 0:
			return resp, nil
		}
	}
	return resp, err
}

// postAs sends form to endpoint, authenticated with that one credential.
func (p *Provider) postAs(ctx context.Context, endpoint string, form url.Values, c credential, proof *dpopProof) (*httpclient.Response, error) {
	body := url.Values{}
	for name, values := range form {
		body[name] = values
	}
	if p.settings.AuthMethod != authBasic {
		body.Set("client_id", p.settings.ClientID) // RFC 8705 2: also with a certificate
	}
	switch p.settings.AuthMethod {
	case authPost:
		body.Set("client_secret", c.secret.Reveal())
	case authPrivateKeyJWT:
		assertion, err := p.assertion(ctx, c)
		if err != nil {
			return nil, err
		}
		body.Set("client_assertion_type", assertionType)
		body.Set("client_assertion", assertion.Reveal())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(body.Encode()))
	if err != nil {
		return nil, &httpclient.Error{Err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if p.settings.AuthMethod == authBasic {
		// RFC 6749 2.3.1: both are form-encoded before they are joined.
		req.SetBasicAuth(url.QueryEscape(p.settings.ClientID), url.QueryEscape(c.secret.Reveal()))
	}
	if proof != nil {
		req.Header.Set(headerDPoP, proof.compact.Reveal())
	}
	client := p.deps.Client
	if c.client != nil {
		client = c.client
	}
	resp, err := client.Do(req)
	if err == nil {
		resp.Body = document(resp)
	}
	return resp, err
}

// basicHint is for a refusal of a credential that HTTP Basic encodes: RFC 6749 2.3.1
// form-encodes both parts before they are joined, and some servers do not decode them.
func (p *Provider) basicHint() string {
	if p.settings.AuthMethod != authBasic {
		return ""
	}
	plain := url.QueryEscape(p.settings.ClientID) == p.settings.ClientID
	for _, c := range p.candidates() {
		plain = plain && url.QueryEscape(c.secret.Reveal()) == c.secret.Reveal()
	}
	if plain {
		return ""
	}
	return "; client_id or client_secret has characters that a server may not decode from HTTP Basic (RFC 6749 2.3.1): if it is right, set auth_method=client_secret_post"
}

// clientRefused reports whether the server did not accept the client's
// credential: invalid_client, with 401 or 400, or a bare 401 (RFC 6749 5.2). Of an
// assertion whose kid it does not know, Hydra (fosite) says invalid_request, where
// RFC 7521 4.2.1 wants invalid_client: that too may be the key's fault.
func (p *Provider) clientRefused(resp *httpclient.Response) bool {
	if resp.Status != http.StatusUnauthorized && resp.Status != http.StatusBadRequest {
		return false
	}
	code := errorCode(resp.Body)
	if code == codeInvalidRequest && p.settings.AuthMethod == authPrivateKeyJWT {
		return true
	}
	return code == codeInvalidClient || (code == "" && resp.Status == http.StatusUnauthorized)
}
