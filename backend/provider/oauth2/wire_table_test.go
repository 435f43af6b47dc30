package oauth2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// This file reads the tables testdata/wire/oauth2/*.yaml: what servers have been seen
// to answer, and what becomes of it. testdata/wire/README.md describes the format. It
// is strict: a key that is not known here fails the test, because a misspelled
// expectation would otherwise expect nothing.

// wireRow is one row of a table.
type wireRow struct {
	Name     string         `yaml:"name"`
	Why      string         `yaml:"why"`
	Provider map[string]any `yaml:"provider"`
	Server   wireServer     `yaml:"server"`
	Request  wireRequest    `yaml:"request"`
	Answers  []wireAnswer   `yaml:"answers"`
	Want     wireWant       `yaml:"want"`
}

// wireServer is what the server behind the answers is like, where that counts.
type wireServer struct {
	JWT                  bool `yaml:"jwt"`
	RotateRefresh        bool `yaml:"rotate_refresh"`
	WithoutRevocation    bool `yaml:"without_revocation"`
	WithoutIntrospection bool `yaml:"without_introspection"`
	NeedsScope           bool `yaml:"needs_scope"`
}

// wireRequest is what is done: a mint where nothing is said.
type wireRequest struct {
	Do        string   `yaml:"do"`
	Scopes    []string `yaml:"scopes"`
	Audiences []string `yaml:"audiences"`
	Resources []string `yaml:"resources"`
	Repeat    int      `yaml:"repeat"`
	Others    int      `yaml:"others"`
}

// wireAnswer is one answer of an endpoint. Answers of one endpoint are given in their
// order, and the last one stays; an endpoint without any answers truly.
type wireAnswer struct {
	To      string            `yaml:"to"`
	Status  int               `yaml:"status"`
	Headers map[string]string `yaml:"headers"`
	Body    any               `yaml:"body"` // text as it is, anything else as JSON
	True    bool              `yaml:"true"` // the server's own answer
}

// wireWant is what becomes of it: a child, or a fault with a code.
type wireWant struct {
	Token     string         `yaml:"token"`
	TokenType string         `yaml:"token_type"`
	Scopes    []string       `yaml:"scopes"`
	Excess    bool           `yaml:"excess"`
	Expires   *int           `yaml:"expires"` // seconds from the request; 0: nobody knows
	Extra     map[string]any `yaml:"extra"`
	Class     string         `yaml:"class"`

	Code     string   `yaml:"code"`
	Words    []string `yaml:"words"`
	NotWords []string `yaml:"not_words"`
	Final    bool     `yaml:"final"` // a revocation that nobody tries again
	Lever    bool     `yaml:"lever"` // more than the child may die with it

	Killed  []string       `yaml:"killed"`  // what the revocation endpoint was sent
	Parent  string         `yaml:"parent"`  // the refresh token that is stored in the end
	Refused *bool          `yaml:"refused"` // whether the parent is on record as refused
	Asked   map[string]int `yaml:"asked"`   // how often an endpoint was asked
	Detail  []string       `yaml:"detail"`  // words of a check's or rotation's health
	Grants  []string       `yaml:"grants"`  // what a check says the parent can grant
}

// wireEndpoints are the names of answers[].to.
var wireEndpoints = map[string]authserver.Endpoint{
	"token": authserver.EndpointToken, "revocation": authserver.EndpointRevoke, "introspection": authserver.EndpointIntrospect,
	"jwks": authserver.EndpointJWKS, "discovery": authserver.EndpointMetadata, "openid": authserver.EndpointOIDC,
}

// TestWireTables runs every row of every table.
func TestWireTables(t *testing.T) {
	paths, err := filepath.Glob("../../../testdata/wire/oauth2/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		rows, err := readWireTable(path)
		require.NoError(t, err, path)
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			for _, row := range rows {
				t.Run(row.Name, func(t *testing.T) { row.run(t) })
			}
		})
	}
}

func readWireTable(path string) ([]wireRow, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rows []wireRow
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&rows); err != nil {
		return nil, err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows the document: %w", err)
	}
	seen := map[string]bool{}
	for i, row := range rows {
		if row.Name == "" || row.Why == "" || seen[row.Name] {
			return nil, fmt.Errorf("row %d: a name that is missing or not its own, or no reason why: %q", i+1, row.Name)
		}
		seen[row.Name] = true
		for _, a := range row.Answers {
			if wireEndpoints[a.To] == "" {
				return nil, fmt.Errorf("row %q: there is no endpoint %q", row.Name, a.To)
			}
		}
	}
	return rows, nil
}

// wireRun is one row under way.
type wireRun struct {
	*wireRow
	server *authserver.Server

	mu     sync.Mutex
	killed []string
}

// wireNow is when everything in the tables happens.
var wireNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (row wireRow) run(t *testing.T) {
	now := func() time.Time { return wireNow }
	o := authserver.Options{
		Now: now, JWT: row.Server.JWT, RotateRefresh: row.Server.RotateRefresh,
		WithoutRevocation: row.Server.WithoutRevocation, WithoutIntrospection: row.Server.WithoutIntrospection,
		NeedsScope: row.Server.NeedsScope,
	}
	r := &wireRun{wireRow: &row, server: authserver.New(t, o, registered())}
	r.script()
	fields, _ := r.filled(row.Provider).(map[string]any)
	setup := setupFor(r.server, fields)
	setup.Now = now
	if row.Request.Do == "configure" {
		_, err := setup.Configure(context.Background())
		r.judgeError(t, err)
		r.judgeTraces(t, nil)
		return
	}
	p, store := setup.Open(t)
	f := &fixture{t: t, server: r.server, setup: setup, Provider: p.(*Provider), store: store}
	for range max(row.Request.Repeat, 1) - 1 {
		_, _, _ = r.do(f)
	}
	for range row.Request.Others {
		_, err := f.Mint(context.Background(), provider.Request{Access: r.asked(), TTL: time.Hour})
		require.NoError(t, err)
	}
	child, health, err := r.do(f)
	f.clean(err)
	r.judgeError(t, err)
	r.killDoomed(f, child, health, err)
	if err == nil && child != nil {
		r.judgeChild(t, f, child)
	}
	r.judgeHealth(t, health)
	r.judgeTraces(t, store)
}

// script sets the row's answers up at the server, and notes what is to be killed.
func (r *wireRun) script() {
	byEndpoint := map[authserver.Endpoint][]authserver.Fault{authserver.EndpointRevoke: nil}
	for _, a := range r.Answers {
		e := wireEndpoints[a.To]
		byEndpoint[e] = append(byEndpoint[e], r.fault(a))
	}
	for e, faults := range byEndpoint {
		given := authserver.InTurn(faults...)
		if e == authserver.EndpointRevoke {
			given = authserver.If(func(form url.Values) bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.killed = append(r.killed, form.Get("token"))
				return true
			}, given)
		}
		r.server.Break(e, given)
	}
}

func (r *wireRun) fault(a wireAnswer) authserver.Fault {
	if a.True {
		return nil
	}
	text, plain := r.filled(a.Body).(string)
	if !plain && a.Body != nil {
		text = marshal(r.filled(a.Body))
	}
	kind := "application/json"
	status := a.Status
	if status == 0 {
		status = http.StatusOK
	}
	if given, ok := a.Headers["Content-Type"]; ok {
		kind = given
	}
	f := authserver.Answer(status, kind, text)
	for name, value := range a.Headers {
		f = authserver.Header(name, r.filled(value).(string), f)
	}
	return f
}

// filled puts the server's URL, which only a running test knows, in place of <issuer>.
func (r *wireRun) filled(v any) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "<issuer>", r.server.URL)
	case map[string]any:
		filled := map[string]any{}
		for name, value := range v {
			filled[name] = r.filled(value)
		}
		return filled
	case []any:
		var filled []any
		for _, value := range v {
			filled = append(filled, r.filled(value))
		}
		return filled
	}
	return v
}

func (r *wireRun) asked() access.Access {
	return access.Access{
		Scopes: access.Exactly(r.Request.Scopes...), Audiences: access.Exactly(r.Request.Audiences...), Resources: access.Exactly(r.Request.Resources...),
	}
}

// do is the row's request.
func (r *wireRun) do(f *fixture) (*provider.Child, provider.Health, error) {
	ctx := context.Background()
	request := provider.Request{Access: r.asked(), TTL: time.Hour}
	if f.settings.DPoP {
		proof, err := prove(agentKey(f.t), f.at.Token, "", wireNow)
		require.NoError(f.t, err)
		request.Proofs = map[provider.ProofKind]secret.Text{provider.ProofDPoP: proof.compact}
	}
	switch r.Request.Do {
	case "", "mint":
		child, err := f.Mint(ctx, request)
		return child, provider.Health{}, err
	case "exchange":
		request.Subject = jane()
		child, err := f.Exchange(ctx, request)
		return child, provider.Health{}, err
	case "revoke":
		child, err := f.Mint(ctx, request)
		require.NoError(f.t, err, "there must be something to revoke")
		return nil, provider.Health{}, f.Revoke(ctx, child.Handle)
	case "check":
		health, err := f.Check(ctx)
		return nil, health, err
	case "rotate":
		health, err := f.Rotate(ctx)
		return nil, health, err
	}
	require.FailNow(f.t, "there is no such request", r.Request.Do)
	return nil, provider.Health{}, nil
}

// killDoomed is what the core does with what must not be handed out.
func (r *wireRun) killDoomed(f *fixture, child *provider.Child, health provider.Health, failed error) {
	doomed := health.Children
	if child != nil && (failed != nil || !child.Granted.Scopes.Within(r.asked().Scopes)) {
		doomed = append(doomed, child)
	}
	for _, c := range doomed {
		if !c.Handle.Empty() {
			_ = f.Revoke(context.Background(), c.Handle)
		}
	}
}

func (r *wireRun) judgeError(t *testing.T, err error) {
	t.Helper()
	if r.Want.Code == "" {
		require.NoError(t, err, "%v", errors.Unwrap(err))
		return
	}
	requireCode(t, err, fault.Code(r.Want.Code), r.Want.Words...)
	for _, w := range r.Want.NotWords {
		require.NotContains(t, err.Error(), w)
	}
	require.Equal(t, r.Want.Final, errors.Is(err, provider.ErrCannotRevoke), "whether nobody tries again")
}

func (r *wireRun) judgeChild(t *testing.T, f *fixture, child *provider.Child) {
	t.Helper()
	want := r.Want
	if want.Token != "" {
		require.Equal(t, want.Token, child.Token().Reveal())
	}
	if want.TokenType != "" {
		require.Equal(t, want.TokenType, child.TokenType)
	}
	if want.Scopes != nil {
		got, listed := child.Granted.Scopes.Values()
		require.True(t, listed)
		require.ElementsMatch(t, want.Scopes, got)
	}
	require.Equal(t, want.Lever, child.Class == provider.ClassLever, "lever")
	require.Equal(t, want.Excess, !child.Granted.Scopes.Within(r.asked().Scopes), "granted %s", child.Granted.Flat())
	if want.Expires != nil {
		expected := time.Time{}
		if *want.Expires > 0 {
			expected = wireNow.Add(time.Duration(*want.Expires) * time.Second)
		}
		require.Equal(t, expected, child.ExpiresAt.UTC())
	}
	if want.Extra != nil || len(child.Extra) > 0 {
		require.JSONEq(t, marshal(want.Extra), marshal(child.Extra))
	}
	if want.Class != "" {
		require.Equal(t, want.Class, string(f.Traits().Class))
	}
}

func (r *wireRun) judgeHealth(t *testing.T, health provider.Health) {
	t.Helper()
	for _, w := range r.Want.Detail {
		require.True(t, faulttest.Says(health.Detail, w), "%q does not say %q", health.Detail, w)
	}
	if r.Want.Grants != nil {
		require.ElementsMatch(t, r.Want.Grants, health.Grants)
	}
}

// judgeTraces looks at what was left behind: at the server, and in storage.
func (r *wireRun) judgeTraces(t *testing.T, store *providertest.ParentStore) {
	t.Helper()
	r.mu.Lock()
	killed := slices.Compact(slices.Sorted(slices.Values(r.killed)))
	r.mu.Unlock()
	if slices.Equal(r.Want.Killed, []string{"*"}) {
		require.NotEmpty(t, killed, "killed")
	} else {
		require.Equal(t, slices.Sorted(slices.Values(r.Want.Killed)), killed, "killed")
	}
	for to, times := range r.Want.Asked {
		require.NotEmpty(t, wireEndpoints[to], to)
		require.Equal(t, times, r.server.Counts().Requests[wireEndpoints[to]], "requests to %s", to)
	}
	if store == nil {
		return
	}
	if r.Want.Parent != "" {
		require.True(t, store.Parent().Secrets[fieldRefreshToken].Equal(secret.New(r.Want.Parent)), "another refresh token is stored")
	}
	if r.Want.Refused != nil {
		require.Equal(t, *r.Want.Refused, store.Parent().Refused != "", "%q", store.Parent().Refused)
	}
}
