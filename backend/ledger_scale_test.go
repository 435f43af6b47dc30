package backend

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// haltScan keeps the ledger from getting to know its holders, until release: the scan
// begins with the pages of the last one.
func (m *mount) haltScan() (release func()) {
	return m.haltLists(isScan)
}

// haltSearch keeps everybody else, too, from finding out who holds grants.
func (m *mount) haltSearch() (release func()) {
	return m.haltLists(func(prefix string) bool {
		return strings.HasPrefix(prefix, grant.StoragePrefix) && strings.Count(prefix, "/") == 2
	})
}

func (m *mount) haltLists(such func(prefix string) bool) (release func()) {
	release, _ = m.haltAndCount(such)
	return release
}

// haltAndCount counts beside how often each operation is done with records of grants.
func (m *mount) haltAndCount(such func(prefix string) bool) (release func(), count func(op string) int) {
	halted, counts := make(chan struct{}), sync.Map{}
	m.storage.on(func(op, key string) error {
		if op == "list" && such(key) {
			<-halted
		}
		if strings.HasPrefix(key, grant.StoragePrefix) {
			n, _ := counts.LoadOrStore(op, &atomic.Int64{})
			n.(*atomic.Int64).Add(1)
		}
		return nil
	})
	count = func(op string) int {
		n, counted := counts.Load(op)
		if !counted {
			return 0
		}
		return int(n.(*atomic.Int64).Load())
	}
	release = sync.OnceFunc(func() {
		m.storage.on(nil)
		close(halted)
	})
	return release, count
}

func isScan(prefix string) bool { return prefix == "due/" }

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

	// Nor for the scan, though nobody knows yet who has grants of the role.
	require.EqualValues(t, 1, m.must(m.write("revoke/role/r", nil)).Data["revoked"])
	require.False(t, m.server.Active(his.token))
	require.False(t, m.b.ledger.Loaded())
	for _, c := range []call{
		{op: logical.ListOperation, path: "grants"}, {op: logical.ListOperation, path: "grants/entity"},
		{op: logical.UpdateOperation, path: "sweep"}, {op: logical.DeleteOperation, path: "providers/oauth2/p"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		c.ctx = ctx
		_, err := m.do(c)
		requireCode(t, err, fault.TemporarilyUnavailable, "still being read")
	}
}

// While it is not known who is meant a kill answers with more than too little, and is durable.
func TestAKillThatIsStillLookingSaysSo(t *testing.T) {
	m := newMount(t, setup{})
	his, err := m.credsBy(call{entity: bob})
	require.NoError(t, err)
	m.start()
	release := m.haltSearch()
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	resp, err := m.do(call{op: logical.UpdateOperation, path: "revoke/role/r", ctx: ctx})
	require.NoError(t, err)
	require.Contains(t, strings.Join(resp.Warnings, " "), "still being read")
	require.EqualValues(t, 1, resp.Data["pending"])
	require.True(t, m.server.Active(his.token))
	release()
	require.Eventually(t, func() bool { return !m.server.Active(his.token) }, promptly, time.Millisecond)
}

// After a start with very many grants a kill reads the records of what it kills, and no others.
func TestAfterAStartAKillReadsWhatItKills(t *testing.T) {
	m := withSubjects(t)
	m.must(m.write("providers/oauth2/q", m.providerFields(nil)))
	for _, name := range []string{"s", "t"} {
		m.must(m.write("roles/"+name, map[string]any{"provider": "oauth2/q", "scopes": "read"}))
	}
	tokens := map[string][]string{}
	var everybody []*lease
	issue := func(kind string, c call) {
		l, err := m.credsBy(c)
		require.NoError(t, err)
		tokens[kind], everybody = append(tokens[kind], l.grantID), append(everybody, l)
	}
	for i := range 60 {
		entity := []string{alice, bob, ""}[i%3]
		issue("s", call{entity: entity, path: "creds/s"})
		if i%4 == 0 {
			issue("t", call{entity: entity, path: "creds/t"})
		}
	}
	for i := range 6 {
		l := m.on([]string{alice, bob}[i%2], []string{m.server.URL, elsewhere}[i/3], "user-"+strconv.Itoa(i))
		tokens[[]string{"idp", "else"}[i/3]], everybody = append(tokens[[]string{"idp", "else"}[i/3]], l.grantID), append(everybody, l)
	}
	alive := len(everybody)
	for _, kill := range []struct {
		path string
		dies []string
		more map[string]any
	}{
		{path: "revoke/issuer/idp", dies: tokens["idp"]},
		{path: "revoke/role/t", dies: tokens["t"]},
		{path: "revoke/subject", dies: tokens["else"][:1], more: map[string]any{"issuer": elsewhere, "subject": "user-3"}},
		{path: "revoke/provider/oauth2/q", dies: tokens["s"]},
		{path: "revoke/role/s"},
	} {
		m.start()
		release, count := m.haltAndCount(isScan)
		resp := m.must(m.write(kill.path, kill.more))
		require.EqualValues(t, len(kill.dies), resp.Data["revoked"], kill.path)
		require.EqualValues(t, 0, resp.Data["pending"], kill.path)
		require.LessOrEqual(t, count("get"), 3*len(kill.dies)+2, "%s: to find it, to kill it, and to forget it", kill.path)
		require.False(t, m.b.ledger.Loaded())
		release()
		alive -= len(kill.dies)
		living := 0
		for _, l := range everybody {
			if m.server.Active(l.token) {
				living++
				require.NotContains(t, kill.dies, l.grantID)
			}
		}
		require.Equal(t, alive, living, kill.path)
	}
}

// Who looks for a name that nobody knows, and to no avail, is told so before all is read.
func TestAfterAStartANameThatNobodyKnowsIsTold(t *testing.T) {
	m := newMount(t, setup{})
	m.mustCreds(nil)
	m.start()
	release := m.haltScan()
	defer release()
	resp := m.must(m.write("revoke/role/nobodys", nil))
	require.Equal(t, true, resp.Data["unknown"])
	require.False(t, m.b.ledger.Loaded())
}

// A record that cannot be read may be of what is killed or frozen: nobody is told of a name
// that it is unknown while there is one, also before all is read.
func TestAfterAStartWhatCannotBeReadMayBeMeant(t *testing.T) {
	m := newMount(t, setup{})
	m.mustCreds(nil)
	key := m.allKeysBelow(grant.StoragePrefix)[0]
	was, err := m.storage.Get(t.Context(), key)
	require.NoError(t, err)
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
	m.must(m.do(call{op: logical.DeleteOperation, path: "roles/r"}))
	m.start()
	release := m.haltScan()
	defer release()
	require.Nil(t, m.must(m.write("revoke/role/r", nil)).Data["unknown"])
	resp, err := m.write("revoke/role/r", map[string]any{"freeze": true})
	require.NoError(t, err)
	require.Equal(t, true, resp.Data["frozen"])
	require.False(t, m.b.ledger.Loaded())
	require.NoError(t, m.storage.Put(t.Context(), was))
}

// Of many kills right after a start, such as a crash has left under way, a few search at once,
// and the others wait for their turn or for the scan, whichever comes first.
func TestAfterAStartAFloodOfKillsSearchesInTurn(t *testing.T) {
	m := newMount(t, setup{})
	var leases []*lease
	for _, entity := range []string{alice, bob, ""} {
		l, err := m.credsBy(call{entity: entity})
		require.NoError(t, err)
		leases = append(leases, l)
	}
	m.start()
	lists, most, halted := atomic.Int64{}, atomic.Int64{}, make(chan struct{})
	m.storage.on(func(op, key string) error {
		if op == "list" && strings.HasPrefix(key, grant.StoragePrefix) {
			now := lists.Add(1)
			defer lists.Add(-1)
			for was := most.Load(); was < now && !most.CompareAndSwap(was, now); was = most.Load() {
			}
			<-halted
		}
		return nil
	})
	for i := range 30 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := m.do(call{op: logical.UpdateOperation, path: "revoke/role/" + []string{"r", "s"}[i%2], ctx: ctx})
		require.NoError(t, err)
	}
	atOnce := most.Load()
	close(halted)
	for _, l := range leases {
		require.Eventually(t, func() bool { return !m.server.Active(l.token) }, promptly, time.Millisecond)
	}
	m.waitForKills()
	require.LessOrEqual(t, atOnce, int64(3*4), "two searches and the scan, four lists each")
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
