package main

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"sync/atomic"
)

// The one client that the server knows.
const (
	clientID     = "bench"
	clientSecret = "bench-secret"
)

const (
	grantClientCredentials = "client_credentials"
	grantTokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken        = "urn:ietf:params:oauth:token-type:access_token"
)

const (
	maxForm  = 64 << 10
	lifetime = 24 * 60 * 60 // of a token, in seconds
)

// server counts what it has answered with success.
type server struct {
	tokens, exchanges, revocations, lookups atomic.Int64
}

func newServer() http.Handler {
	s := &server{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", authenticated(s.token))
	mux.HandleFunc("POST /revoke", authenticated(s.revoke))
	mux.HandleFunc("GET /counts", s.counts)
	s.serveGitHub(mux)
	return mux
}

// authenticated lets the client in by Basic authentication, RFC 6749 2.3.1.
func authenticated(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if id, secret, ok := r.BasicAuth(); !ok || id != clientID || secret != clientSecret {
			refuse(w, http.StatusUnauthorized, "invalid_client")
			return
		}
		next(w, r)
	}
}

type tokenAnswer struct {
	AccessToken     string `json:"access_token"`
	TokenType       string `json:"token_type"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	ExpiresIn       int    `json:"expires_in"`
	Scope           string `json:"scope,omitempty"`
}

func (s *server) token(w http.ResponseWriter, r *http.Request) {
	child := tokenAnswer{AccessToken: rand.Text(), TokenType: "Bearer", ExpiresIn: lifetime, Scope: r.PostFormValue("scope")}
	switch r.PostFormValue("grant_type") {
	case grantClientCredentials:
		s.tokens.Add(1)
	case grantTokenExchange:
		// Any subject token will do: whether it is genuine the broker has judged.
		if r.PostFormValue("subject_token") == "" || r.PostFormValue("subject_token_type") == "" {
			refuse(w, http.StatusBadRequest, "invalid_request")
			return
		}
		child.IssuedTokenType = typeAccessToken
		s.exchanges.Add(1)
	default:
		refuse(w, http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	answer(w, http.StatusOK, child)
}

func (s *server) revoke(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("token") == "" {
		refuse(w, http.StatusBadRequest, "invalid_request")
		return
	}
	s.revocations.Add(1)
	w.WriteHeader(http.StatusOK)
}

func (s *server) counts(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]int64{
		"token": s.tokens.Load(), "exchange": s.exchanges.Load(), "revoke": s.revocations.Load(), "lookup": s.lookups.Load(),
	})
}

func refuse(w http.ResponseWriter, status int, code string) {
	answer(w, status, map[string]string{"error": code})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The caller may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(body)
}
