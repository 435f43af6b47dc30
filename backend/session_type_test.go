package backend

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// sessionType is a provider type of the tests' own: its children are, as an AWS session
// is, two secrets and a name that is none. What its system says of a child's class, lever
// and further parts is believed, so that tests can have any.
type sessionType struct{}

func (sessionType) Name() string { return "session" }
func (sessionType) Parameters() map[string]string {
	return map[string]string{"class": "The class.", "least": "The least life.", "most": "The longest life."}
}

func (sessionType) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"url":      {Type: framework.TypeString, Description: "Where the system is."},
		"root_key": {Type: framework.TypeString, Description: "The parent.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		"class":    {Type: framework.TypeString, Description: "The class of most children."},
	}
}

func (sessionType) Answer() map[string]*framework.FieldSchema {
	hidden := &framework.DisplayAttributes{Sensitive: true}
	return map[string]*framework.FieldSchema{
		"access_key_id":     {Type: framework.TypeString, Description: "The key's name."},
		"secret_access_key": {Type: framework.TypeString, Description: "The key.", DisplayAttrs: hidden},
		"session_token":     {Type: framework.TypeString, Description: "The session's token.", DisplayAttrs: hidden},
	}
}

type sessionFields struct {
	URL   string         `json:"url"`
	Class provider.Class `json:"class"`
}

func (sessionType) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	var f sessionFields
	if err := json.Unmarshal(change.Config.Fields, &f); err != nil {
		return nil, fault.New(fault.InvalidRequest, "the fields cannot be read: write them anew")
	}
	return &provider.Pinned{Destinations: []string{httpclient.Below(f.URL)}, Account: f.URL}, nil
}

func (sessionType) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	p := &sessionProvider{parent: parent, deps: deps}
	return p, json.Unmarshal(cfg.Fields, &p.fields)
}

type sessionProvider struct {
	fields sessionFields
	parent provider.Parent
	deps   provider.Deps
}

func (p *sessionProvider) Traits() provider.Traits {
	all := access.Dimensions{access.DimScopes: true}
	class := p.fields.Class
	if class == "" {
		class = provider.ClassToken
	}
	return provider.Traits{
		Class: class, Modes: []provider.Mode{provider.ModeMint, provider.ModeExchange}, Askable: all, Checkable: all, Ceiling: access.Everything(),
		Hints: map[access.Dimension]string{},
	}
}

func (p *sessionProvider) TraitsFor(_ provider.Mode, parameters map[string]string) provider.Traits {
	traits := p.Traits()
	if class := parameters["class"]; class != "" {
		traits.Class = provider.Class(class)
	}
	traits.Life.Least, _ = time.ParseDuration(parameters["least"])
	traits.Life.Most, _ = time.ParseDuration(parameters["most"])
	return traits
}

func (p *sessionProvider) CheckParameters(_ provider.Mode, parameters map[string]string) error {
	for name := range parameters {
		if !slices.Contains([]string{"class", "least", "most"}, name) {
			return fault.New(fault.TemporarilyUnavailable, "it was promised known parameters only")
		}
	}
	return nil
}

func (p *sessionProvider) send(ctx context.Context, method, path string, body any) (*httpclient.Response, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, p.fields.URL+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.parent.Secrets["root_key"].Reveal())
	resp, err := p.deps.Client.Do(req)
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "the system could not be reached: try again").Because(err)
	}
	return resp, nil
}

func (p *sessionProvider) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	resp, err := p.send(ctx, http.MethodPost, "/sessions", map[string]any{"seconds": r.TTL.Seconds(), "class": r.Parameters["class"]})
	if err != nil {
		return nil, err
	}
	if resp.Status == http.StatusTooManyRequests {
		return nil, fault.New(fault.TemporarilyUnavailable, "the system has too much to do: try again")
	}
	answer := map[string]any{}
	if err := json.Unmarshal(resp.Body, &answer); err != nil {
		// As no type should.
		return nil, fault.New(fault.ProviderViolation, "the system answered: %s", resp.Body).Because(errors.Join(provider.ErrAnswerLost, errors.New(string(resp.Body))))
	}
	take := func(name string) string {
		text, _ := answer[name].(string)
		delete(answer, name)
		return text
	}
	c := &provider.Child{
		Secrets: map[string]secret.Text{}, Extra: map[string]any{}, ExpiresAt: p.deps.Now().Add(time.Hour), Granted: r.Access,
		Confirmed: access.Dimensions{access.DimScopes: true},
		Class:     provider.Class(take("class")), Lever: take("lever"), Handle: secret.New(take("handle")), TokenType: take("token_type"),
		IssuedTokenType: take("issued_token_type"), Issuer: take("issuer"),
	}
	if unverified := take("unverified"); unverified != "" {
		c.Unverified = []string{unverified}
	}
	if seconds, ok := answer["seconds"].(float64); ok {
		c.ExpiresAt = p.deps.Now().Add(time.Duration(seconds) * time.Second)
	}
	if scope := take("scope"); scope != "" {
		c.Granted.Scopes = access.Exactly(strings.Fields(scope)...)
	}
	delete(answer, "seconds")
	for name, value := range answer {
		if text, isText := value.(string); isText && strings.HasPrefix(name, "se") {
			c.Secrets[name] = secret.New(text)
			continue
		}
		c.Extra[name] = value
	}
	return c, nil
}

func (p *sessionProvider) Exchange(ctx context.Context, r provider.Request) (*provider.Child, error) {
	return p.Mint(ctx, r)
}

func (p *sessionProvider) Revoke(ctx context.Context, handle secret.Text) error {
	resp, err := p.send(ctx, http.MethodDelete, "/"+handle.Reveal(), nil)
	if err == nil && resp.Status != http.StatusNoContent {
		err = fault.New(fault.TemporarilyUnavailable, "the system did not revoke it: %s", resp.Body)
	}
	return err
}

func (p *sessionProvider) Check(ctx context.Context) (provider.Health, error) {
	resp, err := p.send(ctx, http.MethodPost, "/check", nil)
	if err != nil {
		return provider.Health{}, err
	}
	if resp.Status != http.StatusOK {
		return provider.Health{}, fault.New(fault.TemporarilyUnavailable, "the system answered: %s", resp.Body)
	}
	health := provider.Health{Detail: string(resp.Body), Grants: []string{"scope:read", string(resp.Body)}}
	if token := resp.Header.Get("X-Minted"); token != "" {
		health.Children = []*provider.Child{{
			Secrets: map[string]secret.Text{"session_token": secret.New(token)}, Class: provider.ClassToken, Handle: secret.New("sessions/checked"),
		}}
	}
	return health, nil
}

// sessions is the system. Handles name a session, or a lever with all that hang on it.
type sessions struct {
	*httptest.Server
	m *mount

	mu      sync.Mutex
	count   int
	live    map[string]string // session to lever
	asked   []map[string]any
	killed  []string
	change  func(n int, answer map[string]any)
	refuses bool
	busy    bool
	checks  string // what a check mints and is answered with, if anything
}

const rootKey = "ROOT-canary-key/of+the=system"

// newSessionMount is a mount with the provider session/s on a system of its own, and the
// role r.
func newSessionMount(t *testing.T, role map[string]any) (*mount, *sessions) {
	t.Helper()
	m := newEmptyMount(t, setup{types: []provider.Type{sessionType{}}})
	s := &sessions{m: m, live: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	m.hide(rootKey)
	m.must(m.write("providers/session/s", map[string]any{"url": s.URL, "root_key": rootKey}))
	fields := map[string]any{"provider": "session/s", "scopes": "read,write", "ttl": "30m", "max_ttl": "1h"}
	maps.Copy(fields, role)
	m.must(m.write("roles/r", fields))
	return m, s
}

func (s *sessions) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+rootKey {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch {
	case s.busy:
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case s.checks != "" && r.URL.Path == "/check":
		w.Header().Set("X-Minted", s.checks)
		_, _ = fmt.Fprint(w, base64.StdEncoding.EncodeToString([]byte("made "+s.checks)))
		return
	case s.refuses:
		w.WriteHeader(http.StatusInternalServerError)
		fallthrough
	case r.URL.Path == "/check":
		_, _ = fmt.Fprintf(w, "%s by %q", r.URL.Path, r.Header.Get("Authorization"))
		return
	}
	if r.Method == http.MethodDelete {
		s.kill(strings.TrimPrefix(r.URL.Path, "/"))
		w.WriteHeader(http.StatusNoContent)
		return
	}
	raw, _ := io.ReadAll(r.Body)
	asked := map[string]any{}
	_ = json.Unmarshal(raw, &asked)
	s.asked = append(s.asked, asked)
	s.count++
	id := fmt.Sprintf("session-%d", s.count)
	answer := map[string]any{
		"access_key_id": fmt.Sprintf("KEY%d", s.count), "class": "token", "handle": "sessions/" + id,
		"secret_access_key": s.m.hide(fmt.Sprintf("secret-access-key-%08d", s.count)),
		"session_token":     s.m.hide(fmt.Sprintf("session-token-%08d", s.count)),
		"seconds":           asked["seconds"],
	}
	if class, _ := asked["class"].(string); class != "" {
		answer["class"] = class
	}
	if answer["class"] == "expiry" {
		delete(answer, "handle")
	}
	if s.change != nil {
		s.change(s.count, answer)
	}
	lever, _ := answer["lever"].(string)
	s.live[id] = lever
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *sessions) kill(handle string) {
	s.killed = append(s.killed, handle)
	delete(s.live, strings.TrimPrefix(handle, "sessions/"))
	for id, lever := range s.live {
		if lever != "" && handle == "levers/"+lever {
			delete(s.live, id)
		}
	}
}

// changing has the system answer otherwise from now on.
func (s *sessions) changing(change func(n int, answer map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change = change
}

func (s *sessions) alive() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mapKeys(s.live)
}

func mapKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// session asks for a child of the role r.
func (m *mount) session(c call) (*lease, error) {
	m.t.Helper()
	c.op = "update"
	if c.path == "" {
		c.path = "creds/r"
	}
	resp, err := m.do(c)
	if err != nil {
		return nil, err
	}
	l := &lease{secret: resp.Secret, data: resp.Data}
	l.token, _ = resp.Data["session_token"].(string)
	l.grantID, _ = resp.Data["grant_id"].(string)
	require.NotEmpty(m.t, l.grantID)
	return l, nil
}

func (m *mount) mustSession(c call) *lease {
	m.t.Helper()
	l, err := m.session(c)
	require.NoError(m.t, err)
	return l
}
