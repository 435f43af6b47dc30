package backend

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// betweenRecordAndShare runs act once with the id of the next grant, when it is on
// record and its child cannot be joined yet: an issue looks at its provider once more
// then.
func (m *mount) betweenRecordAndShare(act func(id string)) {
	recorded := ""
	m.storage.on(func(op, key string) error {
		switch {
		case op == "put" && strings.HasPrefix(key, grant.StoragePrefix) && recorded == "":
			parts := strings.Split(strings.TrimPrefix(key, grant.StoragePrefix), "/")
			recorded = parts[1] + "." + parts[2] + parts[3]
			m.b.providers.Drop("oauth2/p")
		case op == "get" && key == downstream.StoragePrefix+"oauth2/p" && recorded != "":
			m.storage.on(nil)
			act(recorded)
		}
		return nil
	})
}

// Whoever kills a shared grant in the moment between its record and the first lease on
// it has killed it: no lease brings it back.
func TestAKillBeforeTheFirstLeaseIsNotUndone(t *testing.T) {
	kills := map[string]func(m *mount, id string){
		"revoke/grant":  func(m *mount, id string) { m.must(m.write("revoke/grant/"+id, nil)) },
		"revoke/entity": func(m *mount, _ string) { m.must(m.write("revoke/entity/"+alice, nil)) },
		"revoke/role":   func(m *mount, _ string) { m.must(m.write("revoke/role/r", nil)) },
		"the holder's end": func(m *mount, _ string) {
			m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = true })
			m.sweep()
			m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = false })
		},
	}
	for name, kill := range kills {
		t.Run(name, func(t *testing.T) {
			m := newSharingMount(t, nil)
			killed := ""
			m.betweenRecordAndShare(func(id string) {
				killed = id
				kill(m, id)
				m.waitForKills()
			})
			l, err := m.credsBy(call{entity: alice})
			require.NoError(t, err)
			require.NotEmpty(t, killed)
			require.NotEqual(t, killed, l.grantID)
			require.True(t, m.server.Active(l.token), "a dead token is handed out")
			require.Equal(t, []string{l.grantID}, m.allGrants(), "the record of the dead one is back")
		})
		t.Run(name+", which fails", func(t *testing.T) {
			m := newSharingMount(t, nil)
			killed := ""
			m.betweenRecordAndShare(func(id string) {
				killed = id
				m.server.Break(authserver.EndpointRevoke, authserver.Answer(503, "text/plain", ""))
				kill(m, id)
				m.waitForKills()
			})
			l, err := m.credsBy(call{entity: alice})
			require.NoError(t, err)
			require.NotEqual(t, killed, l.grantID, "a token that is to die is handed out")
			g, err := m.b.ledger.Get(t.Context(), killed)
			require.NoError(t, err)
			require.NotNil(t, g.Doom, "the kill was decided")
			m.server.Break(authserver.EndpointRevoke, nil)
			m.sweep()
			m.waitForKills()
			require.Equal(t, []string{l.grantID}, m.allGrants())
		})
	}
}

// With class expiry nothing can be revoked; that it was to die still ends the joining
// and the renewals.
func TestATokenThatNothingCanKillIsNotJoinedOnceItWasToDie(t *testing.T) {
	m := newSharingMount(t, nil)
	m.must(m.write("providers/oauth2/p", map[string]any{"revocation": "expiry"}))
	killed := ""
	m.betweenRecordAndShare(func(id string) {
		killed = id
		m.must(m.write("revoke/entity/"+alice, nil))
		m.waitForKills()
	})
	l, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	require.NotEqual(t, killed, l.grantID)
	g, err := m.b.ledger.Get(t.Context(), killed)
	require.NoError(t, err)
	require.NotNil(t, g.Doom)
}

// Storage that fails in the middle of a kill leaves it decided: the token may live, and
// nobody joins it any more.
func TestAKillThatStorageKeepsFromItsRecordEndsTheJoining(t *testing.T) {
	m := newSharingMount(t, nil)
	first := m.together(1)[0]
	m.pushOut()
	m.storage.on(func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, grant.StoragePrefix) {
			return errStorage
		}
		return nil
	})
	require.Error(t, m.b.killer.Kill(t.Context(), first.grantID, ending.CauseToken))
	m.storage.heal()
	second := m.together(1)[0]
	require.NotEqual(t, first.token, second.token)
	m.sweep()
	m.waitForKills()
	require.False(t, m.server.Active(first.token), "the kill is carried on")
	require.Equal(t, []string{second.grantID}, m.allGrants())
}

// The records that another node has written are its own: what this one keeps in memory
// of them is old.
func TestWhatAnotherNodeHasWrittenIsNotOverwritten(t *testing.T) {
	m := newSharingMount(t, nil)
	first := m.together(1)[0]
	s := m.b.shares.of(first.grantID)
	require.NotNil(t, s)
	g, err := m.b.ledger.Get(t.Context(), first.grantID)
	require.NoError(t, err)
	m.b.ledger.Invalidate()
	require.NoError(t, m.b.ledger.Remove(t.Context(), g))
	m.server.Kill(first.token)
	require.ErrorIs(t, s.change(t.Context(), func(g *grant.Grant) error {
		g.SetShare("s", m.clock.Now().Add(time.Hour))
		return nil
	}), errShareOver)
	require.Empty(t, m.allGrants())
	require.NotEqual(t, first.token, m.together(1)[0].token)
}
