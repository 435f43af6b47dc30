package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
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

// A token is renewed before its end, and the former one dies once no call can be under way
// with it.
func TestABorrowedTokenIsRenewed(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	first := s.last()
	m.clock.advance(39 * time.Minute)
	m.mustCreds(nil)
	m.settled()
	require.Equal(t, first, s.last())
	m.clock.advance(2 * time.Minute)
	m.mustCreds(nil) // nobody waits for the next one
	require.Equal(t, first, s.last())
	m.settled()
	m.mustCreds(nil)
	second := s.last()
	require.NotEqual(t, first, second)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.True(t, m.server.Active(first), "a call may be under way with it")
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.False(t, m.server.Active(first))
	require.True(t, m.server.Active(second))
	require.Len(t, m.own(), 1)
}

// While the lender gives none, the token at hand serves to its end; then it is said why
// nothing goes any more, and nobody is blamed for that.
func TestALenderThatIsDown(t *testing.T) {
	m, s := newTenantMount(t)
	m.longLeases()
	l := m.mustCreds(nil)
	m.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusBadGateway, "text/plain", "down"))
	m.clock.advance(50 * time.Minute)
	m.mustCreds(nil)
	m.settled()
	m.clock.advance(10 * time.Minute)
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "its credential is a token of oauth2/p (token_provider)")
	require.Equal(t, "ok", m.must(m.read("providers/tenant/x")).Data["health"])
	require.NotContains(t, m.metrics(), `broker_answers_lost_total{provider="tenant/x"}`)
	require.Error(t, m.revoke(l))
	m.heal()
	m.clock.advance(time.Hour)
	m.sweep()
	m.waitForKills()
	require.Equal(t, 1, s.alive(), "what could not be killed was kept in mind")
}

// Whoever kills the token ends its use at once, also where the kill does not succeed, and
// where nothing can kill it.
func TestAKillEndsTheUseOfABorrowedToken(t *testing.T) {
	for name, c := range map[string]struct {
		lender map[string]any
		kill   string
		fails  bool
		frozen bool
	}{
		"of the lender":                 {kill: "provider/oauth2/p"},
		"of the broker":                 {kill: "entity/broker"},
		"that fails":                    {kill: "provider/oauth2/p", fails: true},
		"that cannot be":                {kill: "provider/oauth2/p", lender: map[string]any{"revocation": "expiry"}},
		"of a lender that is frozen":    {kill: "provider/oauth2/p", frozen: true},
		"of a broker that is frozen":    {kill: "entity/broker", frozen: true},
		"that fails, of what is frozen": {kill: "provider/oauth2/p", fails: true, frozen: true},
	} {
		t.Run(name, func(t *testing.T) {
			m, s := newTenantMount(t)
			m.longLeases()
			m.must(m.write("providers/oauth2/p", c.lender))
			l := m.mustCreds(nil)
			first := s.last()
			if c.fails {
				m.server.Break(authserver.EndpointRevoke, authserver.Answer(http.StatusBadGateway, "text/plain", "down"))
			}
			order := map[string]any{}
			if c.frozen {
				order["freeze"] = true
			}
			killed := m.must(m.write("revoke/"+c.kill, order)).Data
			require.NotContains(t, killed, "unknown")
			_, err := m.creds(nil)
			if !c.frozen {
				require.NoError(t, err)
				require.NotEqual(t, first, s.last())
				return
			}
			requireCode(t, err, fault.AccessDenied, "frozen", "token_provider")
			require.Error(t, m.revoke(l), "nothing can kill there without a credential")
			require.Equal(t, first, s.last())
			require.Equal(t, 1, s.alive())
			m.must(m.write("revoke/"+c.kill, map[string]any{"freeze": false}))
			m.heal()
			m.clock.advance(time.Hour)
			m.sweep()
			m.waitForKills()
			require.Zero(t, s.alive())
		})
	}
}

// A freeze holds before its kill has come to the token.
func TestABorrowedTokenIsNotUsedOnceItsLenderIsFrozen(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	used := s.alive()
	require.NoError(t, m.b.freezer.Freeze(t.Context(), ending.Thing{Kind: ending.KindProvider, Name: "oauth2/p"}, "test"))
	_, err := m.creds(nil)
	requireCode(t, err, fault.AccessDenied, "frozen")
	require.Equal(t, used, s.alive())
	require.NoError(t, m.b.freezer.Thaw(t.Context(), ending.Thing{Kind: ending.KindProvider, Name: "oauth2/p"}))
}

// A freeze that comes while the lender mints is found, thawed meanwhile or not.
func TestABorrowedTokenThatWasFrozenOnItsWay(t *testing.T) {
	for _, what := range []string{"provider/oauth2/p", "entity/broker"} {
		m, s := newTenantMount(t)
		m.server.Break(authserver.EndpointToken, authserver.Once(authserver.Before(func() {
			_, err := m.write("revoke/"+what, map[string]any{"freeze": true})
			assert.NoError(t, err)
			_, err = m.write("revoke/"+what, map[string]any{"freeze": false})
			assert.NoError(t, err)
		})))
		_, err := m.creds(nil)
		requireCode(t, err, fault.AccessDenied, "frozen meanwhile")
		require.Empty(t, m.server.Live())
		require.Empty(t, m.own())
		require.Empty(t, s.last())
		m.mustCreds(nil)
	}
}

// What crashes between mint and record leaves nothing that lives.
func TestABorrowedTokenThatCannotBeRecorded(t *testing.T) {
	m, s := newTenantMount(t)
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, "grant/") {
			return errStorage
		}
		return nil
	})
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "token_provider")
	require.Empty(t, m.server.Live())
	require.Empty(t, s.last(), "nothing is used that is not on record")
	m.heal()
	m.mustCreds(nil)
}

// Another process kills what the one before has left of its own, and gets new ones.
func TestABorrowedTokenAfterARestart(t *testing.T) {
	m, s := newTenantMount(t)
	l := m.mustCreds(nil)
	first := s.last()
	m.start()
	require.NoError(t, m.b.ledger.Load(t.Context()))
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.False(t, m.server.Active(first))
	require.NoError(t, m.revoke(l))
	second := s.last()
	require.NotEqual(t, first, second)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.True(t, m.server.Active(second), "it is in use")
}

// Another node has written: what is in memory is believed no more.
func TestABorrowedTokenAfterAFailover(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	first := s.last()
	m.b.invalidate(t.Context(), grant.StoragePrefix+"broker/x")
	m.mustCreds(nil)
	require.NotEqual(t, first, s.last())
	require.NoError(t, m.b.ledger.Load(t.Context()))
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.False(t, m.server.Active(first))
}

// The token goes with who borrowed it.
func TestABorrowedTokenDiesWithItsBorrower(t *testing.T) {
	for name, end := range map[string]func(*mount, *tenantSystem){
		"deleted": func(m *mount, _ *tenantSystem) { m.must(m.delete("providers/tenant/x", nil)) },
		"credential": func(m *mount, s *tenantSystem) {
			m.must(m.write("providers/tenant/x", map[string]any{"token_provider": "", "token": m.hide("own-token-of-the-tenant")}))
		},
		"disabled": func(m *mount, _ *tenantSystem) {
			m.must(m.write("providers/tenant/x", map[string]any{"disabled": true}))
		},
		"another lender": func(m *mount, _ *tenantSystem) {
			m.must(m.write("providers/oauth2/q", m.providerFields(nil)))
			m.must(m.write("providers/tenant/x", map[string]any{"token_provider": "oauth2/q"}))
		},
		"other terms": func(m *mount, _ *tenantSystem) {
			m.must(m.write("providers/tenant/x", map[string]any{"token_request": map[string]any{"scopes": []string{"write"}}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, s := newTenantMount(t)
			require.NoError(t, m.revoke(m.mustCreds(nil)))
			lent := s.last()
			require.True(t, m.server.Active(lent))
			end(m, s)
			m.waitForKills()
			require.False(t, m.server.Active(lent))
			require.Empty(t, m.own())
		})
	}
}

// A forced deletion kills by it what lived, and it dies last.
func TestABorrowerIsDeletedByForce(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	m.mustCreds(nil)
	_, err := m.delete("providers/tenant/x", nil)
	requireCode(t, err, fault.InvalidRequest, "2 grants of this provider live")
	require.EqualValues(t, 2, m.must(m.delete("providers/tenant/x", map[string]any{"force": true})).Data["revoked"])
	m.waitForKills()
	require.Zero(t, s.alive())
	require.Empty(t, m.server.Live())
	require.Empty(t, m.allGrants())
}

// A disabled borrower still kills, by a token that it has for no longer than that.
func TestADisabledBorrowerStillKills(t *testing.T) {
	m, s := newTenantMount(t)
	l := m.mustCreds(nil)
	m.must(m.write("providers/tenant/x", map[string]any{"disabled": true}))
	m.waitForKills()
	require.Empty(t, m.server.Live())
	require.NoError(t, m.revoke(l))
	require.Zero(t, s.alive())
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, m.server.Live())
}

// The end of a mount kills by what is borrowed, and that last; also after a restart, and
// where the door is closed already.
func TestTheEndOfAMountKillsTheBrokersOwnLast(t *testing.T) {
	for name, before := range map[string]func(*mount){
		"with a token":    func(*mount) {},
		"without one":     func(m *mount) { m.start() },
		"long after that": func(m *mount) { m.clock.advance(5 * time.Hour); m.sweep(); m.waitForKills() },
	} {
		t.Run(name, func(t *testing.T) {
			m, s := newTenantMount(t)
			m.longLeases()
			for range 40 {
				m.mustCreds(nil)
			}
			before(m)
			m.taint(true)
			require.NoError(t, m.periodic())
			require.Zero(t, s.alive())
			require.Empty(t, m.server.Live())
			require.Empty(t, m.allGrants())
			require.Zero(t, s.no, "none was dead when it was needed")
		})
	}
}

// Many callers at once are one mint at the lender.
func TestManyBorrowersWaitForOneToken(t *testing.T) {
	m, _ := newTenantMount(t)
	var all errgroup.Group
	for range 20 {
		all.Go(func() error { _, err := m.do(call{op: logical.UpdateOperation, path: "creds/r"}); return err })
	}
	require.NoError(t, all.Wait())
	require.Len(t, m.own(), 1)
	require.Len(t, m.server.Live(), 1)
}

// A system that does not take the token any more gets one fresh one; then it is believed,
// and the lender is not asked for each refusal.
func TestASystemThatRefusesABorrowedToken(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	m.server.Kill(s.last())
	m.mustCreds(nil)

	m.clock.advance(2 * time.Minute)
	s.change(func() { s.deaf = true })
	before := m.server.Counts().Minted
	for range 5 {
		_, err := m.creds(nil)
		requireCode(t, err, fault.ParentRefused)
	}
	require.Equal(t, before+1, m.server.Counts().Minted)
	require.Equal(t, "refused", m.must(m.read("providers/tenant/x")).Data["health"])
	s.change(func() { s.deaf = false })
	m.clock.advance(2 * time.Minute)
	m.mustCreds(nil)
	require.Equal(t, "ok", m.must(m.read("providers/tenant/x")).Data["health"])
	require.NoError(t, m.periodic()) // what was refused is dead
	m.waitForKills()
	require.Len(t, m.own(), 1)
}

// No child holds what was borrowed to make it.
func TestABorrowedTokenInAChildsAnswer(t *testing.T) {
	m, s := newTenantMount(t)
	s.change(func() { s.echo = true })
	_, err := m.creds(nil)
	requireCode(t, err, fault.ProviderViolation, "holds the parent credential")
	require.Zero(t, s.alive(), "and it is dead")
}

// A system in wrong hands has seen what was borrowed to ask it: that dies with what it gave.
func TestABorrowedTokenDiesWithAKillOfItsBorrower(t *testing.T) {
	for _, freeze := range []bool{false, true} {
		m, s := newTenantMount(t)
		m.mustCreds(nil)
		lent := s.last()
		order := map[string]any{}
		if freeze {
			order["freeze"] = true
		}
		require.EqualValues(t, 1, m.must(m.write("revoke/provider/tenant/x", order)).Data["revoked"])
		m.waitForKills()
		require.Zero(t, s.alive())
		require.False(t, m.server.Active(lent))
		require.Empty(t, m.own())
	}
}

// What a frozen borrower gets to kill with, it has for no longer than that.
func TestAFrozenBorrowerStillKills(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	s.change(func() { s.down = true })
	require.EqualValues(t, 1, m.must(m.write("revoke/provider/tenant/x", map[string]any{"freeze": true})).Data["pending"])
	s.change(func() { s.down = false })
	m.sweep()
	m.waitForKills()
	require.Zero(t, s.alive())
	require.Len(t, m.own(), 1)
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, m.own())
}

// A lender becomes another account once nothing is borrowed of it.
func TestALenderThatBecomesAnother(t *testing.T) {
	m, _ := newTenantMount(t)
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	another := map[string]any{"client_id": "another", "client_secret": parentSecret}
	_, err := m.write("providers/oauth2/p", another)
	requireCode(t, err, fault.InvalidRequest, "1 live grants", "with disabled=true what providers/tenant/x borrowed of it ends")
	m.must(m.write("providers/tenant/x", map[string]any{"disabled": true}))
	m.waitForKills()
	m.must(m.write("providers/oauth2/p", another))
}

// A token that nobody asks for any more is not kept to its end and beyond.
func TestABorrowedTokenThatNobodyUses(t *testing.T) {
	m, s := newTenantMount(t)
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	lent := s.last()
	m.clock.advance(59*time.Minute + 30*time.Second)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.True(t, m.server.Active(lent), "a call may be under way with it")
	m.b.lender.mu.Lock()
	for _, o := range m.b.lender.loans {
		require.True(t, o.token.Empty())
	}
	m.b.lender.mu.Unlock()
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, m.own())
	require.NoError(t, m.periodic())
	require.Empty(t, m.b.lender.loans)
	m.mustCreds(nil)
}

// What nothing can kill is shown as that once it is returned.
func TestABorrowedTokenThatNothingKills(t *testing.T) {
	m, _ := newTenantMount(t)
	m.must(m.write("providers/oauth2/p", map[string]any{"revocation": "expiry"}))
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	m.must(m.write("providers/tenant/x", map[string]any{"disabled": true}))
	m.waitForKills()
	require.Equal(t, "expiry_only", m.must(m.read("grants/" + m.own()[0])).Data["state"])
}

// One borrower that cannot be read keeps no other's former token alive.
func TestABorrowedTokenBesideWhatCannotBeRead(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	first := s.last()
	m.server.Kill(first) // as the system sees it
	m.mustCreds(nil)
	require.Len(t, m.own(), 2)
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: downstream.StoragePrefix + "tenant/newer", Value: []byte("{")}))
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Len(t, m.own(), 1)
	require.NoError(t, m.storage.Delete(t.Context(), downstream.StoragePrefix+"tenant/newer"))
}
