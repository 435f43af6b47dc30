package backend

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// askedView counts what it is asked.
type askedView struct {
	logical.StaticSystemView
	asked int
}

func (v *askedView) DefaultLeaseTTL() time.Duration {
	v.asked++
	return v.DefaultLeaseTTLVal
}

func (v *askedView) LocalMount() bool {
	v.asked++
	return v.LocalMountVal
}

func (v *askedView) ReplicationState() consts.ReplicationState {
	v.asked++
	return v.ReplicationStateVal
}

func newRecentView(vault *askedView) (view *recentView, now *time.Time) {
	at := time.Now()
	return &recentView{SystemView: vault, now: func() time.Time { return at }}, &at
}

// TestVaultIsAskedAboutTheMountNowAndThen: often enough for a change to be seen, never
// on every request, and a failed call is neither kept nor hidden.
func TestVaultIsAskedAboutTheMountNowAndThen(t *testing.T) {
	vault := &askedView{StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour}}
	view, now := newRecentView(vault)
	for range 3 {
		require.Equal(t, time.Hour, view.DefaultLeaseTTL())
	}
	require.Equal(t, 1, vault.asked)

	vault.DefaultLeaseTTLVal = time.Minute
	*now = now.Add(recentFor - 1)
	require.Equal(t, time.Hour, view.DefaultLeaseTTL())
	*now = now.Add(1)
	require.Equal(t, time.Minute, view.DefaultLeaseTTL())

	vault.DefaultLeaseTTLVal = 0
	*now = now.Add(recentFor)
	require.Zero(t, view.DefaultLeaseTTL())
	vault.DefaultLeaseTTLVal = time.Minute
	require.Equal(t, time.Minute, view.DefaultLeaseTTL())

	asked := vault.asked
	*now = now.Add(-time.Hour)
	view.DefaultLeaseTTL()
	require.Equal(t, asked+1, vault.asked, "a clock that goes back makes nothing last")
}

// TestVaultIsAskedAboutTheNodeNowAndThen: an answer that is no failure is kept also if
// it is the zero value.
func TestVaultIsAskedAboutTheNodeNowAndThen(t *testing.T) {
	vault := &askedView{}
	view, now := newRecentView(vault)
	for range 3 {
		require.False(t, view.LocalMount())
	}
	require.Equal(t, 1, vault.asked)

	require.Equal(t, consts.ReplicationUnknown, view.ReplicationState())
	vault.ReplicationStateVal = consts.ReplicationPerformancePrimary
	for range 3 {
		require.Equal(t, consts.ReplicationPerformancePrimary, view.ReplicationState())
	}
	require.Equal(t, 3, vault.asked)

	vault.LocalMountVal, vault.ReplicationStateVal = true, consts.ReplicationPerformanceStandby
	*now = now.Add(recentFor)
	require.True(t, view.LocalMount())
	require.Equal(t, consts.ReplicationPerformanceStandby, view.ReplicationState())
}

// callsOf are the storage calls of f, which asks Vault nothing else.
func (m *mount) callsOf(f func()) (calls []string) {
	m.t.Helper()
	var mu sync.Mutex
	m.storage.on(func(op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, op)
		return nil
	})
	defer m.storage.on(nil)
	require.Empty(m.t, m.vault.whileAsked(f))
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(calls)
}

// TestAnIssueIsOneCallToVault: on a warm path the record is written, nothing is read
// and nothing is asked, by the broker or by the framework.
func TestAnIssueIsOneCallToVault(t *testing.T) {
	for name, role := range map[string]map[string]any{
		"minted":        {},
		"shared":        {"sharing": "entity"},
		"within limits": {"max_grants_per_entity": 9, "max_issue_rate": 9},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{role: role})
			issue := func() {
				_, err := m.credsBy(call{op: logical.ReadOperation, path: "creds/r", entity: alice})
				require.NoError(t, err)
			}
			issue()
			require.Equal(t, []string{"put"}, m.callsOf(issue))
		})
	}
}

// TestTheLifeOfALeaseReadsNothing: to renew it is one write, and to end it one deletion
// beside the one request to the provider, where this process has written its record last;
// else that is read once.
func TestTheLifeOfALeaseReadsNothing(t *testing.T) {
	for name, pushedOut := range map[string]bool{"remembered": false, "read": true} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{})
			l := m.mustCreds(nil)
			renew := func() {
				_, err := m.renew(l, time.Minute)
				require.NoError(t, err)
			}
			renew()
			want := func(calls ...string) []string {
				if pushedOut {
					m.pushOut()
					return append([]string{"get"}, calls...)
				}
				return calls
			}
			require.Equal(t, want("put"), m.callsOf(renew))
			require.Equal(t, want("delete"), m.callsOf(func() { require.NoError(t, m.revoke(l)) }))
			require.Equal(t, 1, m.server.Counts().Requests[authserver.EndpointRevoke])
		})
	}
}
