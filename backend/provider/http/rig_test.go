package httpapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
)

// rig is a system with accounts and keys of them, which dies, echoes and hangs up as a test
// wants it. It has pages of two.
type rig struct {
	*httptest.Server

	mu       sync.Mutex
	accounts map[string]string // names by id
	keys     map[string]string // accounts by key
	made     int
	asked    []string
	echo     bool
	stall    chan struct{}
	guard    func(r *http.Request) bool // who is known
	hangUp   string                     // the call that is done and not answered
	instead  map[string]func(w http.ResponseWriter, r *http.Request, body string)
}

const (
	rigToken = "parent-0123456789abcdef"
	rigUser  = "broker@acme.example"
)

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{accounts: map[string]string{}, keys: map[string]string{}, instead: map[string]func(http.ResponseWriter, *http.Request, string){}}
	r.guard = func(req *http.Request) bool { return req.Header.Get("Authorization") == "Bearer "+rigToken }
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	t.Cleanup(func() {
		if r.stall != nil {
			close(r.stall)
		}
	})
	return r
}

func (r *rig) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	raw, _ := io.ReadAll(req.Body)
	body := string(raw)
	r.mu.Lock()
	segments := strings.Split(strings.Trim(req.URL.EscapedPath(), "/"), "/")
	call := req.Method + " " + segments[len(segments)-1]
	if len(segments) == 4 && segments[3] != "keys" {
		call = req.Method + " one"
	}
	r.asked = append(r.asked, req.Method+" "+req.URL.RequestURI()+" "+body)
	if r.echo {
		r.mu.Unlock()
		http.Error(w, fmt.Sprint(req.Header, req.URL, body), http.StatusBadRequest)
		return
	}
	if !r.guard(req) {
		r.mu.Unlock()
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if instead := r.instead[call]; instead != nil {
		r.mu.Unlock()
		instead(w, req, body)
		return
	}
	status, answer := r.do(call, segments, req, body)
	stall, hangUp := r.stall, r.hangUp == call
	r.mu.Unlock()
	if stall != nil && call == "POST keys" {
		select {
		case <-stall:
		case <-req.Context().Done():
		}
	}
	if hangUp {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
	if answer != nil {
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func (r *rig) do(call string, segments []string, req *http.Request, body string) (int, any) {
	var sent map[string]any
	_ = json.Unmarshal([]byte(body), &sent)
	switch call {
	case "GET me":
		return 200, map[string]any{"name": rigUser}
	case "POST accounts":
		r.made++
		id := fmt.Sprint("a", r.made)
		r.accounts[id], _ = sent["name"].(string)
		return 201, map[string]any{"id": id}
	case "GET accounts":
		var items []any
		for id, name := range r.accounts {
			items = append(items, map[string]any{"name": name, "id": id})
		}
		if req.URL.Query().Get("page") != "1" {
			items = []any{}
		}
		return 200, map[string]any{"items": items}
	case "POST keys":
		key := fmt.Sprintf("key-%d-0123456789abcdef-0123456789", len(r.keys)+1)
		r.keys[key] = segments[2]
		return 200, map[string]any{"key": key, "scopes": sent["scopes"], "seconds": sent["seconds"]}
	case "DELETE one":
		id := segments[len(segments)-1]
		if _, known := r.accounts[id]; known {
			delete(r.accounts, id)
			for key, of := range r.keys {
				if of == id {
					r.keys[key] = ""
				}
			}
			return 204, nil
		}
		return 404, map[string]any{"message": "no such account"}
	}
	return 501, nil
}

func (r *rig) alive(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[key] != ""
}

func (r *rig) minted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.keys)
}

// rigDefinition is of two steps: the account is what a child hangs on.
const rigDefinition = `{"class": "token", "life": {"least": "5m", "most": "24h"},
	"access": {"scopes": {"ask": true, "check": true, "required": true, "pattern": "[a-z:]+"}},
	"parent": {"headers": {"Authorization": "Bearer {{token}}"}},
	"settings": {"tenant": {"about": "The tenant.", "default": "acme"}},
	"mint": [
		{"method": "POST", "path": "t/{{settings.tenant}}/accounts", "json": {"name": "{{name}}"}, "success": {"status": [201]}, "take": {"account": "/id"},
		 "undo": {"method": "DELETE", "path": "t/{{settings.tenant}}/accounts/{{taken.account}}", "success": {"status": [204]}, "gone": {"status": [404]}},
		 "find": {"method": "GET", "path": "t/{{settings.tenant}}/accounts", "page": {"query": "page"}, "items": "/items", "where": [{"at": "/name", "is": "{{name}}"}], "take": {"account": "/id"}}},
		{"method": "POST", "path": "t/{{settings.tenant}}/{{taken.account}}/keys", "json": {"scopes": "{{scopes}}", "seconds": "{{ttl | seconds}}"}, "take": {"key": "/key", "scopes": "/scopes", "ends": "/seconds"}}
	],
	"child": {"secrets": {"access_token": "{{taken.key}}"}, "shown": {"account": "{{taken.account}}"}, "expires": {"from": "ends", "as": "seconds"}, "granted": {"scopes": {"from": "scopes", "as": "list"}}},
	"check": {"method": "GET", "path": "me"},
	"refusals": [{"status": [422], "code": "invalid_scope", "says": "there is no such scope"}]}`

// world is a definition, opened on a rig.
type world struct {
	*rig
	provider.Provider
	store *providertest.ParentStore
	now   time.Time
}

func (r *rig) setup(definition string, fields map[string]any, secrets map[string]string) providertest.Setup {
	all := map[string]any{"base_url": r.URL, "definition": json.RawMessage(definition)}
	for name, value := range fields {
		all[name] = value
	}
	return providertest.Setup{Type: Type{}, Fields: all, Secrets: secrets}
}

func newWorld(t *testing.T, definition string) *world {
	t.Helper()
	w := &world{rig: newRig(t), now: time.Date(2026, 11, 28, 10, 30, 0, 0, time.UTC)}
	setup := w.setup(definition, nil, map[string]string{"token": rigToken})
	setup.Now = func() time.Time { return w.now }
	w.Provider, w.store = setup.Open(t)
	return w
}

func rigRequest() provider.Request {
	return provider.Request{Access: access.Access{Scopes: access.Exactly("read")}, TTL: 10 * time.Minute, GrantID: "grant-of-somebody"}
}

// left is how many accounts there are.
func (r *rig) left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.accounts)
}

// requests are those that came, in their order.
func (r *rig) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

func (r *rig) with(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (w *world) subject() providertest.Subject {
	return providertest.Subject{
		Provider: w.Provider, Type: Type{}, Request: rigRequest(), Store: w.store,
		Alive: providertest.Token(w.alive), Minted: w.minted,
		Echo:  func() { w.with(func() { w.echo = true }) },
		Stall: func() { w.with(func() { w.stall = make(chan struct{}) }) },
	}
}

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Subject { return newWorld(t, rigDefinition).subject() })
}

func TestAMintSaysWhatTheSystemGranted(t *testing.T) {
	w := newWorld(t, rigDefinition)
	child, err := w.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	require.Equal(t, w.now.Add(10*time.Minute), child.ExpiresAt)
	require.Equal(t, []string{"scope:read"}, child.Granted.Flat())
	require.Equal(t, map[string]any{"account": "a1"}, child.Extra)
	require.Equal(t, "Bearer", child.TokenType)
}
