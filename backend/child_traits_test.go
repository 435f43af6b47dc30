package backend

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// The class may hang on a role's parameters: it is judged when the role is written, and
// explain and the answer say it.
func TestTheClassOfARolesChildren(t *testing.T) {
	m, s := newSessionMount(t, nil)
	role := func(class string, more map[string]any) error {
		fields := map[string]any{"parameters": map[string]any{"class": class}}
		for name, value := range more {
			fields[name] = value
		}
		_, err := m.write("roles/r", fields)
		return err
	}
	_, err := m.write("roles/r", map[string]any{"parameters": map[string]any{"kind": "token"}})
	requireCode(t, err, fault.InvalidRequest, "kind")
	requireCode(t, role("expiry", map[string]any{"require_revocable": true}), fault.InvalidRequest, "require_revocable", "expiry")
	for _, class := range []string{"token", "lever", "expiry"} {
		require.NoError(t, role(class, map[string]any{"require_revocable": class != "expiry"}))
		require.Equal(t, class, m.must(m.write("roles/r/explain", nil)).Data["revocation"])
		l := m.mustSession(call{})
		require.Equal(t, class, l.data["revocation"])
		require.Equal(t, class, m.must(m.read("grants/" + l.grantID)).Data["revocation"])
		require.NoError(t, m.revoke(l))
	}
	require.Len(t, s.alive(), 1, "what nothing can kill")
}

// A child says its own class, whatever its provider's others are.
func TestAChildsOwnClass(t *testing.T) {
	m, s := newSessionMount(t, map[string]any{"require_revocable": true})
	s.changing(func(_ int, a map[string]any) { a["class"], a["handle"] = "expiry", "" })
	_, err := m.session(call{})
	requireCode(t, err, fault.ProviderViolation, "require_revocable")
	m.must(m.write("roles/r", map[string]any{"require_revocable": false}))
	require.Equal(t, "expiry", m.mustSession(call{}).data["revocation"])

	s.changing(func(_ int, a map[string]any) {
		a["class"], a["lever"], a["handle"] = "lever", "login-1", "levers/login-1"
	})
	resp := m.must(m.do(call{op: logical.UpdateOperation, path: "creds/r"}))
	require.Contains(t, strings.Join(resp.Warnings, "\n"), `"login-1"`)
	l := &lease{secret: resp.Secret, data: resp.Data, grantID: resp.Data["grant_id"].(string)}
	require.Equal(t, "lever", l.data["revocation"])
	g, err := m.b.ledger.Get(t.Context(), l.grantID)
	require.NoError(t, err)
	require.Equal(t, "login-1", g.Lever)
	require.NoError(t, m.b.ledger.Load(t.Context())) // until then nobody knows who else hangs on the lever
	require.NoError(t, m.revoke(l))
	require.Len(t, s.alive(), 2, "and the one of the first test")
}

// A system that gives no life so short is asked for its shortest, and the child is killed
// when its lease ends. One that gives none so long shortens the lease.
func TestALifeThatCannotBeAskedFor(t *testing.T) {
	m, s := newSessionMount(t, map[string]any{"parameters": map[string]any{"least": "15m", "most": "40m"}})
	for name, test := range map[string]struct {
		ttl            string
		lease, child   time.Duration
		decided        string
		renewable      time.Duration
		differs, warns bool
	}{
		"shorter than any":    {ttl: "2m", lease: 2 * time.Minute, child: 15 * time.Minute, decided: "request", differs: true},
		"one that can be had": {ttl: "20m", lease: 20 * time.Minute, child: 20 * time.Minute, decided: "request"},
		"longer than any":     {ttl: "50m", lease: 40 * time.Minute, child: 40 * time.Minute, decided: "provider", warns: true},
	} {
		explained := m.must(m.write("roles/r/explain", map[string]any{"ttl": test.ttl})).Data
		require.EqualValues(t, test.lease.Seconds(), explained["ttl"], name)
		require.Equal(t, test.decided, explained["ttl_decided_by"], name)
		require.EqualValues(t, 900, explained["child_least_ttl"])
		require.EqualValues(t, 2400, explained["child_most_ttl"])
		if test.differs {
			require.EqualValues(t, test.child.Seconds(), explained["child_ttl"], name)
		} else {
			require.NotContains(t, explained, "child_ttl", name)
		}
		resp := m.must(m.do(call{op: logical.UpdateOperation, path: "creds/r", data: map[string]any{"ttl": test.ttl}}))
		require.EqualValues(t, test.child.Seconds(), s.asked[len(s.asked)-1]["seconds"], name)
		require.Equal(t, test.lease, resp.Secret.TTL, name)
		require.Equal(t, m.clock.Now().Add(test.child).UTC().Format(time.RFC3339), resp.Data["expires_at"], name)
		require.Equal(t, m.clock.Now().Add(test.lease).UTC().Format(time.RFC3339), resp.Data["lease_expires_at"], name)
		require.Equal(t, test.warns, strings.Contains(strings.Join(resp.Warnings, "\n"), "capped"), "%s: %v", name, resp.Warnings)
		l := &lease{secret: resp.Secret, data: resp.Data}

		// Renewals end with the child.
		renewed, err := m.renew(l, time.Hour)
		require.NoError(t, err)
		require.Equal(t, test.child, renewed.TTL, name)
		require.NoError(t, m.revoke(l))
		require.Empty(t, s.alive(), "it dies when its lease ends")
	}
}

// Where nothing can kill a child that outlives its lease, the caller is told for how long.
func TestAChildThatOutlivesItsLease(t *testing.T) {
	m, _ := newSessionMount(t, map[string]any{"parameters": map[string]any{"class": "expiry", "least": "15m"}})
	resp := m.must(m.do(call{op: logical.UpdateOperation, path: "creds/r", data: map[string]any{"ttl": "2m"}}))
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "13m0s longer than its lease")
	resp = m.must(m.do(call{op: logical.UpdateOperation, path: "creds/r", data: map[string]any{"ttl": "20m"}}))
	require.NotContains(t, strings.Join(resp.Warnings, "\n"), "longer than its lease")
}
