package backend

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// A write that is refused changes nothing of the provider that is there.
func TestARefusedWriteLeavesTheRateLimitAlone(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointMetadata, authserver.Once(authserver.Before(func() {
		_, err := m.write("providers/oauth2/p", map[string]any{"timeout": 21})
		assert.NoError(t, err)
		_, err = m.creds(nil) // it is open again
		assert.NoError(t, err)
	})))
	_, err := m.write("providers/oauth2/p", map[string]any{"issuer": m.server.URL, "client_secret": parentSecret, "rate_limit": 0.001})
	requireCode(t, err, fault.InvalidRequest, "changed by somebody else")
	for range 3 {
		m.mustCreds(nil)
	}
}

// Nor does one leave a trace of a provider that is not there.
func TestARefusedWriteLeavesNoLabel(t *testing.T) {
	m := newMount(t, setup{})
	m.storage.on(func(op, key string) error {
		if op == "put" && key == downstream.StoragePrefix+"oauth2/new" {
			return errors.New("no room")
		}
		return nil
	})
	_, err := m.write("providers/oauth2/new", m.providerFields(nil))
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.storage.on(nil)
	require.NotContains(t, m.metrics(), "oauth2/new")
}

// The limit that was written holds for what is opened from it, on this node and on another.
func TestANewRateLimitHoldsAtOnce(t *testing.T) {
	m := newMount(t, setup{})
	m.mustCreds(nil)
	m.must(m.write("providers/oauth2/p", map[string]any{"rate_limit": 0.001}))
	m.mustCreds(nil)
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "no room in time")
	entry, err := m.b.providers.Read(t.Context(), "oauth2/p")
	require.NoError(t, err)
	entry.Settings.RateLimit = 0
	m.putProvider("oauth2/p", entry) // by another node
	m.b.invalidate(t.Context(), downstream.StoragePrefix+"oauth2/p")
	for range 3 {
		m.mustCreds(nil)
	}
}
