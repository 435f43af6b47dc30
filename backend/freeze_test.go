package backend

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// thingOf is what is frozen by this name.
func thingOf(name string) ending.Thing {
	kind, rest, _ := strings.Cut(name, "/")
	return ending.Thing{Kind: kind, Name: rest}
}

// freezeKey is where a freeze is stored.
func freezeKey(name string) string {
	return "freeze/" + base64.RawURLEncoding.EncodeToString([]byte(name))
}

func TestTenThousandFreezes(t *testing.T) {
	const many = 10_000
	m := newMount(t, setup{})
	m.storage.limit = 1 << 20
	var want []string
	for i := range many {
		name := fmt.Sprintf("entity/%08d-cccc-4ccc-8ccc-333333333333", i)
		want = append(want, name)
		require.NoError(t, m.b.freezer.Freeze(t.Context(), thingOf(name), "token-offboarding (entity "+bob+")"), i)
	}
	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": true}))
	want = append(want, "entity/"+alice)
	slices.Sort(want)

	m.start()
	var reads atomic.Int64
	m.storage.on(func(op, _ string) error {
		if op != "put" {
			reads.Add(1)
		}
		return nil
	})
	for _, entity := range []string{alice, strings.TrimPrefix(want[4321], "entity/")} {
		m.vault.change(func(v *vaultView) { v.entities[entity] = &logical.Entity{ID: entity} })
		_, err := m.credsBy(call{entity: entity})
		requireCode(t, err, fault.AccessDenied, "the entity is frozen")
	}
	require.Less(t, reads.Load(), int64(20), "a start reads what is frozen with one list, not one by one")
	_, err := m.credsBy(call{entity: bob})
	require.NoError(t, err)
	reads.Store(0)
	_, err = m.credsBy(call{entity: bob})
	require.NoError(t, err)
	require.Zero(t, reads.Load(), "a warm issue reads nothing")
	m.storage.on(nil)

	require.Equal(t, want[:1000], m.keys("frozen", nil))
	var all []string
	for query := map[string]any{"limit": 777}; ; query["after"] = all[len(all)-1] {
		page := m.keys("frozen", query)
		if len(page) == 0 {
			break
		}
		require.LessOrEqual(t, len(page), 777)
		all = append(all, page...)
	}
	require.Equal(t, want, all)
	require.Equal(t, want[501:503], m.keys("frozen", map[string]any{"after": want[500] + "-gone", "limit": 2}), "after need not exist")
	_, err = m.list("frozen", map[string]any{"limit": 1001})
	requireCode(t, err, fault.InvalidRequest, "limit")

	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": false}))
	_, err = m.credsBy(call{entity: alice})
	require.NoError(t, err)
}

// yesterdaysFreezes is the one entry that a build of before wrote.
func (m *mount) yesterdaysFreezes(since time.Time, names ...string) {
	items := map[string]any{}
	for _, name := range names {
		items[name] = map[string]any{"since": since, "by": "root"}
	}
	entry, err := logical.StorageEntryJSON("frozen", items)
	require.NoError(m.t, err)
	require.NoError(m.t, m.storage.Put(context.Background(), entry))
}

func (m *mount) storedAt(key string) *logical.StorageEntry {
	entry, err := m.storage.InmemStorage.Get(context.Background(), key)
	require.NoError(m.t, err)
	return entry
}

// TestWhatYesterdayFrozeStaysFrozen, and what it had issued is killed, before, in the
// middle of and after the move to entries of their own, whatever fails on the way.
func TestWhatYesterdayFrozeStaysFrozen(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("roles/other", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	before, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	since := m.clock.Now().Add(-time.Hour)
	names := []string{"entity/" + alice, "provider/oauth2/gone", "role/other"}
	for i := range 50 {
		names = append(names, fmt.Sprintf("entity/x%03d", i))
	}
	slices.Sort(names)
	m.yesterdaysFreezes(since, names...)
	m.start()

	stopped := func(names []string) {
		t.Helper()
		_, err := m.credsBy(call{entity: alice})
		requireCode(t, err, fault.AccessDenied, "the entity is frozen")
		_, err = m.credsBy(call{entity: bob, path: "creds/other"})
		requireCode(t, err, fault.AccessDenied, "the role is frozen")
		l, err := m.credsBy(call{entity: bob})
		require.NoError(t, err)
		require.NoError(t, m.revoke(l))
		listed := m.must(m.list("frozen", nil))
		require.Equal(t, names, listed.Data["keys"])
		about := listed.Data["key_info"].(map[string]any)["entity/"+alice]
		require.Equal(t, map[string]any{"since": stamp(since), "by": "root"}, about)
	}
	stopped(names)
	_, err = m.renew(before, time.Minute)
	requireCode(t, err, fault.AccessDenied, "frozen")

	// On a node that may not write nothing moves.
	m.vault.change(func(v *vaultView) { v.ReplicationStateVal = consts.ReplicationPerformanceStandby })
	m.start()
	require.Equal(t, names, m.keys("frozen", nil))
	require.NoError(t, m.periodic())
	require.NotNil(t, m.storedAt("frozen"))
	left, err := m.storage.List(t.Context(), ending.FrozenPrefix)
	require.NoError(t, err)
	require.Empty(t, left)
	m.vault.change(func(v *vaultView) {
		v.ReplicationStateVal = consts.ReplicationPerformanceDisabled | consts.ReplicationDRDisabled
	})

	// It dies after a few.
	m.start()
	var puts atomic.Int64
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, ending.FrozenPrefix) && puts.Add(1) > 20 {
			return errStorage
		}
		return nil
	})
	require.NoError(t, m.periodic())
	m.storage.on(nil)
	require.NotNil(t, m.storedAt("frozen"), "what has not moved is still there")
	m.start()
	stopped(names)
	// What is thawed in the middle of it stays thawed; what was frozen before keeps its time.
	thawed := []string{"entity/x001", "entity/x040", "provider/oauth2/gone"}
	for _, name := range thawed {
		m.must(m.write("revoke/"+name, map[string]any{"freeze": false}))
	}
	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": true}))
	require.False(t, m.server.Active(before.token), "a grant that was there before dies as before")
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(thawed, name) })
	stopped(names)
	m.start()
	stopped(names)

	// It dies between the last move and the end of the old entry.
	m.storage.on(func(op, key string) error {
		if op == "delete" && key == "frozen" {
			return errStorage
		}
		return nil
	})
	require.NoError(t, m.periodic())
	m.storage.on(nil)
	require.NotNil(t, m.storedAt("frozen"))
	stopped(names)
	m.must(m.write("revoke/entity/x002", map[string]any{"freeze": false}))
	names = slices.DeleteFunc(names, func(name string) bool { return name == "entity/x002" })
	m.start()
	stopped(names)
	require.NoError(t, m.periodic())
	require.Nil(t, m.storedAt("frozen"))
	stopped(names)
	m.start()
	stopped(names)
}

func TestAFreezeOnAnotherNodeIsSeen(t *testing.T) {
	m := newMount(t, setup{})
	here := m.b
	m.start()
	there := m.b
	freezeThere := func(on bool) {
		m.b = there
		m.must(m.write("revoke/role/r", map[string]any{"freeze": on}))
		m.b = here
	}
	m.b = here
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	require.NoError(t, m.b.freezer.Freeze(t.Context(), thingOf("entity/"+bob), "test"))
	// After a start a node reads its grants in the background.
	for _, node := range []*broker{here, there} {
		require.NoError(t, node.ledger.Load(t.Context()))
	}
	var mu sync.Mutex
	var all []string
	m.storage.on(func(op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "list" || op == "get" && !strings.HasPrefix(key, "kill/") {
			all = append(all, op+" "+key)
		}
		return nil
	})
	takeReads := func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { all = nil }()
		return all
	}
	for range 2 {
		freezeThere(true)
		for _, m.b = range []*broker{there, here} {
			m.waitForKills()
		}
		takeReads()
		m.b.InvalidateKey(t.Context(), freezeKey("role/r"))
		_, err := m.creds(nil)
		requireCode(t, err, fault.AccessDenied, "the role is frozen")
		require.Equal(t, []string{"get " + freezeKey("role/r")}, takeReads(), "what others wrote is read again, and nothing else")
		require.Contains(t, m.keys("frozen", nil), "role/r")
		freezeThere(false)
		m.b.InvalidateKey(t.Context(), freezeKey("role/r"))
		require.NotContains(t, m.keys("frozen", nil), "role/r")
		l := m.mustCreds(nil)
		require.NoError(t, m.revoke(l))
	}
	m.storage.on(nil)
}

func TestNothingIsGrantedWhileItIsUnknownWhatIsFrozen(t *testing.T) {
	m := newMount(t, setup{})
	m.storage.on(func(op, key string) error {
		if strings.HasPrefix(key, ending.FrozenPrefix) || key == "frozen" {
			return errors.New("broken")
		}
		return nil
	})
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.Empty(t, m.server.Live())
	m.storage.on(nil)
	m.mustCreds(nil)
	// One entry that nobody can read stops what it is about, and nothing else.
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: freezeKey("role/broken"), Value: []byte("{")}))
	m.b = newBroker(catalog.Types(), m.storage, m.clock.Now)
	require.NoError(t, m.b.Setup(t.Context(), &logical.BackendConfig{StorageView: m.storage, System: m.vault, Logger: hclog.NewNullLogger()}))
	m.mustCreds(nil)
	frozen, err := m.b.freezer.Check(t.Context(), ending.Basis{Role: "broken"})
	require.NoError(t, err)
	require.Len(t, frozen, 1)
}

// Builds of before cut a namespaced holder's id at its dot, showed the operator what was
// left, and refused what was frozen by that: it stays frozen, and can be thawed by it.
func TestWhatWasFrozenByTheBeginningOfAnIDStaysFrozen(t *testing.T) {
	m := newMount(t, setup{})
	inNamespace := alice + ".Zx09q"
	m.vault.change(func(v *vaultView) { v.entities[inNamespace] = &logical.Entity{ID: inNamespace} })
	l, err := m.credsBy(call{entity: inNamespace})
	require.NoError(t, err)
	entry, err := logical.StorageEntryJSON(ending.OldFrozenKey, map[string]ending.Frozen{"entity/" + alice: {Since: m.clock.Now(), By: "root"}})
	require.NoError(t, err)
	require.NoError(t, m.storage.Put(t.Context(), entry))
	for range 2 {
		m.start()
		_, err = m.credsBy(call{entity: inNamespace})
		requireCode(t, err, fault.AccessDenied, "the entity is frozen")
		_, err = m.renew(l, 0)
		requireCode(t, err, fault.AccessDenied, "the entity is frozen")
		require.NoError(t, m.periodic())
	}
	require.Equal(t, []string{"entity/" + alice}, m.keys("frozen", nil))
	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": false}))
	_, err = m.credsBy(call{entity: inNamespace})
	require.NoError(t, err)
}

// A freeze whose entry is broken is one all the same, and keeps no kill from its work.
func TestAKillWithABrokenFreezeKills(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	require.NoError(t, m.storage.Put(context.Background(), &logical.StorageEntry{
		Key: "freeze/" + base64.RawURLEncoding.EncodeToString([]byte("role/r")), Value: []byte("{broken"),
	}))
	m.start()
	m.must(m.write("revoke/role/r", map[string]any{"freeze": true}))
	require.False(t, m.server.Active(l.token))
	_, err := m.creds(nil)
	requireCode(t, err, fault.AccessDenied, "frozen")
}
