// Package conformance holds the provider types against what the vendors publish about their
// APIs: each request that a type makes, and each answer of the fake that its tests rest on,
// must be what the description says. It is a module of its own, so that the reader of
// descriptions is no dependency of the plugin.
package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
)

// description is testdata/openapi/github.json, read once.
var description = sync.OnceValues(func() (*openapi3.T, error) {
	raw, err := os.ReadFile("../../testdata/openapi/github.json")
	if err != nil {
		return nil, err
	}
	return openapi3.NewLoader().LoadFromData(raw)
})

// referee judges exchanges. It is safe for concurrent use.
type referee struct {
	t      testing.TB
	router routers.Router

	mu   sync.Mutex
	seen map[string]int // by operation and status
}

func newReferee(t testing.TB) *referee {
	t.Helper()
	doc, err := description()
	require.NoError(t, err)
	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return &referee{t: t, router: router, seen: map[string]int{}}
}

// judge is for fake.Options.Observe. Paths are those below base.
func (r *referee) judge(base string) func(fake.Exchange) {
	return func(e fake.Exchange) {
		if err := r.check(base, e); err != nil {
			r.t.Errorf("%s %s: %v", e.Request.Method, e.Request.URL.Path, err)
		}
	}
}

func (r *referee) check(base string, e fake.Exchange) error {
	// The router has paths alone: where the API is, is the provider's affair.
	asked := e.Request.Clone(context.Background())
	asked.URL = &url.URL{Path: strings.TrimPrefix(e.Request.URL.Path, base), RawQuery: e.Request.URL.RawQuery}
	asked.Body = io.NopCloser(bytes.NewReader(e.Body))
	route, parameters, err := r.router.FindRoute(asked)
	if err != nil {
		return fmt.Errorf("GitHub has no such call: %w", err)
	}
	input := &openapi3filter.RequestValidationInput{
		Request: asked, PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
		return fmt.Errorf("the request: %w", err)
	}
	if err := headers(e.Request.Header); err != nil {
		return err
	}
	r.note(route.Operation.OperationID, e.Status)
	if e.Status == 0 {
		return nil // the fake has not answered
	}
	if said := route.Operation.Responses.Status(e.Status); said == nil && e.Status >= 400 {
		return nil // of limits and failures the description says nothing at each call
	}
	answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: e.Status, Header: e.Header, Options: input.Options}
	answer.SetBodyBytes(e.Response)
	if err := openapi3filter.ValidateResponse(context.Background(), answer); err != nil {
		return fmt.Errorf("the answer (HTTP %d): %w", e.Status, err)
	}
	return nil
}

// headers are what GitHub demands or advises of each request.
func headers(h http.Header) error {
	for name, value := range map[string]string{"Accept": "application/vnd.github+json", "X-Github-Api-Version": "2022-11-28"} {
		if h.Get(name) != value {
			return fmt.Errorf("the request has %s: %q", name, h.Get(name))
		}
	}
	if h.Get("User-Agent") == "" || !strings.HasPrefix(h.Get("Authorization"), "Bearer ") {
		return fmt.Errorf("the request has no User-Agent, or no bearer")
	}
	return nil
}

func (r *referee) note(operation string, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[fmt.Sprintf("%s %d", operation, status)]++
}

// world is the type, opened on a GitHub of which the referee sees everything.
type world struct {
	*github.Provider
	github *fake.GitHub
	in     *fake.Installation
	store  *providertest.ParentStore
}

var granted = map[string]string{"contents": "write", "issues": "write", "metadata": "read"}

func newWorld(t *testing.T, r *referee, fields map[string]any) *world {
	t.Helper()
	const base = "/api/v3" // as on an Enterprise Server
	w := &world{github: fake.New(t, fake.Options{Base: base, Observe: r.judge(base)})}
	app := w.github.NewApp("the-broker")
	w.in = w.github.Install(app, "organization", "acme", granted, "api", "web", "svc-a", "svc-b", ".github")
	w.github.Install(app, "user", "jane", granted, "dotfiles")
	w.github.Install(app, "enterprise", "big", map[string]string{"enterprise_administration": "write"})
	all := map[string]any{"base_url": w.github.URL, "client_id": app.ClientID}
	for name, value := range fields {
		all[name] = value
	}
	if all["installation_id"] == "" {
		all["installation_id"] = w.in.ID
	}
	opened, store := providertest.Setup{
		Type: github.Type{}, Fields: all, Secrets: map[string]string{"private_key": app.PrivateKey, "private_key_next": w.github.NewKey(app)},
	}.Open(t)
	w.Provider, w.store = opened.(*github.Provider), store
	return w
}

func asking(t *testing.T, permissions map[string]string, repositories ...string) provider.Request {
	t.Helper()
	set, err := access.Ceiling(repositories...)
	require.NoError(t, err)
	p, err := access.NewPermissions(access.DefaultLevels(), permissions)
	require.NoError(t, err)
	return provider.Request{Access: access.Access{Resources: set, Permissions: p}, TTL: time.Hour}
}

// The suite that every type passes, under the referee's eyes.
func TestTheSuiteSpeaksAsGitHubSays(t *testing.T) {
	r := newReferee(t)
	providertest.Run(t, func(t *testing.T) providertest.Subject {
		w := newWorld(t, r, map[string]any{"organization": "acme"})
		return providertest.Subject{
			Provider: w.Provider, Type: github.Type{}, Request: asking(t, map[string]string{"contents": "read"}, "acme/api"), Store: w.store,
			Patterns: asking(t, map[string]string{"contents": "read"}, "acme/svc-*"),
			Alive:    func(c *provider.Child) bool { return w.github.Alive(c.Token().Reveal()) },
			Minted:   w.github.Minted, Echo: w.github.Echo, Stall: func() { w.github.After(fake.Mint, fake.Stall) },
		}
	})
}

// Each call that the description was trimmed to is made, and answered in each way that it
// knows and the type tells apart.
func TestEveryCallIsAsGitHubSays(t *testing.T) {
	r := newReferee(t)
	contents := map[string]string{"contents": "read"}
	ways := map[string]struct {
		fields map[string]any
		r      provider.Request
	}{
		"organization": {map[string]any{"organization": "acme"}, asking(t, contents, "acme/api", "acme/.github")},
		"id":           {map[string]any{"installation_id": ""}, asking(t, contents, "acme/svc-*")},
		"user":         {map[string]any{"user": "jane"}, asking(t, contents, "jane/dotfiles")},
		"enterprise":   {map[string]any{"enterprise": "big"}, asking(t, map[string]string{"enterprise_administration": "read"})},
	}
	for name, way := range ways {
		w := newWorld(t, r, way.fields)
		child, err := w.Mint(t.Context(), way.r)
		require.NoError(t, err, name)
		for range 2 { // known, and not any more
			require.NoError(t, w.Revoke(t.Context(), child.Handle), name)
		}
		_, err = w.Check(t.Context())
		require.NoError(t, err, name)
		_, err = w.Rotate(t.Context())
		require.NoError(t, err, name)
	}
	w := newWorld(t, r, map[string]any{"organization": "acme"})
	for _, refused := range []provider.Request{
		asking(t, map[string]string{"administration": "read"}, "acme/api"), asking(t, contents, "acme/unknown"),
	} {
		_, err := w.Mint(t.Context(), refused)
		require.Error(t, err)
	}
	w.github.Change(func() { w.in.Suspended = true })
	_, err := w.Mint(t.Context(), asking(t, contents, "acme/api"))
	require.ErrorContains(t, err, "suspended")
	w.github.Change(func() { w.in.Suspended = false })
	w.github.Reinstall(w.in)
	_, err = w.Mint(t.Context(), asking(t, contents, "acme/api"))
	require.NoError(t, err)
	_, err = newWorld(t, r, map[string]any{"organization": "nobody"}).Mint(t.Context(), asking(t, contents, "nobody/x"))
	require.ErrorContains(t, err, "install it there")

	doc, err := description()
	require.NoError(t, err)
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			made := slices.ContainsFunc(slices.Collect(keys(r.seen)), func(seen string) bool { return strings.HasPrefix(seen, operation.OperationID+" 2") })
			require.True(t, made, "%s %s is described, and nobody has called it with success", method, path)
		}
	}
	for _, status := range []int{201, 401, 403, 404, 422} {
		if status != 401 {
			require.Positive(t, r.seen[fmt.Sprintf("apps/create-installation-access-token %d", status)], "a mint that is answered with %d", status)
		}
	}
	require.Positive(t, r.seen["apps/revoke-installation-access-token 401"])
}

func keys(m map[string]int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// The referee sees what is wrong, or it would be none.
func TestTheRefereeSeesWhatIsWrong(t *testing.T) {
	r := newReferee(t)
	good := func() fake.Exchange {
		body := []byte(`{"permissions":{"contents":"read"},"repositories":["api"]}`)
		req, err := http.NewRequest(http.MethodPost, "http://github.test/app/installations/1/access_tokens", nil)
		require.NoError(t, err)
		req.Header = http.Header{
			"Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}, "User-Agent": {"x"}, "Authorization": {"Bearer x"},
			"Content-Type": {"application/json"},
		}
		return fake.Exchange{Request: req, Body: body, Status: 201, Header: http.Header{"Content-Type": {"application/json"}}, Response: []byte(`{"token":"ghs_x","expires_at":"2030-01-01T00:00:00Z"}`)}
	}
	require.NoError(t, r.check("", good()))
	for name, spoil := range map[string]func(*fake.Exchange){
		"a call that there is not":  func(e *fake.Exchange) { e.Request.URL.Path = "/app/installations/1/tokens" },
		"another method":            func(e *fake.Exchange) { e.Request.Method = http.MethodPut },
		"an id that is no number":   func(e *fake.Exchange) { e.Request.URL.Path = "/app/installations/x/access_tokens" },
		"a level that there is not": func(e *fake.Exchange) { e.Body = []byte(`{"permissions":{"contents":"admin"}}`) },
		"ids that are no numbers":   func(e *fake.Exchange) { e.Body = []byte(`{"repository_ids":["1"]}`) },
		"no version":                func(e *fake.Exchange) { e.Request.Header.Del("X-Github-Api-Version") },
		"an answer without a token": func(e *fake.Exchange) { e.Response = []byte(`{"expires_at":"2030-01-01T00:00:00Z"}`) },
		"an answer of another shape": func(e *fake.Exchange) {
			e.Response = []byte(`{"token":"x","expires_at":"2030-01-01T00:00:00Z","repository_selection":"some"}`)
		},
		"half a repository": func(e *fake.Exchange) {
			e.Response = []byte(`{"token":"x","expires_at":"2030-01-01T00:00:00Z","repositories":[{"id":1,"full_name":"a/b"}]}`)
		},
	} {
		e := good()
		spoil(&e)
		require.Error(t, r.check("", e), name)
	}
}
