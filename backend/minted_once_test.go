package backend

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// gettingType is a sessionType that does everything by a GET, as systems do that were made
// for browsers.
type gettingType struct{ sessionType }

type gettingProvider struct{ sessionProvider }

func (gettingType) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	p := &gettingProvider{sessionProvider{parent: parent, deps: deps}}
	return p, json.Unmarshal(cfg.Fields, &p.fields)
}

func (p *gettingProvider) get(ctx context.Context) error {
	if _, err := p.send(ctx, http.MethodGet, "/", nil); err != nil {
		return err
	}
	return fault.New(fault.ProviderViolation, "nothing came of it")
}

func (p *gettingProvider) Mint(ctx context.Context, _ provider.Request) (*provider.Child, error) {
	return nil, p.get(ctx)
}

func (p *gettingProvider) Check(ctx context.Context) (provider.Health, error) {
	return provider.Health{}, p.get(ctx)
}

func (p *gettingProvider) Rotate(ctx context.Context) (provider.Health, error) {
	return provider.Health{}, p.get(ctx)
}

// No type has to think of it that net/http repeats a GET: a mint that may have succeeded
// and a rotation that may have changed the parent are never repeated.
func TestAGETThatMintsIsNotRepeated(t *testing.T) {
	var asked atomic.Int32
	var breaks atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if breaks.Load() {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(s.Close)
	m := newEmptyMount(t, setup{types: []provider.Type{gettingType{}}})
	m.hide(rootKey)
	m.must(m.write("providers/session/s", map[string]any{"url": s.URL, "root_key": rootKey, "verify_connection": false}))
	m.must(m.write("roles/r", map[string]any{"provider": "session/s", "scopes": "read"}))
	for _, path := range []string{"creds/r", "providers/session/s/rotate", "providers/session/s/check"} {
		asked.Store(0)
		for _, broken := range []bool{false, true} { // the first leaves a connection behind, or does not
			breaks.Store(broken)
			_, err := m.write(path, nil)
			require.Error(t, err)
		}
		require.EqualValues(t, 2, asked.Load(), path)
	}
}
