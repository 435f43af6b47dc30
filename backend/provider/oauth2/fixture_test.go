package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

const (
	testClient = "broker client" // the space shows whether Basic is form-encoded first
	testSecret = "s3cret+/%: one"
	nextSecret = "s3cret+/%: two"
)

// with is one provider's configuration beside issuer and client_id.
type with map[string]any

func registered() authserver.Client {
	return authserver.Client{
		ID:        testClient,
		Secrets:   []string{testSecret},
		Scopes:    []string{"read", "write", "admin"},
		Audiences: []string{"https://api.test/", "https://files.test/", "plain-name"},
	}
}

// fixture is a server of our own and a provider opened on it.
type fixture struct {
	t      *testing.T
	server *authserver.Server
	setup  providertest.Setup
	*Provider
	store *providertest.ParentStore
}

func newFixture(t *testing.T, o authserver.Options, f with) *fixture {
	t.Helper()
	return newFixtureOn(t, authserver.New(t, o, registered()), f)
}

func newFixtureOn(t *testing.T, server *authserver.Server, f with) *fixture {
	t.Helper()
	setup := setupFor(server, f)
	p, store := setup.Open(t)
	return &fixture{t: t, server: server, setup: setup, Provider: p.(*Provider), store: store}
}

// setupFor fills in what every provider needs. Names of secret fields in f are
// taken for secrets, signer for the broker as an issuer; with grant=refresh_token the server issues the parent.
func setupFor(server *authserver.Server, f with) providertest.Setup {
	all := with{"issuer": server.URL, "client_id": testClient}
	secrets := map[string]string{"client_secret": testSecret}
	maps.Copy(all, f)
	for _, name := range append([]string{"refresh_token"}, allSecretFields...) {
		if value, ok := all[name].(string); ok {
			secrets[name] = value
			delete(all, name)
		}
	}
	if _, given := secrets["refresh_token"]; all["grant"] == "refresh_token" && !given {
		secrets["refresh_token"] = server.IssueRefreshToken(testClient)
	}
	signer, _ := all["signer"].(provider.Signer)
	delete(all, "signer")
	return providertest.Setup{Type: Type{}, Signer: signer, Fields: all, Secrets: secrets, CAPEM: server.CAPEM, Timeout: 30 * time.Second}
}

func scopes(values ...string) access.Access {
	return access.Access{Scopes: access.Exactly(values...)}
}

func (f *fixture) mint(asked access.Access) (*provider.Child, error) {
	f.t.Helper()
	child, err := f.Mint(context.Background(), provider.Request{Access: asked, TTL: time.Hour})
	f.clean(err)
	return child, err
}

// mustMint is mint where nothing may go wrong.
func (f *fixture) mustMint(asked access.Access) *provider.Child {
	f.t.Helper()
	child, err := f.mint(asked)
	require.NoError(f.t, err)
	require.NotNil(f.t, child)
	return child
}

// clean fails the test if any text in err's chain holds a secret.
func (f *fixture) clean(err error) {
	f.t.Helper()
	for err := range chain(err) {
		text := err.Error()
		for _, own := range f.ownSecrets() {
			require.NotContains(f.t, text, own.Reveal())
		}
		for _, live := range f.server.Live() {
			require.NotContains(f.t, text, live)
		}
	}
}

// chain yields err and everything that it wraps.
func chain(err error) func(yield func(error) bool) {
	return func(yield func(error) bool) {
		var walk func(error) bool
		walk = func(err error) bool {
			if err == nil {
				return true
			}
			if !yield(err) {
				return false
			}
			switch e := err.(type) {
			case interface{ Unwrap() error }:
				return walk(e.Unwrap())
			case interface{ Unwrap() []error }:
				for _, inner := range e.Unwrap() {
					if !walk(inner) {
						return false
					}
				}
			}
			return true
		}
		walk(err)
	}
}

// requireCode checks that err is the broker's own, with that code and a hint of
// what to do that holds all of words.
func requireCode(t *testing.T, err error, code fault.Code, words ...string) {
	t.Helper()
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	require.Equal(t, code, f.Code, "%v (cause: %v)", err, errors.Unwrap(err))
	for _, w := range words {
		require.True(t, faulttest.Says(f.Error(), w), "%q should mention %q", f.Message, w)
	}
}

func marshal(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// beImpatient is for tables of faults: where nothing is slow, a busy machine must
// not look like it.
func (f *fixture) beImpatient(name string) {
	if name == "slow" {
		f.setTimeout(time.Second)
	}
}

// setTimeout gives the provider a client that waits no longer than d.
func (f *fixture) setTimeout(d time.Duration) {
	f.t.Helper()
	client, err := httpclient.New(httpclient.Options{CAPEM: f.setup.CAPEM, Timeout: d})
	require.NoError(f.t, err)
	f.deps.Client = client.To(f.pinned.Destinations)
}
