package backend

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// Checks and rotations by hand: paced and measured as mints are, one at a time, past what
// the broker believes of the provider, and believed of no mint.

func (m *mount) check(ctx context.Context) error {
	_, err := m.do(call{ctx: ctx, op: logical.UpdateOperation, path: "providers/oauth2/p/check"})
	return err
}

func TestChecksAndRotationsAreMeasured(t *testing.T) {
	m := newMount(t, setup{})
	require.NoError(t, m.check(t.Context()))
	m.server.Break(authserver.EndpointToken, failing)
	require.Error(t, m.check(t.Context()))
	m.server.Break(authserver.EndpointToken, nil)
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret_next": nextSecret}))
	m.server.SetClient(authserver.Client{ID: parentClient, Secrets: []string{parentSecret, nextSecret}, Scopes: []string{"read", "write"}})
	m.must(m.write("providers/oauth2/p/rotate", nil))
	shown := m.metrics()
	require.Contains(t, shown, `broker_provider_call_duration_seconds_count{call="check",outcome="ok",provider="oauth2/p"} 1`)
	require.Contains(t, shown, `broker_provider_call_duration_seconds_count{call="check",outcome="temporarily_unavailable",provider="oauth2/p"} 1`)
	require.Contains(t, shown, `broker_provider_call_duration_seconds_count{call="rotate",outcome="ok",provider="oauth2/p"} 1`)
}

// What is refused before the provider is called is no call.
func TestARotationOfWhatCannotBeRotatedIsNotMeasured(t *testing.T) {
	m := newJWTMount(t, nil)
	_, err := m.write("providers/jwt/p/rotate", nil)
	requireCode(t, err, fault.InvalidRequest, "cannot rotate")
	require.NotContains(t, m.metrics(), `call="rotate"`)
}

func TestChecksAndRotationsKeepToTheRateLimit(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"rate_limit": 0.001}})
	m.mustCreds(nil)
	before := m.tokenRequests()
	requireCode(t, m.check(t.Context()), fault.TemporarilyUnavailable, "no room in time")
	_, err := m.write("providers/oauth2/p/rotate", nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "no room in time")
	require.Equal(t, before, m.tokenRequests())
	m.must(m.write("providers/oauth2/p", map[string]any{"rate_limit": 0}))
	require.NoError(t, m.check(t.Context()))
}

func TestOneCheckAtATime(t *testing.T) {
	m := newMount(t, patient)
	worked, release := make(chan struct{}, 2), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	var checks sync.WaitGroup
	ends := make(chan error, 2)
	checks.Go(func() { ends <- m.check(context.Background()) })
	<-worked
	ctx, giveUp := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer giveUp()
	requireCode(t, m.check(ctx), fault.TemporarilyUnavailable, "another check or rotation")
	require.Equal(t, 1, m.tokenRequests())
	checks.Go(func() { ends <- m.check(context.Background()) })
	m.server.Break(authserver.EndpointToken, nil)
	close(release)
	checks.Wait()
	require.NoError(t, <-ends)
	require.NoError(t, <-ends, "the one that waited")
}

// An operator comes through where mints do not: they have taken every place.
func TestACheckNeedsNoPlaceOfAMint(t *testing.T) {
	m := newMount(t, setup{})
	p, err := m.b.providers.MustOpen(t.Context(), "oauth2/p")
	require.NoError(t, err)
	for n := range downstream.MaxMinting {
		place, err := p.WaitMint(t.Context(), downstream.Kind{Holder: fmt.Sprint("occupant ", n)})
		require.NoError(t, err)
		defer place.Leave()
	}
	require.NoError(t, m.check(t.Context()))
}

// A check is a request of its own kind: that it was told to wait, or failed, says nothing
// of what anybody else asks for.
func TestWhatACheckMeetsIsBelievedOfNoMint(t *testing.T) {
	for name, met := range map[string]authserver.Fault{"busy": authserver.Busy(time.Hour), "failing": failing, "silent": silent} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{})
			m.server.Break(authserver.EndpointToken, met)
			for range downstream.MaxFailures {
				require.Error(t, m.check(t.Context()))
			}
			m.server.Break(authserver.EndpointToken, nil)
			m.mustCreds(nil)
			require.Equal(t, "ok", m.must(m.read("providers/oauth2/p")).Data["health"])
			require.NoError(t, m.check(t.Context()), "nor of the next check by hand")
		})
	}
}
