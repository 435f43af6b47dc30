package authserver

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// reply is an answer before it is sent, so that a fault can change it.
type reply struct {
	status int
	body   any
}

func oauthError(status int, code string) reply {
	return reply{status, map[string]any{"error": code, "error_description": "the server's own words, which may echo anything"}}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	e := Endpoint(strings.TrimPrefix(r.URL.Path, mutualTLS))
	s.mu.Lock()
	s.counts.Requests[e]++
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		s.certified[r.URL.Path] = true
	}
	s.requests = append(s.requests, Request{r.Method, r.URL.Path, r.Header.Clone(), string(body)})
	fault := s.faults[e]
	s.mu.Unlock()

	if s.options.DPoPNonce && e == EndpointToken {
		w.Header().Set("DPoP-Nonce", s.nonce())
	}
	act := func() reply { return s.act(e, r, string(body)) }
	if fault != nil {
		fault(w, r, act)
		return
	}
	act().send(w)
}

func (a reply) send(w http.ResponseWriter) {
	raw, err := json.Marshal(a.body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if a.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(raw)
}

func (s *Server) act(e Endpoint, r *http.Request, body string) reply {
	o := s.options
	switch e {
	case EndpointMetadata, EndpointOIDC:
		if r.Method != http.MethodGet || o.WithoutDiscovery || (o.OIDCOnly && e == EndpointMetadata) {
			return oauthError(http.StatusNotFound, "not_found")
		}
		return reply{http.StatusOK, s.metadata()}
	case EndpointJWKS:
		return reply{http.StatusOK, s.jwks()}
	}
	form, err := url.ParseQuery(body)
	if r.Method != http.MethodPost || err != nil {
		return oauthError(http.StatusBadRequest, "invalid_request")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	client := s.authenticate(r, form)
	if client == nil {
		return oauthError(http.StatusUnauthorized, "invalid_client")
	}
	switch {
	case e == EndpointToken:
		return s.bound(client, r, form)
	case e == EndpointRevoke && !o.WithoutRevocation:
		return s.revoke(client, form.Get("token"))
	case e == EndpointIntrospect && !o.WithoutIntrospection:
		return s.introspect(form.Get("token"))
	}
	return oauthError(http.StatusNotFound, "not_found")
}

func (s *Server) metadata() map[string]any {
	m := map[string]any{
		"issuer":         s.URL,
		"token_endpoint": s.Endpoint(EndpointToken),
		"jwks_uri":       s.Endpoint(EndpointJWKS),
	}
	if !s.options.WithoutRevocation {
		m["revocation_endpoint"] = s.Endpoint(EndpointRevoke)
	}
	if !s.options.WithoutIntrospection {
		m["introspection_endpoint"] = s.Endpoint(EndpointIntrospect)
	}
	if s.options.MutualTLS {
		m["mtls_endpoint_aliases"] = s.aliases(m)
	}
	return m
}

// authenticate finds the client by RFC 6749 2.3.1: Basic with both parts
// form-encoded, or both in the form; nil if it is none or its secret is wrong.
func (s *Server) authenticate(r *http.Request, form url.Values) *Client {
	if client := s.clients[form.Get("client_id")]; client != nil && client.hasKeys() {
		return s.authenticateByKey(client, r, form)
	}
	id, secret, basic := r.BasicAuth()
	if basic {
		var err1, err2 error
		id, err1 = url.QueryUnescape(id)
		secret, err2 = url.QueryUnescape(secret)
		if err1 != nil || err2 != nil || form.Has("client_secret") {
			return nil
		}
	} else {
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	client := s.clients[id]
	if client == nil || (len(client.Secrets) > 0 && !slices.Contains(client.Secrets, secret)) {
		return nil
	}
	return client
}

func (s *Server) token(client *Client, form url.Values) reply {
	switch form.Get("grant_type") {
	case "client_credentials":
		if len(client.Secrets) == 0 && !client.hasKeys() {
			return oauthError(http.StatusBadRequest, "unauthorized_client")
		}
		s.serial++
		return s.grant(client, Token{Client: client.ID, Scopes: client.Scopes, Family: s.serial}, form)
	case "refresh_token":
		return s.refresh(client, form)
	case grantTypeExchange:
		return s.exchange(client, form)
	case grantTypeJWTBearer:
		return s.redeem(client, form)
	}
	return oauthError(http.StatusBadRequest, "unsupported_grant_type")
}

func (s *Server) refresh(client *Client, form url.Values) reply {
	old := s.tokens[form.Get("refresh_token")]
	switch {
	case old == nil || !old.Refresh || old.Client != client.ID:
		return oauthError(http.StatusBadRequest, "invalid_grant")
	case old.Dead:
		s.killFamily(old.Family) // a second use of a token: one of the two is a thief
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	answer := s.grant(client, Token{Client: client.ID, Scopes: old.Scopes, Family: old.Family}, form)
	if answer.status == http.StatusOK && s.options.RotateRefresh {
		old.Dead = true
		next := s.issue(Token{Refresh: true, Client: client.ID, Scopes: old.Scopes, Family: old.Family})
		answer.body.(map[string]any)["refresh_token"] = next.Value
	}
	return answer
}

// grant issues what was asked for within t.Scopes and the client's audiences.
func (s *Server) grant(client *Client, t Token, form url.Values) reply {
	if asked := strings.Fields(form.Get("scope")); len(asked) > 0 {
		for _, scope := range asked {
			if !slices.Contains(t.Scopes, scope) {
				return oauthError(http.StatusBadRequest, "invalid_scope")
			}
		}
		t.Scopes = asked
	} else if s.options.NeedsScope {
		return oauthError(http.StatusBadRequest, "invalid_scope")
	}
	t.Audience = append(slices.Clone(form["audience"]), form["resource"]...)
	for _, audience := range t.Audience {
		if !slices.Contains(client.Audiences, audience) {
			return oauthError(http.StatusBadRequest, "invalid_target")
		}
	}
	if details := form.Get("authorization_details"); details != "" {
		if !json.Valid([]byte(details)) {
			return oauthError(http.StatusBadRequest, "invalid_authorization_details")
		}
		t.Details = json.RawMessage(details)
	}
	t.Confirmation = client.confirmation
	issued := s.given(t)
	if issued == nil {
		issued = s.issue(t)
	}
	body := map[string]any{
		"access_token": issued.Value,
		"token_type":   tokenTypeOf(issued),
		"expires_in":   int(issued.Expires.Sub(s.options.Now()).Round(time.Second).Seconds()),
		"scope":        strings.Join(issued.Scopes, " "),
	}
	if issued.Details != nil {
		body["authorization_details"] = issued.Details
	}
	return reply{http.StatusOK, body}
}

// given is the token that such a request got before; nil if there is none, or another
// is issued each time.
func (s *Server) given(t Token) *Token {
	if !s.options.OneToken {
		return nil
	}
	for _, before := range s.tokens {
		same := before.Client == t.Client && sameSet(before.Scopes, t.Scopes) && sameSet(before.Audience, t.Audience)
		if same && !before.Refresh && s.alive(before) {
			return before
		}
	}
	return nil
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// revoke answers 200 whether or not there was something to revoke (RFC 7009
// 2.2); another client's token stays alive.
func (s *Server) revoke(client *Client, token string) reply {
	t := s.tokens[token]
	if t != nil && t.Client == client.ID {
		if s.alive(t) {
			s.counts.Revoked++
		}
		t.Dead = true
		if t.Refresh || s.options.FamilyRevocation {
			s.killFamily(t.Family)
		}
	}
	return reply{http.StatusOK, map[string]any{}}
}

func (s *Server) killFamily(family int) {
	for _, t := range s.tokens {
		if t.Family == family {
			t.Dead = true
		}
	}
}

func (s *Server) introspect(token string) reply {
	t := s.tokens[token]
	if !s.alive(t) {
		return reply{http.StatusOK, map[string]any{"active": false}}
	}
	return reply{http.StatusOK, s.claims(*t, true)}
}

// claims are a token's facts, for introspection or a JWT.
func (s *Server) claims(t Token, active bool) map[string]any {
	c := map[string]any{
		"iss":       s.URL,
		"sub":       cmp.Or(t.Subject, t.Client),
		"client_id": t.Client,
		"scope":     strings.Join(t.Scopes, " "),
	}
	if active {
		c["active"] = true
	}
	if t.Actor != "" {
		c["act"] = map[string]any{"sub": t.Actor}
	}
	if len(t.Audience) > 0 {
		c["aud"] = t.Audience
	}
	if !t.Expires.IsZero() {
		c["exp"] = t.Expires.Unix()
	}
	if t.Details != nil {
		c["authorization_details"] = t.Details
	}
	if t.Confirmation != nil {
		c["cnf"] = t.Confirmation
	}
	return c
}
