package backend

import (
	"context"
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

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// tenantType is a provider type of the tests' own, whose providers have a child of another
// provider for their credential.
type tenantType struct{}

func (tenantType) Name() string                              { return "tenant" }
func (tenantType) Parameters() map[string]string             { return nil }
func (tenantType) Answer() map[string]*framework.FieldSchema { return provider.TokenField() }
func (tenantType) Loan(cfg provider.Config) *provider.Loan   { return provider.LoanOf(cfg.Fields) }
func (tenantType) Fields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"url":   {Type: framework.TypeString, Description: "Where the system is."},
		"token": {Type: framework.TypeString, Description: "The parent, where nothing is borrowed.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	}
	maps.Copy(fields, provider.LoanFields())
	return fields
}

func (tenantType) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	var f struct{ URL string }
	if json.Unmarshal(change.Config.Fields, &f) != nil {
		return nil, fault.New(fault.InvalidRequest, "the fields cannot be read")
	}
	return &provider.Pinned{Destinations: []string{httpclient.Below(f.URL)}, Account: "the tenant"}, nil
}

func (tenantType) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	p := &tenant{deps: deps, own: parent.Secrets["token"]}
	return p, json.Unmarshal(cfg.Fields, &p.fields)
}

type tenant struct {
	fields struct{ URL string }
	own    secret.Text
	deps   provider.Deps
}

func (p *tenant) Traits() provider.Traits {
	scopes := access.Dimensions{access.DimScopes: true}
	return provider.Traits{Class: provider.ClassToken, Askable: scopes, Ceiling: access.Everything()}
}

// ask sends one request with the credential.
func (p *tenant) ask(ctx context.Context, method, path string) (answer map[string]string, err error) {
	if p.deps.Borrowed == nil {
		return p.send(ctx, method, path, p.own)
	}
	err = kit.WithBorrowed(ctx, p.deps, func(token secret.Text) error {
		answer, err = p.send(ctx, method, path, token)
		return err
	})
	return answer, err
}

func (p *tenant) send(ctx context.Context, method, path string, token secret.Text) (map[string]string, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.fields.URL+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	resp, err := p.deps.Client.Do(req)
	switch {
	case err != nil:
		return nil, fault.New(fault.TemporarilyUnavailable, "the system could not be reached").Because(err)
	case resp.Status == http.StatusUnauthorized:
		return nil, fault.New(fault.ParentRefused, "the system refuses the credential")
	case resp.Status != http.StatusOK:
		return nil, fault.New(fault.TemporarilyUnavailable, "the system failed")
	}
	answer := map[string]string{}
	return answer, json.Unmarshal(resp.Body, &answer)
}

func (p *tenant) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	answer, err := p.ask(ctx, http.MethodPost, "/keys")
	if err != nil {
		return nil, err
	}
	return &provider.Child{
		Secrets: provider.OneToken(secret.New(answer["key"])), TokenType: "Bearer", ExpiresAt: p.deps.Now().Add(r.TTL),
		Granted: r.Access, Class: provider.ClassToken, Handle: secret.New(answer["id"]),
	}, nil
}

func (p *tenant) Revoke(ctx context.Context, handle secret.Text) error {
	_, err := p.ask(ctx, http.MethodDelete, "/keys/"+handle.Reveal())
	return err
}

func (p *tenant) Check(ctx context.Context) (provider.Health, error) {
	_, err := p.ask(ctx, http.MethodGet, "/keys")
	return provider.Health{Detail: "the system takes the credential"}, err
}

// tenantSystem is the tenants' system. It takes the tokens that live at the mount's server.
type tenantSystem struct {
	*httptest.Server
	m *mount

	mu       sync.Mutex
	keys     map[string]string // by id
	sessions []string          // as good as a credential
	made     int
	seen     []string // credentials, in order, each once in a row
	echo     bool     // the credential stands in the key
	deaf     bool     // no credential is taken
	down     bool     // it fails
	no       int      // how often one was not taken
}

func newTenantSystem(t testing.TB) *tenantSystem {
	s := &tenantSystem{keys: map[string]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tenantSystem) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 || s.seen[len(s.seen)-1] != token {
		s.seen = append(s.seen, token)
	}
	if s.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if s.deaf || !s.m.server.Active(token) && !slices.Contains(s.sessions, token) {
		s.no++
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch {
	case r.URL.Path == "/login":
		s.sessions = append(s.sessions, fmt.Sprintf("session-%d-of-the-tenant", len(s.sessions)))
		_ = json.NewEncoder(w).Encode(map[string]string{"session": s.sessions[len(s.sessions)-1]})
	case r.Method == http.MethodPost:
		s.made++
		id, key := fmt.Sprintf("id-%d", s.made), fmt.Sprintf("key-%d-at-%s", s.made, s.Listener.Addr())
		if s.echo {
			key += "." + token
		}
		s.keys[id] = key
		_ = json.NewEncoder(w).Encode(map[string]string{"id": id, "key": key})
	case r.Method == http.MethodDelete:
		delete(s.keys, strings.TrimPrefix(r.URL.Path, "/keys/"))
		_, _ = w.Write([]byte("{}"))
	default:
		_, _ = w.Write([]byte("{}"))
	}
}

func (s *tenantSystem) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// alive is how many keys live there.
func (s *tenantSystem) alive() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

// last is the credential that was sent last.
func (s *tenantSystem) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 {
		return ""
	}
	return s.seen[len(s.seen)-1]
}

// newTenantMount is a mount with the provider oauth2/p, the tenant/x whose credential is a
// token of it, and the role r of that one.
func newTenantMount(t testing.TB) (*mount, *tenantSystem) {
	t.Helper()
	s := newTenantSystem(t) // which is there until the mount has ended
	m := newEmptyMount(t, setup{types: []provider.Type{tenantType{}}})
	s.m = m
	m.must(m.write("providers/oauth2/p", m.providerFields(nil)))
	m.must(m.write("providers/tenant/x", s.fields(nil)))
	m.must(m.write("roles/r", map[string]any{"provider": "tenant/x", "scopes": "any", "ttl": "10m", "max_ttl": "1h"}))
	return m, s
}

func (s *tenantSystem) fields(different map[string]any) map[string]any {
	fields := map[string]any{"url": s.URL, "token_provider": "oauth2/p", "token_request": map[string]any{"scopes": []string{"read"}}, "verify_connection": false}
	maps.Copy(fields, different)
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	return fields
}

// own are the ids of the broker's own grants.
func (m *mount) own() []string { return m.keys("grants/entity/broker", nil) }

// longLeases has the role's children outlive what is borrowed to make them.
func (m *mount) longLeases() {
	m.t.Helper()
	m.must(m.write("roles/r", map[string]any{"ttl": "20h", "max_ttl": "20h"}))
}

// settled waits for the errands of the broker's own that are under way.
func (m *mount) settled() {
	m.t.Helper()
	for {
		m.b.lender.mu.Lock()
		var waiting *errand
		for _, o := range m.b.lender.loans {
			if o.errand != nil {
				waiting = o.errand
			}
		}
		m.b.lender.mu.Unlock()
		if waiting == nil {
			return
		}
		select {
		case <-waiting.done:
		case <-time.After(promptly):
			m.t.Fatal("a token of the broker's own never comes")
		}
	}
}
