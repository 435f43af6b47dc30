package backend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
)

// crowd is n entities with a token each.
func (m *mount) crowd(n int) (entities []string, leases []*lease) {
	m.t.Helper()
	for i := range n {
		entity := fmt.Sprintf("33333333-cccc-4ccc-8ccc-%012x", i)
		entities = append(entities, entity)
		m.appear(entity)
		l, err := m.credsBy(call{entity: entity})
		require.NoError(m.t, err)
		leases = append(leases, l)
	}
	return entities, leases
}

func (m *mount) appear(entities ...string) {
	m.vault.change(func(v *vaultView) {
		for _, entity := range entities {
			v.entities[entity] = &logical.Entity{ID: entity}
		}
	})
}

func (m *mount) vanish(entities ...string) {
	m.vault.change(func(v *vaultView) {
		for _, entity := range entities {
			delete(v.entities, entity)
		}
	})
}

// passes lets the periodic sweep come round once, after a while.
func (m *mount) passes(later time.Duration) {
	m.t.Helper()
	m.clock.advance(later)
	require.NoError(m.t, m.b.ledger.Load(m.t.Context()))
	for {
		require.NoError(m.t, m.periodic())
		m.waitForKills()
		if m.b.killer.NextAfter() == "" {
			return
		}
	}
}

// waiting is how many holders are looked at once more before they lose anything.
func (m *mount) waiting() (n int) {
	m.t.Helper()
	_, rest, found := strings.Cut(m.metrics(), "\nbroker_holders_unknown ")
	require.True(m.t, found)
	_, err := fmt.Sscan(rest, &n)
	require.NoError(m.t, err)
	return n
}

func newCrowdedMount(t *testing.T) *mount {
	t.Helper()
	return newMount(t, setup{role: map[string]any{"ttl": "1h"}})
}

// Vault loses sight of all its entities, and finds them again: nothing dies. Those that
// were really deleted lose their tokens at the second look.
func TestHoldersWhoVanishAndComeBackLoseNothing(t *testing.T) {
	const many = 1000
	m := newCrowdedMount(t)
	entities, leases := m.crowd(many)
	m.passes(time.Minute)
	m.vanish(entities...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), many, "one look is not enough")
	require.Equal(t, many, m.waiting())
	require.Contains(t, m.log.String(), "Vault does not know many holders")
	require.Contains(t, m.metrics(), "broker_holders_unknown 1000")
	m.passes(29 * time.Second)
	require.Len(t, m.server.Live(), many, "the second look must not come too soon")
	m.appear(entities...)
	m.passes(time.Second)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), many)
	require.Zero(t, m.waiting())
	require.Contains(t, m.metrics(), "broker_holders_unknown 0")

	m.vanish(entities[:many/2]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), many, "what was forgiven does not count as a first look")
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), many/2, "within two minutes who was deleted has nothing")
	require.False(t, m.server.Active(leases[0].token))
	require.True(t, m.server.Active(leases[many-1].token))
	m.passes(time.Minute)
	require.Zero(t, m.waiting())
	entry, err := m.storage.Get(t.Context(), ending.FirstLooksKey)
	require.NoError(t, err)
	require.Nil(t, entry)
}

func TestWhoIsNotMerelyUnknownWaitsForNoSecondLook(t *testing.T) {
	m := newCrowdedMount(t)
	entities, leases := m.crowd(40)
	m.passes(time.Minute)
	m.vanish(entities[:20]...)
	m.vault.change(func(v *vaultView) {
		v.entities[entities[20]].Disabled = true
		v.entities[entities[21]] = &logical.Entity{ID: bob} // merged into another
	})
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 38)
	require.False(t, m.server.Active(leases[20].token))
	require.False(t, m.server.Active(leases[21].token))
	require.Equal(t, 20, m.waiting())
	m.sweep() // by hand: somebody has looked
	m.waitForKills()
	require.Len(t, m.server.Live(), 18)
}

// What is many: more than ten, and one in ten of those who were judged.
func TestFewUnknownHoldersLoseTheirTokensAtOnce(t *testing.T) {
	for name, c := range map[string]struct{ there, deleted, left int }{
		"all of a few":       {10, 10, 0},
		"one more":           {11, 11, 11},
		"fewer than a tenth": {120, 11, 109},
		"a tenth":            {110, 11, 110},
	} {
		t.Run(name, func(t *testing.T) {
			m := newCrowdedMount(t)
			entities, _ := m.crowd(c.there)
			m.passes(time.Minute)
			m.passes(time.Minute)
			m.vanish(entities[:c.deleted]...)
			m.passes(time.Minute)
			require.Len(t, m.server.Live(), c.left)
		})
	}
	// Ten within one look and more within the next are many all the same.
	m := newCrowdedMount(t)
	entities, _ := m.crowd(50)
	m.vanish(entities[:10]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 40)
	m.vanish(entities[10:20]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 40)
	m.vanish(entities[20:30]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 30, "each has a first look of its own")
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 20)
	m.passes(11 * time.Minute)
	m.vanish(entities[30:35]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 15, "what was ten minutes ago is over")
}

// The first look outlives the process that took it: a node that restarts again and again
// keeps nobody alive, and one that has just started kills nobody at its first look.
func TestTheFirstLookOutlivesARestart(t *testing.T) {
	m := newCrowdedMount(t)
	entities, _ := m.crowd(30)
	m.start()
	m.vanish(entities[:20]...)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Len(t, m.server.Live(), 30)
	m.start()
	m.vanish(entities[20:25]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 10, "a second look, and few who are new")

	// Storage that cannot tell who was looked at confirms nobody; one that does not take
	// it down leaves it in memory.
	m = newCrowdedMount(t)
	entities, _ = m.crowd(30)
	m.passes(0)
	m.vanish(entities[:20]...)
	m.storage.on(func(op, key string) error {
		if key == ending.FirstLooksKey {
			return errStorage
		}
		return nil
	})
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 30)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 10)
	m.b.invalidate(t.Context(), ending.FirstLooksKey)
	m.vanish(entities[20:25]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 10, "nothing can be read")
	m.storage.heal()
	m.passes(time.Minute)
	require.LessOrEqual(t, len(m.server.Live()), 10)
}

// What cannot be told between two looks makes the second one a first one: Vault may have
// lost sight anew.
func TestWhatVaultCannotSayIsNoLook(t *testing.T) {
	m := newCrowdedMount(t)
	entities, _ := m.crowd(100)
	m.passes(0)
	m.vanish(entities[:50]...)
	m.passes(time.Minute)
	require.Equal(t, 50, m.waiting())
	m.vault.change(func(v *vaultView) { v.fail = errStorage })
	m.appear(entities...)
	m.passes(time.Hour / 2)
	m.vault.change(func(v *vaultView) { v.fail = nil })
	m.vanish(entities[:50]...)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 100)
	m.passes(time.Minute)
	require.Len(t, m.server.Live(), 50)
}
