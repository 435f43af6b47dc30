package main

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
)

// The one repository of the only installation, which GitHub describes at length.
const (
	githubOwner      = "bench"
	githubRepository = "api"
	githubID         = 7
)

// serveGitHub is GitHub for one App. Any bearer will do: whether its JWT is right the
// tests have judged.
func (s *server) serveGitHub(mux *http.ServeMux) {
	described := fake.Repository(githubOwner, githubRepository, githubID)
	fixed := func(body string) http.HandlerFunc {
		return bearing(func(w http.ResponseWriter, _ *http.Request) {
			s.lookups.Add(1)
			answer(w, http.StatusOK, json.RawMessage(body))
		})
	}
	mux.HandleFunc("GET /github/app", fixed(`{"id":1,"slug":"bench"}`))
	mux.HandleFunc("GET /github/app/installations/1", fixed(`{"id":1,"account":{"login":"`+githubOwner+`"},"repository_selection":"selected","permissions":{"contents":"write"}}`))
	mux.HandleFunc("GET /github/installation/repositories", fixed(`{"total_count":1,"repositories":[`+string(described)+`]}`))
	mux.HandleFunc("POST /github/app/installations/1/access_tokens", bearing(func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			Permissions json.RawMessage `json:"permissions"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForm)).Decode(&asked); err != nil {
			refuse(w, http.StatusBadRequest, "invalid_request")
			return
		}
		s.tokens.Add(1)
		answer(w, http.StatusCreated, map[string]any{
			"token": "ghs_" + rand.Text() + rand.Text()[:10], "expires_at": time.Now().UTC().Add(time.Hour).Format(time.RFC3339),
			"permissions": asked.Permissions, "repository_selection": "selected", "repositories": []json.RawMessage{described},
		})
	}))
	mux.HandleFunc("DELETE /github/installation/token", bearing(func(w http.ResponseWriter, _ *http.Request) {
		s.revocations.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
}

// bearing lets in whoever brings a bearer token.
func bearing(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
			refuse(w, http.StatusUnauthorized, "invalid_token")
			return
		}
		next(w, r)
	}
}
