package backend

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// TestListsByRoleAndProvider: page by page, and without a look at the records of those
// who have none.
func TestListsByRoleAndProvider(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("providers/oauth2/q", m.providerFields(nil)))
	m.must(m.write("roles/rare", map[string]any{"provider": "oauth2/q", "scopes": "read"}))
	want := map[string][]string{}
	for i := range 60 {
		entity := fmt.Sprintf("%08d-cccc-4ccc-8ccc-333333333333", i)
		m.vault.change(func(v *vaultView) { v.entities[entity] = &logical.Entity{ID: entity} })
		for range 2 {
			l, err := m.credsBy(call{entity: entity})
			require.NoError(t, err)
			want["r"] = append(want["r"], l.grantID)
		}
		if i%20 == 7 {
			l, err := m.credsBy(call{path: "creds/rare", entity: entity})
			require.NoError(t, err)
			want["rare"] = append(want["rare"], l.grantID)
		}
	}
	for _, ids := range want {
		slices.Sort(ids)
	}
	require.Equal(t, want["r"], m.keys("grants/role/r", nil))
	require.Equal(t, want["r"], m.keys("grants/provider/oauth2/p", nil))
	require.Empty(t, m.keys("grants/role/nosuch", nil))
	require.Empty(t, m.keys("grants/provider/jwt/p", nil))
	_, err := m.list("grants/role/r", map[string]any{"limit": 1001})
	requireCode(t, err, fault.InvalidRequest, "limit")

	var read atomic.Int64
	m.storage.on(func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, "grant/") {
			read.Add(1)
		}
		return nil
	})
	for _, path := range []string{"grants/role/rare", "grants/provider/oauth2/q"} {
		read.Store(0)
		require.Equal(t, want["rare"], m.keys(path, nil))
		require.LessOrEqual(t, read.Load(), int64(9), "three holders with three grants each")
	}
	read.Store(0)
	require.Equal(t, want["r"][:7], m.keys("grants/role/r", map[string]any{"limit": 7}))
	require.LessOrEqual(t, read.Load(), int64(10), "a page, and one more")
	m.storage.on(nil)

	var all []string
	for query := map[string]any{"limit": 7}; ; query["after"] = all[len(all)-1] {
		resp := m.must(m.list("grants/role/r", query))
		page := resp.Data["keys"].([]string)
		all = append(all, page...)
		if len(all) == len(want["r"]) {
			require.Empty(t, resp.Warnings, "nothing follows")
			break
		}
		require.Equal(t, []string{"more follow: vault read broker/grants/role/r list=true after=" + page[6]}, resp.Warnings)
	}
	require.Equal(t, want["r"], all)
}

// TestAListThatStopsSaysSo, whichever it is, and none that is whole does.
func TestAListThatStopsSaysSo(t *testing.T) {
	m := newMount(t, setup{})
	for _, entity := range []string{alice, bob} {
		_, err := m.credsBy(call{entity: entity})
		require.NoError(t, err)
		m.must(m.write("revoke/entity/"+entity+"x", map[string]any{"freeze": true}))
	}
	_, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	for _, path := range []string{"grants", "grants/entity", "grants/entity/" + alice, "grants/role/r", "grants/provider/oauth2/p", "frozen"} {
		resp := m.must(m.list(path, map[string]any{"limit": 1}))
		last := resp.Data["keys"].([]string)[0]
		require.Equal(t, []string{"more follow: vault read broker/" + path + " list=true after=" + last}, resp.Warnings)
		whole := m.must(m.list(path, nil))
		require.Empty(t, whole.Warnings)
		n := len(whole.Data["keys"].([]string))
		require.Greater(t, n, 1)
		require.Empty(t, m.must(m.list(path, map[string]any{"limit": n})).Warnings, "just as many as there are")
	}
}

// TestAGrantsStateIsSeen in lists and alone, with what its user notices.
func TestAGrantsStateIsSeen(t *testing.T) {
	m := newJWTMount(t, nil)
	see := func(l *lease, state, cause, notice string) {
		t.Helper()
		one := m.must(m.read("grants/" + l.grantID)).Data
		require.Equal(t, state, one["state"])
		require.Contains(t, one["notice"], notice)
		all, _ := m.must(m.list("grants", nil)).Data["key_info"].(map[string]any)
		info := all[l.grantID].(map[string]any)
		require.Equal(t, state, info["state"])
		require.Contains(t, info, "lease_ends")
		if cause == "" {
			require.NotContains(t, info, "cause")
		} else {
			require.Equal(t, cause, info["cause"])
		}
	}
	signed, opaque := m.signedTo(alice, "j", nil), m.mustCreds(nil)
	see(signed, "live", "", "works until "+stamp(m.clock.Now().Add(10*time.Minute))+" all the same")
	see(opaque, "live", "", "stops working at once")
	require.Equal(t, "broker/creds/j/", m.must(m.read("grants/" + signed.grantID)).Data["lease_prefix"])

	m.must(m.write("revoke/entity/"+alice, nil))
	see(signed, "expiry_only", "revoke/entity", "because nothing can kill it, and the renewal of its lease is refused")

	m.server.Break(authserver.EndpointRevoke, authserver.Answer(http.StatusInternalServerError, "text/plain", "no"))
	m.must(m.write("revoke/grant/"+opaque.grantID, nil))
	see(opaque, "pending", "revoke/grant", "until an attempt to kill it succeeds")
	m.server.Break(authserver.EndpointRevoke, nil)
}
