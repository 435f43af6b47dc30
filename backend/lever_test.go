package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

func TestTheEndOfALeaseSparesALeverThatOthersHold(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	hers, his := m.to(alice), m.to(bob)
	require.Equal(t, "lever", hers.data["revocation"])
	require.Equal(t, false, m.must(m.read("grants/" + hers.grantID)).Data["released"])
	for range 2 { // Vault may repeat it
		require.NoError(t, m.revoke(hers))
		require.True(t, r.works(his))
		shown := m.must(m.read("grants/" + hers.grantID)).Data
		require.Equal(t, "login", shown["lever"])
		require.Equal(t, true, shown["released"])
		require.Equal(t, false, shown["pending"])
		m.sweep()
	}
	_, err := m.renew(hers, time.Minute)
	requireCode(t, err, fault.AccessDenied)
	_, err = m.renew(his, time.Minute)
	require.NoError(t, err)
	revokes, _ := r.called()
	require.Zero(t, revokes)

	require.NoError(t, m.revoke(his))
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants(), "one pull ends them all")
	revokes, _ = r.called()
	require.Equal(t, 1, revokes)
	require.NoError(t, m.revoke(hers))
	require.NoError(t, m.revoke(his))
}

func TestOfLeasesThatEndTogetherTheLastOnePulls(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	for range 20 {
		leases := []*lease{m.to(alice), m.to(bob), m.to(alice), m.to(bob)}
		var all sync.WaitGroup
		for _, l := range leases {
			all.Go(func() { assert.NoError(t, m.revoke(l)) })
		}
		all.Wait()
		require.Empty(t, r.live())
		require.Empty(t, m.allGrants())
	}
}

// Two who end at once may each take the other for a holder: whoever is released last looks
// again.
func TestWhoIsReleasedLastLooksAgain(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	hers, his := m.to(alice), m.to(bob)
	ended := make(chan error, 1)
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.Contains(key, alice) { // hers is being released
			m.storage.on(nil)
			go func() { ended <- m.revoke(his) }()
			select {
			case err := <-ended:
				ended <- err
			case <-time.After(time.Second): // their records have one lock in common
			}
		}
		return nil
	})
	require.NoError(t, m.revoke(hers))
	require.NoError(t, <-ended)
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestAnOperatorsKillPullsAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		path                string
		revoked, bystanders int
	}{
		"of a grant":    {"revoke/grant/", 1, 3},
		"of an entity":  {"revoke/entity/" + alice, 3, 1},
		"of a role":     {"revoke/role/r", 3, 1},
		"of a provider": {"revoke/provider/rack/p", 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rack{}
			m := newRack(t, r, "login", nil)
			m.rackRole("s", "login", nil)
			m.rackRole("apart", "another login", nil)
			first := m.to(alice)
			m.to(alice)
			released := m.to(alice)
			_, err := m.credsBy(call{entity: bob, path: "creds/s"})
			require.NoError(t, err)
			apart, err := m.credsBy(call{entity: bob, path: "creds/apart"})
			require.NoError(t, err)
			if strings.HasSuffix(c.path, "grant/") {
				c.path += first.grantID
			}
			require.NoError(t, m.revoke(released), "its token works on, and a kill of it means it too")
			if strings.Contains(c.path, "/grant/") {
				c.bystanders-- // a lease that had ended is no loss
			}
			if strings.Contains(c.path, "/provider/") {
				c.revoked++
			}
			require.Equal(t, counts(c.revoked, 0, c.bystanders), counted(m.must(m.write(c.path, nil))))
			if strings.Contains(c.path, "/provider/") {
				require.Empty(t, r.live())
			} else {
				require.Equal(t, []string{apart.token}, r.live())
				require.Equal(t, []string{apart.grantID}, m.allGrants())
				require.Contains(t, m.metrics(), `cause="lever_pulled",provider="rack/p"} `)
			}
			revokes, _ := r.called()
			require.LessOrEqual(t, revokes, 2, "each lever once")
			require.NoError(t, m.revoke(first))
		})
	}
}

func TestWhoLeavesTakesTheLeverAlong(t *testing.T) {
	for name, leave := range map[string]func(v *vaultView){
		"deleted":  func(v *vaultView) { delete(v.entities, alice) },
		"disabled": func(v *vaultView) { v.entities[alice].Disabled = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := &rack{}
			m := newRack(t, r, "login", nil)
			hers, his := m.to(alice), m.to(bob)
			require.NoError(t, m.revoke(hers), "her token works all the same")
			m.vault.change(leave)
			swept := m.sweep()
			require.EqualValues(t, 1, swept["killed"])
			require.EqualValues(t, 1, swept["bystanders"])
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())
			require.NoError(t, m.revoke(his))
		})
	}
}

func TestTheSweepSparesBystanders(t *testing.T) {
	unfit := func(m *mount) {
		m.vault.change(func(v *vaultView) { v.entities[alice].Metadata = nil })
		m.sweep()
	}
	for name, c := range map[string]struct {
		sweepPulls bool
		happens    func(m *mount)
		spared     bool
	}{
		"who is unfit":                            {false, unfit, true},
		"who is unfit, and the provider says so":  {true, unfit, false},
		"a lost lease":                            {false, func(m *mount) { m.clock.advance(13 * time.Minute); m.sweep() }, true},
		"a lost lease, and the provider says so":  {true, func(m *mount) { m.clock.advance(13 * time.Minute); m.sweep() }, false},
		"a deleted role":                          {false, func(m *mount) { m.must(m.delete("roles/r", nil)); m.sweep() }, true},
		"an operator's kill is no sweep's affair": {false, func(m *mount) { m.must(m.write("revoke/entity/"+alice, nil)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rack{sweepPulls: c.sweepPulls}
			m := newRack(t, r, "login", map[string]any{"bound_entity_metadata": map[string]any{"team": "payments"}})
			m.rackRole("s", "login", map[string]any{"ttl": 7200})
			hers := m.to(alice)
			his, err := m.credsBy(call{entity: bob, path: "creds/s"})
			require.NoError(t, err)
			c.happens(m)
			m.waitForKills()
			require.Equal(t, c.spared, r.works(his))
			if !c.spared {
				require.Empty(t, m.allGrants())
				return
			}
			require.Equal(t, 1, strings.Count(m.log.String(), "grant released"))
			swept := m.sweep()
			require.Equal(t, 1, strings.Count(m.log.String(), "grant released"), "said once")
			require.EqualValues(t, 0, swept["killed"])
			require.EqualValues(t, 0, swept["pending"])
			require.Equal(t, true, m.must(m.read("grants/" + hers.grantID)).Data["released"])
			require.NoError(t, m.revoke(his))
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())
		})
	}
}

func TestWhileTheRecordsAreReadALeaseEndOnlyReleases(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	hers, his := m.to(alice), m.to(bob)
	m.start()
	release := m.haltScan()
	defer release()
	require.NoError(t, m.b.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}))
	require.NoError(t, m.revoke(hers))
	require.NoError(t, m.revoke(his))
	require.True(t, r.works(his))
	release()
	require.NoError(t, m.b.ledger.Load(t.Context()))
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestWhileTheRecordsAreReadAnOperatorsKillDoesNotWait(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	m.to(alice)
	m.to(bob)
	m.start()
	release := m.haltScan()
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := m.do(call{op: logical.UpdateOperation, path: "revoke/entity/" + alice, ctx: ctx})
	require.NoError(t, err)
	require.Empty(t, r.live())
	m.waitForKills()
	require.Empty(t, m.allKeysBelow(grant.StoragePrefix), "what has died with it is looked for")
	require.False(t, m.b.ledger.Loaded())
}

// TestWhileTheRecordsAreReadOneSearchSettlesManyPulls: no pull waits for the scan, nor does
// each look for its bystanders by itself.
func TestWhileTheRecordsAreReadOneSearchSettlesManyPulls(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	const logins = 100 // more than a kill pulls at once
	for i := range logins {
		m.rackRole("r", fmt.Sprint("login-", i), nil)
		m.rackRole("s", fmt.Sprint("login-", i), nil)
		m.to(alice)
		_, err := m.credsBy(call{entity: bob, path: "creds/s"})
		require.NoError(t, err)
	}
	m.start()
	release, count := m.haltAndCount(isScan)
	defer release()
	resp := m.must(m.write("revoke/role/r", nil))
	require.EqualValues(t, logins, resp.Data["revoked"])
	require.EqualValues(t, logins, resp.Data["bystanders"])
	require.Empty(t, r.live())
	require.LessOrEqual(t, count("list"), 2*(16+2*2*16), "a search for what is meant, and one for the others")
	require.False(t, m.b.ledger.Loaded())
	release()
	require.Empty(t, m.allGrants())
}

func TestAPullThatFailsIsTriedOnceForAll(t *testing.T) {
	r := &rack{stuck: errors.New("down")}
	m := newRack(t, r, "login", nil)
	var leases []*lease
	for range 20 {
		leases = append(leases, m.to(alice), m.to(bob))
	}
	m.rackRole("s", "login", nil)
	_, err := m.credsBy(call{entity: bob, path: "creds/s"})
	require.NoError(t, err)
	require.Equal(t, counts(0, 40, 0), counted(m.must(m.write("revoke/role/r", nil))))
	m.waitForKills()
	revokes, _ := r.called()
	require.Equal(t, 1, revokes)
	require.Contains(t, m.metrics(), "broker_outbox_depth{provider=\"rack/p\"} 40\n", "each waits for a kill of its own")
	require.NoError(t, m.periodic())
	m.waitForKills()
	revokes, _ = r.called()
	require.Zero(t, revokes, "not before its next attempt is due")
	for _, l := range leases {
		require.Equal(t, true, m.must(m.read("grants/" + l.grantID)).Data["pending"])
		_, err := m.renew(l, time.Minute)
		require.Error(t, err, "it is to die")
	}
	r.set(func(r *rack) { r.stuck = nil })
	m.start() // it is durable
	m.clock.advance(time.Minute)
	require.NoError(t, m.b.ledger.Load(t.Context()))
	require.NoError(t, m.periodic())
	m.waitForKills()
	revokes, _ = r.called()
	require.Equal(t, 1, revokes)
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestWhoHasLeftIsNotTriedForEverySweep(t *testing.T) {
	r := &rack{stuck: errors.New("down")}
	m := newRack(t, r, "login", nil)
	for range 3 {
		m.to(alice)
	}
	m.to(bob)
	m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = true })
	for _, want := range []int{1, 0, 0} {
		require.NoError(t, m.periodic())
		m.waitForKills()
		revokes, _ := r.called()
		require.Equal(t, want, revokes)
		require.Contains(t, m.metrics(), "broker_outbox_depth{provider=\"rack/p\"} 3\n")
	}
	r.set(func(r *rack) { r.stuck = nil })
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
}

func TestACrashAfterAPullIsHarmless(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	hers, his := m.to(alice), m.to(bob)
	require.NoError(t, m.revoke(hers))
	m.storage.fail("delete")
	require.Error(t, m.revoke(his))
	m.storage.fail("delete", "put")
	require.Error(t, m.revoke(his))
	require.Empty(t, r.live())
	m.storage.heal()
	m.start()
	require.Len(t, m.allGrants(), 2)
	require.NoError(t, m.revoke(his))
	require.Empty(t, m.allGrants())
}

func TestWhoCameAfterAFailedPullIsSpared(t *testing.T) {
	r := &rack{stuck: errors.New("down")}
	m := newRack(t, r, "login", nil)
	hers := m.to(alice)
	require.Error(t, m.revoke(hers))
	his := m.to(bob)
	r.set(func(r *rack) { r.stuck = nil })
	m.sweep()
	require.True(t, r.works(his), "it was the end of a lease")
	require.NoError(t, m.revoke(hers))
	require.NoError(t, m.revoke(his))
	require.Empty(t, r.live())

	// But an operator's word stands, also where a lease's end had failed before.
	r.set(func(r *rack) { r.stuck = errors.New("down") })
	hers = m.to(alice)
	require.Error(t, m.revoke(hers))
	m.must(m.write("revoke/entity/"+alice, nil))
	his = m.to(bob)
	r.set(func(r *rack) { r.stuck = nil })
	m.sweep()
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
	require.NoError(t, m.revoke(his))
}

func TestAPullOutlivesTheTokenItWasTriedFor(t *testing.T) {
	r := &rack{stuck: errors.New("down")}
	m := newRack(t, r, "login", map[string]any{"max_ttl": 24 * 3600, "ttl": 24 * 3600})
	first := m.to(alice)
	require.Error(t, m.revoke(first), "what failed first was the end of a lease")
	m.clock.advance(12 * time.Hour)
	second := m.to(alice)
	m.to(bob)
	require.Equal(t, counts(0, 2, 0), counted(m.must(m.write("revoke/entity/"+alice, nil))))
	m.waitForKills()
	m.clock.advance(12*time.Hour + 2*time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Len(t, m.allGrants(), 2, "the first has expired")
	_, err := m.renew(second, time.Hour)
	require.Error(t, err)
	r.set(func(r *rack) { r.stuck = nil })
	m.sweep()
	require.Empty(t, r.live(), "and yet the lever was pulled")
	require.Empty(t, m.allGrants())
}

func TestSharesHangOnALeverAsOne(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", map[string]any{"sharing": "entity"})
	first, second, his := m.to(alice), m.to(alice), m.to(bob)
	require.Equal(t, first.token, second.token)
	require.NoError(t, m.revoke(first))
	require.Equal(t, false, m.must(m.read("grants/" + second.grantID)).Data["released"])
	require.NoError(t, m.revoke(his))
	require.True(t, r.works(second), "one of the leases lives")
	his = m.to(bob)
	require.NoError(t, m.revoke(second))
	require.Equal(t, true, m.must(m.read("grants/" + second.grantID)).Data["released"])
	third := m.to(alice)
	require.NotEqual(t, second.token, third.token, "what was released is not joined")
	require.NoError(t, m.revoke(third))
	require.True(t, r.works(his))
	require.Equal(t, counts(2, 0, 0), counted(m.must(m.write("revoke/entity/"+bob, nil))), "whose leases had ended is no bystander")
	require.Empty(t, r.live())
	fourth := m.to(bob)
	require.NotEqual(t, his.token, fourth.token, "nor what has died")
	require.NoError(t, m.revoke(fourth))
	require.Empty(t, m.allGrants())
}

func TestABystandersSharesAreNotJoined(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", map[string]any{"sharing": "entity"})
	his := m.to(bob)
	m.to(alice)
	require.Equal(t, counts(1, 0, 1), counted(m.must(m.write("revoke/entity/"+alice, nil))))
	require.NotEqual(t, his.token, m.to(bob).token)
}

func TestWhatWasMintedBeforeAPullIsNotHandedOut(t *testing.T) {
	for name, nameless := range map[string]bool{"with an intent": false, "without one": true} {
		t.Run(name, func(t *testing.T) {
			r := &rack{nameless: nameless}
			m := newRack(t, r, "login", nil)
			m.to(bob)
			r.set(func(r *rack) {
				r.after = func() {
					require.Equal(t, counts(1, 0, 0), counted(m.must(m.write("revoke/entity/"+bob, nil))))
				}
			})
			_, err := m.credsBy(call{entity: alice})
			requireCode(t, err, fault.AccessDenied, "try again")
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())
			require.True(t, r.works(m.to(alice)))
		})
	}
}

// Nobody can say of a token that is minted while its lever is being pulled whether it works:
// nobody gets it, and it is not taken for dead, whatever the clock says.
func TestWhatIsMintedDuringAPullIsNotHandedOut(t *testing.T) {
	for name, step := range map[string]time.Duration{"later": time.Second, "at the same instant": 0, "by a clock that went back": -time.Second} {
		for _, dead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, %v", name, dead), func(t *testing.T) {
				r := &rack{nameless: true}
				m := newRack(t, r, "login", nil)
				hers := m.to(alice)
				mint := func() {
					m.clock.advance(step)
					_, err := m.credsBy(call{entity: bob})
					requireCode(t, err, fault.AccessDenied, "try again")
				}
				r.set(func(r *rack) {
					if dead {
						r.killed = mint
					} else {
						r.killing = mint
					}
				})
				require.NoError(t, m.revoke(hers))
				require.Len(t, m.allGrants(), 1, "it may live, and is not forgotten")
				require.NoError(t, m.periodic())
				m.waitForKills()
				require.Empty(t, r.live())
				require.Empty(t, m.allGrants())
				require.True(t, r.works(m.to(bob)))
			})
		}
	}
}

// What a walk comes to after a pull of the same kill, and was made after it, dies by a pull
// of its own.
func TestWhatIsMadeAfterAPullIsNotTakenForDead(t *testing.T) {
	r := &rack{nameless: true}
	m := newRack(t, r, "login", nil)
	m.to(alice)
	m.to(bob)
	var his *lease
	var once sync.Once
	m.storage.on(func(op, key string) error {
		if op == "list" && strings.Contains(key, bob) {
			once.Do(func() {
				assert.Eventually(t, func() bool { return m.b.killer.Pulls() == 2 }, 10*time.Second, time.Millisecond, "it begins and ends")
				m.clock.advance(-time.Second)
				his, _ = m.credsBy(call{entity: bob})
			})
		}
		return nil
	})
	m.must(m.write("revoke/role/r", nil))
	m.waitForKills()
	m.storage.heal()
	require.NotNil(t, his)
	require.Empty(t, r.live(), "it is as old as the kill, and none that was forgotten works")
	require.Empty(t, m.allGrants())
}

func TestAChildThatIsNotHandedOutKillsNoOthers(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	his := m.to(bob)
	ctx, hangUp := context.WithCancel(t.Context())
	r.set(func(r *rack) { r.after = hangUp })
	_, err := m.do(call{op: logical.UpdateOperation, path: "creds/r", entity: alice, ctx: ctx})
	requireCode(t, err, fault.TemporarilyUnavailable, "it dies with what others hold")
	require.True(t, r.works(his))
	require.Len(t, m.allGrants(), 2)
	require.NoError(t, m.revoke(his))
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())

	ctx, hangUp = context.WithCancel(t.Context())
	r.set(func(r *rack) { r.after = hangUp })
	_, err = m.do(call{op: logical.UpdateOperation, path: "creds/r", entity: alice, ctx: ctx})
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.Empty(t, r.live(), "where nobody else holds it, it is pulled")
	require.Empty(t, m.allGrants())
}

func TestWhatALostAnswerHasLeftKillsNoOthers(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	his := m.to(bob)
	lose := func() {
		r.set(func(r *rack) { r.lost = 1 })
		_, err := m.credsBy(call{entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable)
	}
	lose()
	m.deadline()
	swept := m.sweep()
	require.EqualValues(t, 0, swept["killed"])
	require.EqualValues(t, 0, swept["pending"])
	require.True(t, r.works(his))
	ids := m.keys("grants/entity/"+alice, nil)
	require.Len(t, ids, 1)
	found := m.must(m.read("grants/" + ids[0])).Data
	require.NotContains(t, found, "intent", "what was found is on record")
	require.Equal(t, true, found["released"])
	require.NoError(t, m.revoke(his))
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())

	// Where nobody holds the lever, it is pulled; an operator's kill does not ask.
	lose()
	m.deadline()
	require.EqualValues(t, 1, m.sweep()["killed"])
	require.Empty(t, r.live())
	his = m.to(bob)
	lose()
	require.Equal(t, counts(0, 1, 1), counted(m.must(m.write("revoke/entity/"+alice, nil))), "its mint may still be under way")
	require.Empty(t, r.live())
	m.deadline()
	m.sweep()
	require.Empty(t, m.allGrants())
	require.NoError(t, m.revoke(his))
}

func TestAMountOrProviderThatGoesPullsAll(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	for range 5 {
		m.to(alice)
		m.to(bob)
	}
	m.must(m.delete("providers/rack/p", map[string]any{"force": true}))
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
	revokes, _ := r.called()
	require.Equal(t, 1, revokes)

	m.must(m.write("providers/rack/p", map[string]any{"account": "one"}))
	hers, _ := m.to(alice), m.to(bob)
	m.taint(true)
	r.set(func(r *rack) { r.stuck = errors.New("down") })
	require.Error(t, m.revoke(hers), "released it might outlive the mount")
	require.Error(t, m.periodic())
	r.set(func(r *rack) { r.stuck = nil })
	require.NoError(t, m.periodic())
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
	m.taint(false)
	require.NoError(t, m.periodic())
}

func TestALeverOfItsOwnIsAToken(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "", nil)
	hers, his := m.to(alice), m.to(bob)
	require.NotContains(t, m.must(m.read("grants/"+hers.grantID)).Data, "lever")
	require.NoError(t, m.revoke(hers))
	require.Equal(t, []string{his.token}, r.live())
	require.Equal(t, counts(1, 0, 0), counted(m.must(m.write("revoke/entity/"+bob, nil))))
}

func TestTheQuotaCountsWhatWasReleased(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", map[string]any{"max_grants_per_entity": 1})
	m.to(bob)
	require.NoError(t, m.revoke(m.to(alice)))
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.SlowDown)
}

// At the end of a mount each lease's end pulls at once: right after a start they wait for one
// scan together, and none of them searches all records by itself.
func TestLeasesThatEndWithTheirMountReadTheRecordsOnce(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "login", nil)
	const logins = 60
	leases := make([]*lease, logins)
	for i := range leases {
		m.rackRole("r", fmt.Sprint("login-", i), nil)
		leases[i] = m.to(alice)
	}
	m.start()
	m.taint(true)
	_, count := m.haltAndCount(func(string) bool { return false })
	for _, l := range leases {
		require.NoError(t, m.revoke(l))
	}
	require.Empty(t, r.live())
	require.Empty(t, m.allKeysBelow(grant.StoragePrefix))
	require.LessOrEqual(t, count("get"), 10*logins)
}
