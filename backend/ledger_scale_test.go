package backend

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// haltScan keeps the ledger from getting to know its holders, until release.
func (m *mount) haltScan() (release func()) {
	halted := make(chan struct{})
	m.storage.on(func(op, key string) error {
		if op == "list" && strings.HasPrefix(key, grant.StoragePrefix) && strings.Count(key, "/") == 2 {
			<-halted
		}
		return nil
	})
	return sync.OnceFunc(func() {
		m.storage.on(nil)
		close(halted)
	})
}

func TestAfterAStartNobodyWaitsForOthersGrants(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"max_grants_per_entity": 2}})
	first, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	second, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	his, err := m.credsBy(call{entity: bob})
	require.NoError(t, err)
	m.start()
	release := m.haltScan()
	defer release()
	require.NoError(t, m.b.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}))

	_, err = m.credsBy(call{entity: alice})
	requireCode(t, err, fault.SlowDown)
	require.Len(t, m.keys("grants/entity/"+alice, nil), 2)
	require.Contains(t, m.must(m.read("grants/"+first.grantID)).Data, "issued_at")
	require.EqualValues(t, 2, m.must(m.write("revoke/entity/"+alice, nil)).Data["revoked"])
	require.False(t, m.server.Active(first.token) || m.server.Active(second.token))
	third, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	require.NoError(t, m.revoke(third))

	// Who has grants of a role is not known yet. The order is durable.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	resp, err := m.do(call{op: logical.UpdateOperation, path: "revoke/role/r", ctx: ctx})
	require.NoError(t, err)
	require.Contains(t, strings.Join(resp.Warnings, " "), "still being read")
	require.EqualValues(t, 1, resp.Data["pending"], "more than too little")
	require.False(t, m.b.ledger.Loaded())
	require.True(t, m.server.Active(his.token))
	for _, c := range []call{
		{op: logical.ListOperation, path: "grants"}, {op: logical.ListOperation, path: "grants/entity"},
		{op: logical.UpdateOperation, path: "sweep"}, {op: logical.DeleteOperation, path: "providers/oauth2/p"},
	} {
		c.ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := m.do(c)
		requireCode(t, err, fault.TemporarilyUnavailable, "still being read")
	}
	release()
	require.Eventually(t, func() bool { return !m.server.Active(his.token) }, promptly, time.Millisecond)
}

func TestTheOutboxGoesOnBeforeEverythingIsRead(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	m.start()
	release := m.haltScan()
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", "no"))
	require.Error(t, m.revoke(l))
	m.server.Break(authserver.EndpointRevoke, nil)
	m.clock.advance(10 * time.Second)
	require.NoError(t, m.periodic())
	require.False(t, m.server.Active(l.token))
	require.False(t, m.b.ledger.Loaded())
	release()
}

func TestListsAreInOrderAndTakenFromAnywhere(t *testing.T) {
	m := newMount(t, setup{})
	for _, entity := range []string{alice, bob, "", alice, bob, "", alice} {
		_, err := m.credsBy(call{entity: entity})
		require.NoError(t, err)
	}
	all := m.keys("grants", nil)
	require.Len(t, all, 7)
	require.True(t, slices.IsSorted(all))
	for i := range all {
		require.Equal(t, all[:i+1], m.keys("grants", map[string]any{"limit": i + 1}))
		require.Equal(t, all[i+1:], append([]string{}, m.keys("grants", map[string]any{"after": all[i]})...))
		holder, _ := grant.HolderOf(all[i])
		mine := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return !strings.HasPrefix(id, holder+".") })
		at := slices.Index(mine, all[i])
		require.Equal(t, mine[at+1:], append([]string{}, m.keys("grants/entity/"+holder, map[string]any{"after": all[i]})...))
	}
	require.Equal(t, all, m.keys("grants", map[string]any{"after": "-"}))
	require.Empty(t, m.keys("grants", map[string]any{"after": "zzz"}))
	require.Empty(t, m.keys("grants/entity/nobody", nil))
}
