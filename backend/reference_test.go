package backend

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest/reference"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest/reference/fake"
)

// newReferenceMount is an engine whose catalog has the reference type beside the shipped
// ones, with the provider reference/p on a system of its own, and the role r.
func newReferenceMount(t *testing.T) (*mount, *fake.System) {
	t.Helper()
	m := newEmptyMount(t, setup{types: []provider.Type{reference.Type{}}})
	system := fake.New(t, m.clock.Now)
	m.hide(system.PrivateKey)
	m.must(m.write("providers/reference/p", map[string]any{"base_url": system.URL, "client_id": fake.ClientID, "private_key": system.PrivateKey}))
	m.must(m.write("roles/r", map[string]any{"provider": "reference/p", "scopes": "read,write", "ttl": "10m", "max_ttl": "1h"}))
	return m, system
}

// The reference type needs nothing of the engine but its line in the catalog: not to be
// configured, checked, described, issued, renewed and revoked.
func TestTheReferenceTypeFromItsConfigurationToItsEnd(t *testing.T) {
	m, system := newReferenceMount(t)
	shown := m.must(m.read("providers/reference/p")).Data
	require.Equal(t, system.URL, shown["base_url"])
	require.NotContains(t, shown, "private_key")
	require.Contains(t, m.must(m.write("providers/reference/p/check", nil)).Data["detail"], fake.ClientID)
	require.Zero(t, system.Accounts(), "a check makes nothing")

	l := m.mustSession(call{data: map[string]any{"scopes": "read"}})
	require.Equal(t, "key-1", l.data["access_id"])
	require.NotEmpty(t, m.hide(l.data["signing_secret"].(string)))
	access := m.hide(l.data["access_secret"].(string))
	require.True(t, system.Alive(access))
	require.Equal(t, "token", l.data["revocation"])
	require.Equal(t, []string{"read"}, l.data["scopes"])
	require.NotContains(t, l.data, "access_token")
	require.NotContains(t, l.data, "token_type")

	_, err := m.renew(l, time.Minute)
	require.NoError(t, err)
	require.NoError(t, m.revoke(l))
	require.False(t, system.Alive(access))
	require.Zero(t, system.Accounts())
	require.Empty(t, m.allGrants())

	_, err = m.session(call{data: map[string]any{"scopes": "admin"}})
	requireCode(t, err, fault.InvalidScope)
}

// The system gives no key less than five minutes; the lease is as short as was asked for,
// and the key dies with it.
func TestAReferenceChildDiesWithItsShorterLease(t *testing.T) {
	m, system := newReferenceMount(t)
	l := m.mustSession(call{data: map[string]any{"ttl": "1m"}})
	require.Equal(t, time.Minute, l.secret.TTL)
	access := m.hide(l.data["access_secret"].(string))
	m.hide(l.data["signing_secret"].(string))
	m.clock.advance(time.Minute)
	require.True(t, system.Alive(access))
	require.NoError(t, m.revoke(l))
	require.False(t, system.Alive(access))
}

// Whatever a mint leaves behind is dead in the end, at whichever step it stopped.
func TestNoReferenceMintLeavesAnythingBehind(t *testing.T) {
	for name, stop := range map[string]func(*fake.System, fake.Fault){
		"the first answer was lost":    func(s *fake.System, f fake.Fault) { s.After(fake.MakeAccount, f) },
		"the second step was not done": func(s *fake.System, f fake.Fault) { s.Before(fake.MakeKey, f) },
		"the second answer was lost":   func(s *fake.System, f fake.Fault) { s.After(fake.MakeKey, f) },
	} {
		t.Run(name, func(t *testing.T) {
			m, system := newReferenceMount(t)
			stop(system, fake.HangUp)
			system.Before(fake.DeleteAccount, fake.Status(http.StatusBadGateway))
			_, err := m.session(call{})
			requireCode(t, err, fault.TemporarilyUnavailable)
			require.Equal(t, 1, system.Accounts())
			stop(system, nil)
			system.Before(fake.DeleteAccount, nil)
			m.clock.advance(time.Hour)
			m.sweep()
			m.waitForKills()
			require.Zero(t, system.Accounts())
			require.Empty(t, m.allGrants())
		})
	}
}
