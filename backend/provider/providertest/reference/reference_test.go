package reference_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest/reference"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest/reference/fake"
)

// world is the type, opened on a system of its own.
type world struct {
	*reference.Provider
	system *fake.System
	store  *providertest.ParentStore
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{now: time.Now()}
	w.system = fake.New(t, func() time.Time { return w.now })
	opened, store := providertest.Setup{
		Type: reference.Type{}, Now: func() time.Time { return w.now },
		Fields:  map[string]any{"base_url": w.system.URL, "client_id": fake.ClientID},
		Secrets: map[string]string{"private_key": w.system.PrivateKey},
	}.Open(t)
	w.Provider, w.store = opened.(*reference.Provider), store
	return w
}

func request() provider.Request {
	return provider.Request{Access: access.Access{Scopes: access.Exactly("read")}, TTL: 10 * time.Minute, GrantID: "grant-of-somebody"}
}

func (w *world) alive(c *provider.Child) bool {
	return w.system.Alive(c.Secrets["access_secret"].Reveal())
}

// The suite is what every type passes.
func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Subject {
		w := newWorld(t)
		return providertest.Subject{
			Provider: w.Provider, Type: reference.Type{}, Request: request(), Store: w.store,
			Alive: w.alive, Minted: w.system.Minted, Echo: w.system.Echo,
			Stall: func() { w.system.After(fake.MakeKey, fake.Stall) },
		}
	})
}

// Wherever a mint stops, there is a handle for all that it has made, or the system can be
// asked for that.
func TestAMintLeavesNothingWhereverItStops(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(*fake.System)
		made   int  // accounts
		handle bool // or else it must be found
		code   fault.Code
	}{
		"the first step is not done":    {func(s *fake.System) { s.Before(fake.MakeAccount, fake.Status(429)) }, 0, false, fault.TemporarilyUnavailable},
		"the first answer is lost":      {func(s *fake.System) { s.After(fake.MakeAccount, fake.HangUp) }, 1, false, fault.TemporarilyUnavailable},
		"the first answer is a failure": {func(s *fake.System) { s.After(fake.MakeAccount, fake.Status(502)) }, 1, false, fault.TemporarilyUnavailable},
		"the first answer is nonsense":  {func(s *fake.System) { s.After(fake.MakeAccount, fake.Status(200)) }, 1, false, fault.ProviderViolation},
		"the second step is not done":   {func(s *fake.System) { s.Before(fake.MakeKey, fake.Status(503)) }, 1, true, fault.TemporarilyUnavailable},
		"the second answer is lost":     {func(s *fake.System) { s.After(fake.MakeKey, fake.HangUp) }, 1, true, fault.TemporarilyUnavailable},
		"the second answer is nonsense": {func(s *fake.System) { s.After(fake.MakeKey, fake.Status(200)) }, 1, true, fault.ProviderViolation},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.breaks(w.system)
			child, err := w.Mint(t.Context(), request())
			require.Equal(t, c.code, fault.CodeOf(err), "%v", err)
			require.Equal(t, c.made, w.system.Accounts())
			require.Equal(t, c.handle, child != nil)
			require.Equal(t, c.made == 1, child != nil || errors.Is(err, provider.ErrAnswerLost), "what is there is told of")
			found, err := w.Find(t.Context(), provider.Trace{GrantID: "grant-of-somebody"})
			require.NoError(t, err)
			require.Len(t, found, c.made)
			if child != nil {
				require.Equal(t, []provider.Found{{Handle: child.Handle}}, found, "both ways lead to the same")
			}
			for _, f := range found {
				require.NoError(t, w.Revoke(t.Context(), f.Handle))
			}
			require.Zero(t, w.system.Accounts())
		})
	}
}

// A revocation that stops between two steps is repeated, and ends.
func TestARevocationIsUndoneInReverse(t *testing.T) {
	for _, step := range []fake.Step{fake.DeleteKey, fake.DeleteAccount} {
		for when, stop := range map[string]func(*fake.System, fake.Fault){
			"before": func(s *fake.System, f fake.Fault) { s.Before(step, f) },
			"after":  func(s *fake.System, f fake.Fault) { s.After(step, f) },
		} {
			t.Run(when+" "+string(step), func(t *testing.T) {
				w := newWorld(t)
				child, err := w.Mint(t.Context(), request())
				require.NoError(t, err)
				require.True(t, w.alive(child))
				stop(w.system, fake.Status(http.StatusBadGateway))
				require.Error(t, w.Revoke(t.Context(), child.Handle))
				stop(w.system, nil)
				require.NoError(t, w.Revoke(t.Context(), child.Handle))
				require.False(t, w.alive(child))
				require.Zero(t, w.system.Accounts())
			})
		}
	}
}

func TestOneJWTServesManyMints(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		_, err := w.Mint(t.Context(), request())
		require.NoError(t, err)
	}
	require.Equal(t, 1, w.system.JWTs())
	w.now = w.now.Add(9 * time.Minute)
	_, err := w.Mint(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, 2, w.system.JWTs())
}

func TestConfigureSaysWhatIsWrong(t *testing.T) {
	key := newWorld(t).system.PrivateKey
	for word, c := range map[string]struct {
		fields  map[string]any
		secrets map[string]string
	}{
		"base_url":    {map[string]any{"base_url": "http://reference.example", "client_id": "c"}, map[string]string{"private_key": key}},
		"client_id":   {map[string]any{"base_url": "https://reference.example"}, map[string]string{"private_key": key}},
		"private_key": {map[string]any{"base_url": "https://reference.example", "client_id": "c"}, map[string]string{"private_key": "none"}},
	} {
		_, err := providertest.Setup{Type: reference.Type{}, Fields: c.fields, Secrets: c.secrets}.Configure(t.Context())
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
		require.ErrorContains(t, err, word+": ")
	}
}
