// Package fake is the system of the reference type, as an HTTP server.
package fake

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// ClientID is the only client.
const ClientID = "the-broker"

// Step is one kind of request.
type Step string

// The steps that change something.
const (
	MakeAccount   Step = "make account"
	MakeKey       Step = "make key"
	DeleteKey     Step = "delete key"
	DeleteAccount Step = "delete account"
)

// Fault is what the system does instead of answering. done is true if it has done its work.
type Fault func(w http.ResponseWriter, r *http.Request)

// System has accounts, which have keys. It is safe for concurrent use.
type System struct {
	// URL is where its API is.
	URL string
	// PrivateKey is the client's, in PEM.
	PrivateKey string

	public *ecdsa.PublicKey
	now    func() time.Time

	mu       sync.Mutex
	accounts map[string]*account
	count    int
	minted   int
	jwts     map[string]bool
	before   map[Step]Fault // instead of the work
	after    map[Step]Fault // instead of the answer
	all      Fault
}

type account struct {
	name   string
	scopes []string
	keys   map[string]string // the secret that is sent, by id
	ends   map[string]time.Time
}

// New starts a system, which ends with the test.
func New(t testing.TB, now func() time.Time) *System {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := kit.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s := &System{
		PrivateKey: text.Reveal(), public: &key.PublicKey, now: now,
		accounts: map[string]*account{}, jwts: map[string]bool{}, before: map[Step]Fault{}, after: map[Step]Fault{},
	}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.URL = server.URL + "/v1"
	return s
}

// HangUp is a Fault of which nothing arrives.
func HangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Stall is a Fault that never comes.
func Stall(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Status is a Fault that is a status alone.
func Status(status int) Fault {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// Before has a step do nothing but the fault, nil for what it does else.
func (s *System) Before(step Step, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before[step] = f
}

// After has a step do its work, and then the fault instead of answering.
func (s *System) After(step Step, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after[step] = f
}

// Echo has every request refused with a text that repeats what was sent.
func (s *System) Echo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"error":%q}`, r.URL.String()+r.Header.Get("Authorization")+string(body))
	}
}

// Alive reports whether the secret of a key is good for something.
func (s *System) Alive(accessSecret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		for id, known := range a.keys {
			if known == accessSecret && s.now().Before(a.ends[id]) {
				return true
			}
		}
	}
	return false
}

// Minted is how many keys were ever made, Accounts how many accounts are there, and JWTs
// how many different ones the client has sent.
func (s *System) Minted() int   { return s.counted(func() int { return s.minted }) }
func (s *System) Accounts() int { return s.counted(func() int { return len(s.accounts) }) }
func (s *System) JWTs() int     { return s.counted(func() int { return len(s.jwts) }) }

func (s *System) counted(count func() int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return count()
}

func (s *System) serve(w http.ResponseWriter, r *http.Request) {
	answer, status, f := s.handle(r)
	if f != nil {
		f(w, r)
		return
	}
	w.WriteHeader(status)
	if answer != nil {
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// handle does the work of a request, and says what is to be answered.
func (s *System) handle(r *http.Request) (answer map[string]any, status int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all != nil {
		return nil, 0, s.all
	}
	if !s.knows(r) {
		return nil, http.StatusUnauthorized, nil
	}
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	step := stepOf(r.Method, path)
	if f := s.before[step]; f != nil {
		return nil, 0, f
	}
	answer, status = s.work(step, r, path)
	return answer, status, s.after[step]
}

func stepOf(method string, path []string) Step {
	return map[string]Step{"POST 1": MakeAccount, "POST 3": MakeKey, "DELETE 4": DeleteKey, "DELETE 2": DeleteAccount}[fmt.Sprint(method, " ", len(path))]
}

// knows verifies the client's JWT.
func (s *System) knows(r *http.Request) bool {
	text := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return false
	}
	var claims jwt.Claims
	if token.Claims(s.public, &claims) != nil ||
		claims.ValidateWithLeeway(jwt.Expected{Issuer: ClientID, AnyAudience: jwt.Audience{s.URL}, Time: s.now()}, 0) != nil {
		return false
	}
	s.jwts[text] = true
	return true
}

func (s *System) work(step Step, r *http.Request, path []string) (map[string]any, int) {
	body, _ := io.ReadAll(r.Body)
	if step == MakeAccount {
		return s.makeAccount(body)
	}
	if len(path) == 1 {
		return s.read(path[0], r.URL.Query().Get("name"))
	}
	a := s.accounts[path[1]]
	switch {
	case a == nil:
		return nil, http.StatusNotFound
	case step == MakeKey:
		return s.makeKey(a, body)
	case step == DeleteKey:
		if a.keys[path[3]] == "" {
			return nil, http.StatusNotFound
		}
		delete(a.keys, path[3])
	case step == DeleteAccount:
		if len(a.keys) > 0 {
			return nil, http.StatusConflict
		}
		delete(s.accounts, path[1])
	default:
		return list(a.keys, func(string) bool { return true }), http.StatusOK
	}
	return nil, http.StatusNoContent
}

func (s *System) read(what, name string) (map[string]any, int) {
	switch what {
	case "client":
		return map[string]any{"client": ClientID}, http.StatusOK
	case "accounts":
		return list(s.accounts, func(id string) bool { return s.accounts[id].name == name }), http.StatusOK
	}
	return nil, http.StatusNotFound
}

func list[V any](of map[string]V, which func(id string) bool) map[string]any {
	ids := []string{}
	for id := range of {
		if which(id) {
			ids = append(ids, id)
		}
	}
	return map[string]any{"ids": ids}
}

func (s *System) makeAccount(body []byte) (map[string]any, int) {
	var asked struct {
		Name   string
		Scopes []string
	}
	if json.Unmarshal(body, &asked) != nil || asked.Name == "" || len(asked.Name) > 30 {
		return nil, http.StatusBadRequest
	}
	if bytes.Contains(body, []byte("unknown")) {
		return nil, http.StatusUnprocessableEntity
	}
	s.count++
	id := fmt.Sprintf("acc-%d", s.count)
	s.accounts[id] = &account{name: asked.Name, scopes: asked.Scopes, keys: map[string]string{}, ends: map[string]time.Time{}}
	return map[string]any{"id": id}, http.StatusCreated
}

func (s *System) makeKey(a *account, body []byte) (map[string]any, int) {
	var asked struct{ Seconds int }
	if json.Unmarshal(body, &asked) != nil || asked.Seconds < 300 || asked.Seconds > 3600 {
		return nil, http.StatusBadRequest
	}
	s.minted++
	id, ends := fmt.Sprintf("key-%d", s.minted), s.now().Add(time.Duration(asked.Seconds)*time.Second)
	a.keys[id], a.ends[id] = "access-"+rand.Text(), ends
	return map[string]any{
		"id": id, "access_secret": a.keys[id], "signing_secret": "signing-" + rand.Text(),
		"expires_at": ends.UTC().Format(time.RFC3339), "scopes": a.scopes,
	}, http.StatusCreated
}
