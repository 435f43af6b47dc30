package backend

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// intent is what grants say of the only one that there is; nil if there is none.
func (m *mount) onlyGrant() map[string]any {
	m.t.Helper()
	ids := m.allGrants()
	if len(ids) == 0 {
		return nil
	}
	require.Len(m.t, ids, 1)
	info, _ := m.must(m.list("grants", nil)).Data["key_info"].(map[string]any)
	listed, _ := info[ids[0]].(map[string]any)
	read := m.must(m.read("grants/" + ids[0])).Data
	require.Equal(m.t, listed["intent"], read["intent"])
	return read
}

// deadline is when no mint of before can be under way any more.
func (m *mount) deadline() { m.clock.advance(intentLife) }

func TestAMintOfAChildWithANameIsOnRecordBeforeIt(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "", nil)
	var during map[string]any
	r.set(func(r *rack) { r.before = func() { during = m.onlyGrant() } })
	l := m.to(alice)
	require.Equal(t, true, during["intent"])
	require.Equal(t, l.grantID, during["grant_id"])
	require.Equal(t, alice, during["entity_id"])
	require.Equal(t, "r", during["role"])
	require.NotContains(t, during, "lease_expires_at")
	require.NotContains(t, m.onlyGrant(), "intent", "with the answer it is the grant")
	require.Equal(t, false, m.b.ledger.Holding(l.grantID), "nothing is kept in memory of it")
	require.NoError(t, m.revoke(l))
	require.Empty(t, r.live())
}

func TestOnlyChildrenWithNamesCostASecondWrite(t *testing.T) {
	for nameless, want := range map[bool]int{true: 1, false: 2} {
		r := &rack{nameless: nameless}
		m := newRack(t, r, "", nil)
		require.NoError(t, m.b.ledger.Load(t.Context()))
		require.NoError(t, m.revoke(m.to(alice)))
		writes := 0
		m.storage.on(func(op, key string) error {
			writes++
			require.Equal(t, "put", op, key)
			return nil
		})
		m.to(alice)
		m.storage.on(nil)
		require.Equal(t, want, writes)
	}
}

func TestALostAnswerIsNoLoss(t *testing.T) {
	for name, r := range map[string]*rack{
		"one child": {}, "two children of the name": {double: true}, "a child that only its own shelf lists": {shelf: "a/7"},
	} {
		t.Run(name, func(t *testing.T) {
			r.lost = 1
			m := newRack(t, r, "", nil)
			_, err := m.credsBy(call{entity: alice})
			requireCode(t, err, fault.TemporarilyUnavailable, "lost")
			require.NotEmpty(t, r.live())
			require.Equal(t, true, m.onlyGrant()["intent"])
			m.sweep()
			require.NotEmpty(t, m.allGrants(), "its mint may be under way")
			m.deadline()
			swept := m.sweep()
			m.waitForKills()
			require.Equal(t, 1, swept["killed"])
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())
			require.Contains(t, m.metrics(), "broker_lost_answers_total{provider=\"rack/p\"} 0\n")
			require.Contains(t, m.metrics(), `broker_grants_killed_total{cause="answer_lost",provider="rack/p"} 1`)
		})
	}
}

func TestALostAnswerOfAChildWithoutANameIsCounted(t *testing.T) {
	r := &rack{nameless: true, lost: 1}
	m := newRack(t, r, "", nil)
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.Empty(t, m.allGrants())
	require.Contains(t, m.metrics(), `broker_lost_answers_total{provider="rack/p"} 1`)
}

func TestAMintThatSurelyMintedNothingLeavesNoIntent(t *testing.T) {
	r := &rack{refused: fault.New(fault.InvalidScope, "no")}
	m := newRack(t, r, "", nil)
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.InvalidScope)
	require.Empty(t, m.allGrants())
	r.set(func(r *rack) { r.refused = fault.New(fault.ProviderViolation, "what is this?") })
	_, err = m.credsBy(call{entity: alice})
	requireCode(t, err, fault.ProviderViolation)
	require.Equal(t, true, m.onlyGrant()["intent"], "who answers like that may have minted")
	m.deadline()
	require.Equal(t, 0, m.sweep()["killed"], "nothing had come of it")
	require.Empty(t, m.allGrants())
	_, finds := r.called()
	require.Equal(t, 1, finds)
}

// crash lets the plugin die in the middle of a request: what it did until then stays.
func (m *mount) crash(during func(die func())) {
	m.t.Helper()
	done := make(chan struct{})
	during(runtime.Goexit)
	go func() {
		defer close(done)
		_, _ = m.credsBy(call{entity: alice})
	}()
	<-done
	m.storage.on(nil)
	m.start()
}

func TestACrashInAMintLeavesNothingBehind(t *testing.T) {
	for name, c := range map[string]struct {
		crash func(m *mount, r *rack, die func())
		live  int
	}{
		"before the provider was asked": {func(_ *mount, r *rack, die func()) { r.set(func(r *rack) { r.before = die }) }, 0},
		"before its answer":             {func(_ *mount, r *rack, die func()) { r.set(func(r *rack) { r.after = die }) }, 1},
		"before the record": {func(m *mount, r *rack, die func()) {
			r.set(func(r *rack) {
				r.after = func() {
					m.storage.on(func(op, key string) error {
						if op == "put" && strings.HasPrefix(key, "grant/") {
							die()
						}
						return nil
					})
				}
			})
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rack{}
			m := newRack(t, r, "", nil)
			m.crash(func(die func()) { c.crash(m, r, die) })
			require.Len(t, r.live(), c.live)
			require.Equal(t, true, m.onlyGrant()["intent"])
			m.deadline()
			require.NoError(t, m.periodic())
			m.waitForKills()
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())
		})
	}
}

func TestAFindThatFailsIsTriedAgain(t *testing.T) {
	for name, harm := range map[string]func(r *rack, err error){
		"the find": func(r *rack, err error) { r.deaf = err },
		"the kill": func(r *rack, err error) { r.stuck = err },
	} {
		t.Run(name, func(t *testing.T) {
			r := &rack{lost: 1}
			m := newRack(t, r, "", nil)
			_, err := m.credsBy(call{entity: alice})
			requireCode(t, err, fault.TemporarilyUnavailable)
			m.deadline()
			r.set(func(r *rack) { harm(r, errors.New("down")) })
			require.Equal(t, 1, m.sweep()["pending"])
			g := m.onlyGrant()
			require.Equal(t, true, g["pending"])
			require.Equal(t, "answer_lost", g["cause"])
			require.NoError(t, m.periodic())
			m.waitForKills()
			require.Equal(t, 1, m.onlyGrant()["attempts"], "not before its next attempt is due")
			r.set(func(r *rack) { harm(r, nil) })
			m.clock.advance(11 * time.Minute)
			require.NoError(t, m.periodic())
			m.waitForKills()
			require.Empty(t, r.live())
			require.Empty(t, m.allGrants())
		})
	}
}

func TestAKillMeansAlsoWhatIsOnItsWay(t *testing.T) {
	for name, data := range map[string]map[string]any{"a kill": nil, "a freeze": {"freeze": true}} {
		for moment, hook := range map[string]func(r *rack) *func(){
			"before there is a child": func(r *rack) *func() { return &r.before },
			"once there is one":       func(r *rack) *func() { return &r.after },
		} {
			t.Run(name+", "+moment, func(t *testing.T) {
				r := &rack{}
				m := newRack(t, r, "", nil)
				r.set(func(r *rack) {
					*hook(r) = func() {
						require.Equal(t, counts(0, 1, 0), counted(m.must(m.write("revoke/entity/"+alice, data))))
					}
				})
				_, err := m.credsBy(call{entity: alice})
				requireCode(t, err, fault.AccessDenied)
				require.Empty(t, r.live())
				require.Empty(t, m.allGrants())
			})
		}
	}
}

func TestAKillMeansAlsoWhatWasLeftBehind(t *testing.T) {
	r := &rack{lost: 1}
	m := newRack(t, r, "", nil)
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.Equal(t, counts(0, 1, 0), counted(m.must(m.write("revoke/role/r", nil))), "its mint may still be under way")
	require.Empty(t, r.live(), "what is there is dead at once")
	m.deadline()
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, m.allGrants())
}

func TestAnIntentCountsAsAGrant(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "", map[string]any{"max_grants_per_entity": 2})
	r.set(func(r *rack) {
		r.before = func() { m.to(alice) } // with the place that is reserved for the mint there is room for one
	})
	first := m.to(alice)
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.SlowDown)
	require.NoError(t, m.revoke(first))
	r.set(func(r *rack) { r.lost = 1 })
	_, err = m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	for range 2 {
		_, err = m.credsBy(call{entity: alice})
		requireCode(t, err, fault.SlowDown, "holds 2")
		m.start()
	}
	m.deadline()
	m.sweep()
	m.to(alice)
}

func TestAnIntentKeepsItsProvider(t *testing.T) {
	r := &rack{lost: 1}
	m := newRack(t, r, "", nil)
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	_, err = m.write("providers/rack/p", map[string]any{"account": "another"})
	require.Error(t, err)
	_, err = m.delete("providers/rack/p", nil)
	require.Error(t, err)
	m.deadline()
	m.must(m.delete("providers/rack/p", map[string]any{"force": true}))
	require.Empty(t, r.live())
	require.Empty(t, m.keys("providers/rack", nil))
}

func TestAMountIsNotGivenUpWhileAnIntentIsLeft(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "", nil)
	// One whose mint is under way is the door's to wait for.
	worked, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	r.set(func(r *rack) { r.after = func() { close(worked); <-release } })
	go func() { _, err := m.credsBy(call{entity: alice}); done <- err }()
	<-worked
	m.taint(true)
	given := make(chan error, 1)
	go func() { given <- m.periodic() }()
	require.Eventually(t, func() bool { closed, _ := m.b.door.State(); return closed }, promptly, time.Millisecond)
	close(release)
	require.Error(t, <-done, "it is not handed out")
	require.NoError(t, <-given)
	require.Empty(t, r.live())

	m.taint(false)
	require.NoError(t, m.periodic())
	r.set(func(r *rack) { r.lost = 1 })
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.taint(true)
	require.Error(t, m.periodic())
	require.Empty(t, r.live(), "but dead it is")
	m.deadline()
	require.NoError(t, m.periodic())
	m.taint(false)
	require.NoError(t, m.periodic())
}

func TestASharedChildWithANameIsOneChild(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "", map[string]any{"sharing": "entity"})
	first, second := m.to(alice), m.to(alice)
	require.Equal(t, first.token, second.token)
	require.NoError(t, m.revoke(first))
	require.True(t, r.works(second))
	require.NoError(t, m.revoke(second))
	require.Empty(t, r.live())
}

func TestAnIntentThatCannotBeRecordedMintsNothing(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "", nil)
	m.storage.on(func(op, key string) error {
		if op != "get" && strings.HasPrefix(key, "grant/") {
			return errStorage
		}
		return nil
	})
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.storage.on(nil)
	require.Empty(t, r.live())
	require.NoError(t, m.b.ledger.Flush(context.Background()))
	require.Empty(t, m.allGrants())
	require.Empty(t, m.b.ledger.Counts(alice))
	_, err = m.b.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	require.NoError(t, err)
}
