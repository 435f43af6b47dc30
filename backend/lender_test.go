package backend

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// A provider's credential can be a child of another provider: one token serves many mints
// and kills, is on record as the broker's own, and nobody sees it.
func TestAProviderBorrowsItsCredential(t *testing.T) {
	m, s := newTenantMount(t)
	first, second := m.mustCreds(nil), m.mustCreds(nil)
	own := m.own()
	require.Len(t, own, 1)
	lent := s.last()
	require.True(t, m.server.Active(lent))
	require.Len(t, m.server.Live(), 1)

	g := m.must(m.read("grants/" + own[0])).Data
	require.Equal(t, "broker", g["entity_id"])
	require.Equal(t, "oauth2/p", g["provider"])
	require.Equal(t, "providers/tenant/x", g["borrower"])
	require.Equal(t, "live", g["state"])
	require.Contains(t, g["granted"], "scope:read")
	require.NotContains(t, g, "role")
	require.Contains(t, m.keys("grants/entity", nil), "broker")
	require.Equal(t, own, m.keys("grants/provider/oauth2/p", nil))
	require.Contains(t, m.metrics(), `broker_grants_issued_total{provider="oauth2/p",role=""} 1`)

	require.NoError(t, m.revoke(first))
	require.NoError(t, m.revoke(second))
	require.Zero(t, s.alive())
	require.Equal(t, lent, s.last())
}

// The sweep knows the broker and asks Vault nothing about it.
func TestTheSweepLeavesTheBrokersOwnAlone(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	lent := s.last()
	for range 3 {
		m.sweep()
		require.NoError(t, m.periodic())
		m.waitForKills()
		m.clock.advance(time.Minute)
	}
	require.True(t, m.server.Active(lent))
	require.Len(t, m.own(), 1)
}

// No entity is the broker, whatever its id.
func TestNoEntityIsTheBroker(t *testing.T) {
	m, _ := newTenantMount(t)
	m.vault.change(func(v *vaultView) { v.entities["broker"] = &logical.Entity{ID: "broker", Name: "broker"} })
	_, err := m.credsBy(call{entity: "broker"})
	requireCode(t, err, fault.AccessDenied, "stands for the broker itself")
}
