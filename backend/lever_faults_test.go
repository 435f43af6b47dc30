package backend

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// minutes lets so many pass, each with a sweep.
func (m *mount) minutes(n int) {
	m.t.Helper()
	for range n {
		m.clock.advance(time.Minute)
		require.NoError(m.t, m.periodic())
		m.waitForKills()
	}
}

func TestTheEndOfALeaseInFlightUndoesNoKill(t *testing.T) {
	for _, path := range []string{"revoke/grant/", "revoke/entity/" + alice} {
		t.Run(path, func(t *testing.T) {
			r := &rack{stuck: errors.New("down"), nameless: true}
			m := newRack(t, r, "login", map[string]any{"ttl": 7200})
			hers := m.to(alice)
			m.to(bob)
			if strings.HasSuffix(path, "grant/") {
				path += hers.grantID
			}
			m.vault.change(func(v *vaultView) {
				v.onTainted = func() { m.must(m.write(path, nil)); m.waitForKills() }
			})
			require.Error(t, m.revoke(hers), "it is not dead yet")
			require.Equal(t, true, m.must(m.read("grants/" + hers.grantID)).Data["pending"])
			r.set(func(r *rack) { r.stuck = nil })
			m.minutes(2)
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())
		})
	}
}

func TestWhatIsFoundUndoesNoKill(t *testing.T) {
	r := &rack{lost: 1}
	m := newRack(t, r, "login", map[string]any{"ttl": 7200})
	_, err := m.credsBy(call{entity: alice})
	require.Error(t, err)
	m.to(bob)
	m.deadline()
	r.set(func(r *rack) {
		r.stuck = errors.New("down")
		r.finding = func() { m.must(m.write("revoke/entity/"+alice, nil)) }
	})
	require.NoError(t, m.periodic())
	m.waitForKills()
	r.set(func(r *rack) { r.stuck = nil })
	m.minutes(2)
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestAKillOfAMintUnderWayReachesWhatItBrings(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	m.to(bob)
	r.set(func(r *rack) { r.before = func() { m.must(m.write("revoke/entity/"+alice, nil)) } })
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.AccessDenied)
	require.Empty(t, r.live(), "whoever else hangs on it")
	require.Empty(t, m.allGrants())
}

func TestAHandleThatFailsKeepsNobodyAlive(t *testing.T) {
	for name, poison := range map[string]error{"for now": errors.New("500"), "for good": provider.ErrCannotRevoke} {
		for _, c := range []struct {
			what string
			kill func(m *mount, bad *lease)
		}{
			{"a kill of many", func(m *mount, _ *lease) { m.must(m.write("revoke/entity/"+alice, nil)) }},
			{"the end of another's lease", func(m *mount, bad *lease) {
				_ = m.revoke(bad)
				m.minutes(1)
			}},
			{"who leaves", func(m *mount, bad *lease) {
				m.must(m.write("revoke/grant/"+bad.grantID, nil))
				m.vault.change(func(v *vaultView) { v.entities[bob].Disabled = true })
			}},
		} {
			t.Run(c.what+" "+name, func(t *testing.T) {
				r := &rack{nameless: true}
				m := newRack(t, r, "login", map[string]any{"ttl": 7200})
				bad := m.to(alice)
				if strings.HasPrefix(c.what, "a kill") {
					m.to(alice)
				} else {
					his := m.to(bob)
					if strings.HasPrefix(c.what, "the end") {
						require.NoError(t, m.revoke(his), "she holds it")
					}
				}
				r.set(func(r *rack) { r.poisoned = map[string]error{bad.token: poison} })
				c.kill(m, bad)
				m.waitForKills()
				m.minutes(3)
				require.Empty(t, r.live())
			})
		}
	}
}

// In every sweep one pull, by the handle that has failed least.
func TestOneAfterTheOtherPulls(t *testing.T) {
	r := &rack{nameless: true}
	m := newRack(t, r, "login", map[string]any{"ttl": 7200})
	r.set(func(r *rack) { r.poisoned = map[string]error{} })
	for range 4 {
		hers := m.to(alice)
		r.set(func(r *rack) { r.poisoned[hers.token] = errors.New("500") })
	}
	good := m.to(alice)
	m.must(m.write("revoke/entity/"+alice, nil))
	m.waitForKills()
	for sweeps := 0; r.works(good); sweeps++ {
		require.Less(t, sweeps, 5, "each handle has had its turn")
		m.clock.advance(11 * time.Minute) // all are due
		r.called()
		require.NoError(t, m.periodic())
		m.waitForKills()
		revokes, _ := r.called()
		require.Equal(t, 1, revokes)
	}
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestARecordThatCannotBeReadHidesNoKill(t *testing.T) {
	r := &rack{nameless: true}
	m := newRack(t, r, "login", nil)
	hers := m.to(alice)
	m.to(bob)
	m.pushOut()
	gets := 0
	m.storage.on(func(op, key string) error {
		if op == "get" && strings.Contains(key, alice) {
			if gets++; gets == 2 { // the first one is to tell what is killed
				return errStorage
			}
		}
		return nil
	})
	require.Equal(t, counts(0, 1, 0), counted(m.must(m.write("revoke/grant/"+hers.grantID, nil))))
	m.storage.heal()
	m.minutes(1)
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestAPullReadsOnlyWhatHangsBeside(t *testing.T) {
	of := func(grants int) int {
		r := &rack{nameless: true, apart: true}
		m := newRack(t, r, "", nil)
		for range grants {
			m.to(alice)
		}
		var operations atomic.Int64
		m.storage.on(func(string, string) error { operations.Add(1); return nil })
		m.must(m.write("revoke/entity/"+alice, nil))
		m.waitForKills()
		m.storage.heal()
		require.Empty(t, r.live())
		return int(operations.Load())
	}
	few, many := of(20), of(200)
	require.Less(t, many, 11*few, "it grows as the grants do")
}

func TestAPullThatSucceededHasNotFailed(t *testing.T) {
	r := &rack{nameless: true}
	m := newRack(t, r, "login", nil)
	hers := m.to(alice)
	m.to(bob)
	m.storage.fail("list") // whoever died with it cannot be found
	require.Equal(t, counts(1, 0, 0), counted(m.must(m.write("revoke/grant/"+hers.grantID, nil))))
	m.storage.heal()
	require.Len(t, m.allGrants(), 1)
	require.Contains(t, m.log.String(), "may stay on record")
}

func TestTheQuotaCountsWhatWasNotHandedOutAndLives(t *testing.T) {
	r := &rack{nameless: true}
	m := newRack(t, r, "login", map[string]any{"max_grants_per_entity": 1})
	his := m.to(bob)
	for range 3 {
		ctx, hangUp := context.WithCancel(t.Context())
		r.set(func(r *rack) { r.after = hangUp })
		_, err := m.credsBy(call{entity: alice, ctx: ctx})
		require.Error(t, err)
		hangUp()
	}
	require.Len(t, r.live(), 2)
	r.set(func(r *rack) { r.after = nil })
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.SlowDown)
	require.NoError(t, m.revoke(his))
	require.Empty(t, r.live())
	m.to(alice)
}

func TestAMintThatEndsAfterTheProcessKillsNoOthers(t *testing.T) {
	r := &rack{nameless: true}
	m := newRack(t, r, "login", nil)
	his := m.to(bob)
	m.b.killer.Drain = 10 * time.Millisecond
	r.set(func(r *rack) { r.after = func() { m.b.Cleanup(context.Background()) } })
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.True(t, r.works(his))
	m.start()
	require.NoError(t, m.b.ledger.Load(t.Context()))
	require.Len(t, m.allGrants(), 2, "what came then is on record")
	require.NoError(t, m.revoke(his))
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestALeverHasANameThatCanBeRecorded(t *testing.T) {
	for name, lever := range map[string]string{"no text": "\xff", "not printable": "a\x00b", "too long": strings.Repeat("l", 4<<10+1)} {
		t.Run(name, func(t *testing.T) {
			r := &rack{lever: lever, nameless: true}
			m := newRack(t, r, "login", nil)
			_, err := m.credsBy(call{entity: alice})
			requireCode(t, err, fault.ProviderViolation, "cannot be recorded")
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())

			r = &rack{lever: lever, lost: 1}
			m = newRack(t, r, "login", nil)
			_, err = m.credsBy(call{entity: alice})
			require.Error(t, err)
			m.deadline()
			m.sweep()
			require.Len(t, m.allGrants(), 1, "it is looked for again")
			require.Contains(t, m.must(m.read("grants/" + m.allGrants()[0])).Data["last_error"], "cannot be recorded")
			r.set(func(r *rack) { r.children[0].Lever = "login" })
			m.minutes(1)
			require.Empty(t, r.live())
		})
	}
	r := &rack{lever: "Jürgens Anmeldung 1"}
	newRack(t, r, "login", nil).to(alice)
}
