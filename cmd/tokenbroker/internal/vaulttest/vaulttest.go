// Package vaulttest is a Vault with a mount of the engine, for tests: an HTTP server that
// answers as these do, with leases that end.
package vaulttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Token is the one that the server takes.
const Token = "hvs.the-vault-token"

// Role is what a role answers with.
type Role struct {
	Provider string
	Fields   map[string]any // the parts, and what else stands in the answer
	TTL      time.Duration
	Max      time.Duration // of a lease, renewals included; 0: any
	Fixed    bool          // the lease can't be renewed
	Wrapped  bool
	Refusal  string // instead of an answer, with Status
	Status   int
}

// Request is one that came.
type Request struct {
	Method, Path, Namespace, Token string
	Body                           map[string]any
}

type lease struct {
	role       string
	began, end time.Time
	revoked    bool
}

// Server is the Vault.
type Server struct {
	URL string

	mu       sync.Mutex
	roles    map[string]Role
	leases   map[string]*lease
	wrapped  map[string]map[string]any
	requests []Request
	sealed   bool
	login    time.Duration // what is left of the token's life; 0: it does not end
	renews   bool          // and revokes nothing, as by Vault's default policy
	issued   int
}

// Start runs one until the test has ended.
func Start(t *testing.T) *Server {
	t.Helper()
	s := &Server{roles: map[string]Role{}, leases: map[string]*lease{}, wrapped: map[string]map[string]any{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// SetRole adds a role, or changes one.
func (s *Server) SetRole(name string, r Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.TTL == 0 {
		r.TTL = time.Hour
	}
	s.roles[name] = r
}

// Seal seals the server, or unseals it.
func (s *Server) Seal(sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = sealed
}

// SetLogin says how long the token lives.
func (s *Server) SetLogin(left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.login = left
}

// OnlyRenew takes away what revokes leases, as in Vault's default policy.
func (s *Server) OnlyRenew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renews = true
}

// KillTokens ends the tokens of all leases, as an operator does.
func (s *Server) KillTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		l.end = time.Time{}
	}
}

// Live are the leases that have neither ended nor been revoked, by id.
func (s *Server) Live() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id, l := range s.leases {
		if !l.revoked && time.Now().Before(l.end) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Revoked is how many leases were revoked.
func (s *Server) Revoked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.leases {
		if l.revoked {
			n++
		}
	}
	return n
}

// Issued is how many children were handed out.
func (s *Server) Issued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}

// Requests are those whose path begins or ends with a text.
func (s *Server) Requests(text string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Request
	for _, r := range s.requests {
		if strings.HasPrefix(r.Path, text) || strings.HasSuffix(r.Path, text) {
			found = append(found, r)
		}
	}
	return found
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	request := Request{Method: r.Method, Path: strings.TrimPrefix(r.URL.Path, "/v1/"), Namespace: r.Header.Get("X-Vault-Namespace"), Token: r.Header.Get("X-Vault-Token")}
	_ = json.NewDecoder(r.Body).Decode(&request.Body)
	s.requests = append(s.requests, request)
	status, answer := s.answer(request, r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if answer != nil {
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func failed(status int, texts ...string) (int, any) {
	return status, map[string]any{"errors": append([]string{}, texts...)}
}

func (s *Server) answer(r Request, raw *http.Request) (int, any) {
	name, isCreds := strings.CutPrefix(r.Path, "broker/creds/")
	switch {
	case s.sealed:
		return failed(http.StatusServiceUnavailable, "Vault is sealed")
	case strings.HasPrefix(r.Path, "broker/.well-known/"):
		return s.published(r.Path)
	case r.Path == "sys/wrapping/unwrap":
		return s.unwrap(r)
	case r.Token != Token:
		return failed(http.StatusForbidden, "permission denied", "invalid token")
	case r.Path == "broker/creds" && raw.URL.Query().Get("list") == "true":
		return s.list()
	case isCreds:
		return s.creds(name)
	case r.Path == "auth/token/lookup-self":
		return http.StatusOK, data(map[string]any{"ttl": int(s.login / time.Second), "renewable": true})
	case r.Path == "sys/leases/renew":
		return s.renew(r)
	case strings.HasPrefix(r.Path, "sys/leases/revoke/") && s.renews:
		return failed(http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
	case strings.HasPrefix(r.Path, "sys/leases/revoke/"):
		id := strings.TrimPrefix(r.Path, "sys/leases/revoke/")
		if l := s.leases[id]; l != nil {
			l.revoked = true
		}
		return http.StatusNoContent, nil
	case strings.HasPrefix(r.Path, "broker/revoke/grant/"):
		if strings.HasSuffix(r.Path, "/unknown") {
			return http.StatusOK, data(map[string]any{"revoked": 0, "pending": 0, "unknown": true})
		}
		return http.StatusOK, data(map[string]any{"revoked": 1, "pending": 0})
	case strings.HasSuffix(r.Path, "/explain"):
		role := strings.TrimSuffix(strings.TrimPrefix(r.Path, "broker/roles/"), "/explain")
		refusal := s.roles[role].Refusal
		said := map[string]any{"allowed": refusal == "", "provider": s.roles[role].Provider}
		if refusal != "" {
			said["reasons"] = []string{refusal}
		}
		return http.StatusOK, data(said)
	}
	return failed(http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", r.Path))
}

func data(d map[string]any) map[string]any { return map[string]any{"data": d} }

func (s *Server) published(path string) (int, any) {
	if strings.HasSuffix(path, "jwks.json") {
		return http.StatusOK, map[string]any{"keys": []any{map[string]any{"kty": "EC", "kid": "k1"}}}
	}
	return http.StatusOK, map[string]any{"issuer": "https://issuer.example/v1/broker", "jwks_uri": "https://issuer.example/v1/broker/.well-known/jwks.json"}
}

// parts are the fields that a list names: those that hold a token.
func parts(r Role) []string {
	var names []string
	for name := range r.Fields {
		if name != "username" && name != "token_type" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *Server) list() (int, any) {
	info := map[string]any{}
	for name, r := range s.roles {
		if r.Status == 0 {
			info[name] = map[string]any{"provider": r.Provider, "mode": "mint", "revocation": "token", "fields": parts(r), "brings": []string{}}
		}
	}
	return http.StatusOK, data(map[string]any{"keys": slices.Sorted(maps.Keys(info)), "key_info": info})
}

func (s *Server) creds(name string) (int, any) {
	role, ok := s.roles[name]
	switch {
	case !ok:
		return failed(http.StatusNotFound)
	case role.Status != 0:
		return failed(role.Status, role.Refusal)
	}
	s.issued++
	id := fmt.Sprintf("broker/creds/%s/lease%d", name, s.issued)
	now := time.Now()
	s.leases[id] = &lease{role: name, began: now, end: now.Add(role.TTL)}
	fields := map[string]any{
		"provider": role.Provider, "grant_id": fmt.Sprintf("none.%032d", s.issued), "revocation": "token", "self_contained": false,
		"expires_at": now.Add(24 * time.Hour).UTC().Format(time.RFC3339), "lease_expires_at": now.Add(role.TTL + time.Second).UTC().Format(time.RFC3339),
		"granted": []string{"scope:x"},
	}
	for field, value := range role.Fields {
		if text, ok := value.(string); ok { // each child has parts of its own
			value = strings.ReplaceAll(text, "%", fmt.Sprint(s.issued))
		}
		fields[field] = value
	}
	answer := map[string]any{"lease_id": id, "renewable": !role.Fixed, "lease_duration": int(role.TTL / time.Second), "data": fields}
	if role.Wrapped {
		token := fmt.Sprintf("hvs.wrapping%d", s.issued)
		s.wrapped[token] = answer
		return http.StatusOK, map[string]any{"wrap_info": map[string]any{"token": token, "ttl": 300, "creation_time": now.UTC().Format(time.RFC3339)}}
	}
	return http.StatusOK, answer
}

func (s *Server) unwrap(r Request) (int, any) {
	token := r.Token
	if given, ok := r.Body["token"].(string); ok {
		token = given
	}
	answer, ok := s.wrapped[token]
	if !ok {
		return failed(http.StatusBadRequest, "wrapping token is not valid or does not exist")
	}
	delete(s.wrapped, token)
	return http.StatusOK, answer
}

func (s *Server) renew(r Request) (int, any) {
	id, _ := r.Body["lease_id"].(string)
	l := s.leases[id]
	switch {
	case l == nil || l.revoked:
		return failed(http.StatusBadRequest, "lease not found")
	case time.Now().After(l.end):
		return failed(http.StatusBadRequest, "failed to renew entry: access_denied: the token of this lease is dead: read creds again")
	}
	role := s.roles[l.role]
	end := time.Now().Add(role.TTL)
	if wanted, ok := r.Body["increment"].(float64); ok && wanted > 0 && !role.Fixed {
		end = time.Now().Add(time.Duration(wanted) * time.Second)
	}
	if last := l.began.Add(role.Max); role.Max > 0 && end.After(last) {
		end = last
	}
	l.end = end
	return http.StatusOK, map[string]any{"lease_id": id, "renewable": true, "lease_duration": int(time.Until(end).Seconds() + 0.5)}
}
