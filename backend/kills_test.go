package backend

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// recordOf reads the record that an answer names, once the kill is complete.
func (m *mount) recordOf(resp *logical.Response) map[string]any {
	m.t.Helper()
	m.waitForKills()
	return m.killNamed(resp.Data["kill_id"].(string))
}

func (m *mount) killNamed(id string) map[string]any {
	m.t.Helper()
	return m.must(m.read("kills/" + id)).Data
}

// deathsIn are what has become of the grants of a record, by grant id.
func deathsIn(record map[string]any) map[string]map[string]any {
	deaths := map[string]map[string]any{}
	for _, death := range record["deaths"].([]map[string]any) {
		deaths[death["grant_id"].(string)] = death
	}
	return deaths
}

// killFailing breaks what the records of kills are written to, and nothing else.
func (m *mount) killFailing() {
	m.storage.on(func(op, key string) error {
		if op != "list" && strings.HasPrefix(key, kills.StoragePrefix) {
			return errors.New("no records today")
		}
		return nil
	})
}

func TestAKillLeavesARecord(t *testing.T) {
	m := newMount(t, setup{})
	first, other := m.to(alice), m.to(alice)
	at := m.clock.Now()
	answer := m.must(m.do(call{op: logical.UpdateOperation, path: "revoke/entity/" + alice, entity: bob, data: map[string]any{"freeze": true}}))
	record := m.recordOf(answer)
	require.Contains(t, deathsIn(record), other.grantID)
	require.Equal(t, []string{"entity/" + alice}, record["what"])
	require.Contains(t, record["by"], bob, "who asked")
	require.Equal(t, "revoke/entity", record["cause"])
	require.Equal(t, true, record["froze"])
	require.Equal(t, "complete", record["state"])
	require.Equal(t, killStamp(at), record["event_at"])
	require.Equal(t, killStamp(at), record["ordered_at"])
	require.Equal(t, answer.Data["revoked"], record["revoked"])
	require.Equal(t, record["grants"], record["listed"])
	require.Equal(t, int64(0), record["residual_exposure_seconds"])
	death := deathsIn(record)[first.grantID]
	require.Equal(t, map[string]any{
		"grant_id": first.grantID, "entity_id": alice, "role": "r", "provider": "oauth2/p", "revocation": "token", "state": "revoked",
		"at": killStamp(at), "attempts": 1, "self_contained": false, "expires_at": death["expires_at"],
	}, death)
	report := record["report"].(string)
	for _, said := range []string{"entity/" + alice, bob, "revoke/entity", first.grantID + "  revoked " + killStamp(at), "complete"} {
		require.Contains(t, report, said)
	}
	require.Equal(t, []string{answer.Data["kill_id"].(string)}, m.keys("kills", nil))
	require.Contains(t, m.metrics(), `broker_time_to_death_seconds_count{cause="revoke/entity",provider="oauth2/p"}`)

	m.start()
	require.Equal(t, record, m.killNamed(answer.Data["kill_id"].(string)), "it outlives a restart")
	require.Nil(t, m.must(m.read("kills/20260101T000000.000Z-0123456789ab")))
	require.Nil(t, m.must(m.read("kills/nothing")))
}

func TestTheEndOfALeaseLeavesNoRecord(t *testing.T) {
	m := newMount(t, setup{})
	l := m.to(alice)
	ops := []string{}
	m.storage.on(func(op, key string) error {
		ops = append(ops, op+" "+strings.SplitN(key, "/", 2)[0])
		return nil
	})
	require.NoError(t, m.revoke(l))
	m.storage.on(nil)
	require.Equal(t, []string{"delete grant"}, ops, "the ordinary end of a lease takes one write")
	require.Empty(t, m.keys("kills", nil))
	require.NotContains(t, m.metrics(), "broker_time_to_death_seconds_count")
}

// What fails waits in the outbox, and the record is told when it has died, hours later.
func TestARecordIsToldOfADeathInTheOutbox(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{Lifetime: 24 * time.Hour}})
	l := m.to(alice)
	m.server.Break(authserver.EndpointRevoke, authserver.WithStatus(503))
	at := m.clock.Now()
	answer := m.must(m.write("revoke/entity/"+alice, nil))
	again := m.must(m.write("revoke/role/r", nil))
	for _, resp := range []*logical.Response{answer, again} {
		record := m.recordOf(resp)
		require.Equal(t, "pending", record["state"])
		require.Equal(t, 1, record["pending"])
		require.Equal(t, "pending", deathsIn(record)[l.grantID]["state"])
		require.NotEmpty(t, deathsIn(record)[l.grantID]["error"])
		require.Contains(t, record["report"], "tried again")
	}
	require.Equal(t, []string{answer.Data["kill_id"].(string), again.Data["kill_id"].(string)}, m.onlyGrant()["kill_ids"])
	m.start() // by a process that knows nothing of the kill
	m.clock.advance(3 * time.Hour)
	m.heal()
	m.sweep()
	m.waitForKills()
	confirmed := m.clock.Now()
	for _, resp := range []*logical.Response{answer, again} {
		record := m.recordOf(resp)
		require.Equal(t, "complete", record["state"])
		require.Equal(t, []any{0, 1}, []any{record["pending"], record["revoked"]})
		death := deathsIn(record)[l.grantID]
		require.Equal(t, []any{"revoked", killStamp(confirmed), "r"}, []any{death["state"], death["at"], death["role"]})
		require.Equal(t, 3, death["attempts"])
		require.NotEmpty(t, death["error"], "what it had met before")
		require.Equal(t, int64(confirmed.Sub(at)/time.Second), record["residual_exposure_seconds"])
	}
	require.Contains(t, m.metrics(), fmt.Sprintf(`broker_time_to_death_seconds_sum{cause="revoke/entity",provider="oauth2/p"} %v`, confirmed.Sub(at).Seconds()), "one death, since the first event")
}

func TestWhatExpiresInTheOutboxIsToldAsExpired(t *testing.T) {
	m := newMount(t, setup{})
	l := m.to(alice)
	m.server.Break(authserver.EndpointRevoke, authserver.WithStatus(503))
	answer := m.must(m.write("revoke/grant/"+l.grantID, nil))
	require.Equal(t, "pending", m.recordOf(answer)["state"])
	m.clock.advance(26 * time.Hour)
	m.sweep()
	m.waitForKills()
	record := m.recordOf(answer)
	require.Equal(t, []any{"complete", 1, 0}, []any{record["state"], record["expired"], record["pending"]})
	death := deathsIn(record)[l.grantID]
	require.Equal(t, "expired", death["state"])
	require.Equal(t, record["exposure_ends_at"], death["expires_at"], "until then it was accepted")
	m.heal()
}

func TestAKillGoesOnWithoutItsRecord(t *testing.T) {
	m := newMount(t, setup{})
	l := m.to(alice)
	m.killFailing()
	answer := m.must(m.write("revoke/entity/"+alice, nil))
	require.Equal(t, 1, answer.Data["revoked"], "the kill neither waits nor fails")
	m.waitForKills()
	require.False(t, m.server.Active(l.token))
	require.Contains(t, m.log.String(), "records of kills could not be written", "and it is loud")
	require.Contains(t, m.metrics(), "broker_kill_records_unwritten 1")
	m.storage.on(nil)
	require.NoError(t, m.periodic())
	require.Contains(t, m.metrics(), "broker_kill_records_unwritten 0")
	m.start()
	require.Equal(t, "revoked", deathsIn(m.recordOf(answer))[l.grantID]["state"], "it is written when storage works again")
}

// A kill that a crash cuts short goes on, and so does its record, which says so.
func TestARecordSurvivesACrash(t *testing.T) {
	m := newMount(t, setup{})
	leases := []*lease{m.to(alice), m.to(alice), m.to(alice)}
	reached := make(chan struct{}, 3)
	killed := false
	m.storage.on(func(op, key string) error {
		switch {
		case killed:
			return errors.New("the process is gone")
		case op == "delete" && strings.HasPrefix(key, "grant/"):
			killed = true // one died, and nobody will know
			reached <- struct{}{}
		}
		return nil
	})
	go func() { _, _ = m.write("revoke/entity/"+alice, nil) }()
	<-reached
	m.waitForKills()
	m.storage.on(nil)
	before := m.keys("kills", nil)
	m.start()
	require.NoError(t, m.periodic())
	m.waitForKills()
	ids := m.keys("kills", nil)
	require.Len(t, ids, 1, "one kill, one record: %v before", before)
	record := m.killNamed(ids[0])
	require.Equal(t, true, record["interrupted"])
	require.Contains(t, record["report"], "the plugin ended during the kill")
	require.Equal(t, "complete", record["state"])
	require.Contains(t, record["what"], "entity/"+alice)
	require.GreaterOrEqual(t, record["grants"], 2)
	for _, l := range leases {
		require.False(t, m.server.Active(l.token))
	}
}

// What died without a word to its record is found dead later.
func TestARecordIsLookedAfter(t *testing.T) {
	m := newMount(t, setup{})
	l := m.to(alice)
	m.server.Break(authserver.EndpointRevoke, authserver.WithStatus(503))
	answer := m.must(m.write("revoke/entity/"+alice, nil))
	require.Equal(t, "pending", m.recordOf(answer)["state"])
	m.heal()
	g, err := m.b.ledger.Get(t.Context(), l.grantID)
	require.NoError(t, err)
	m.server.Kill(l.token)
	require.NoError(t, m.b.ledger.Remove(t.Context(), g))
	require.NoError(t, m.periodic())
	m.clock.advance(11 * time.Minute)
	require.NoError(t, m.periodic())
	record := m.recordOf(answer)
	require.Equal(t, []any{"complete", 1, 0}, []any{record["state"], record["dead"], record["pending"]})
	require.Equal(t, "dead", deathsIn(record)[l.grantID]["state"])
}

func TestBystandersAreInTheRecord(t *testing.T) {
	m := newRack(t, &rack{}, "login", nil)
	mine, theirs := m.to(alice), m.to(bob)
	record := m.recordOf(m.must(m.write("revoke/entity/"+alice, nil)))
	require.Equal(t, []any{1, 1, 1}, []any{record["grants"], record["revoked"], record["bystanders"]})
	require.Equal(t, "revoked", deathsIn(record)[mine.grantID]["state"])
	require.Equal(t, []any{"bystander", bob}, []any{deathsIn(record)[theirs.grantID]["state"], deathsIn(record)[theirs.grantID]["entity_id"]})
}

func TestWhatNothingKillsIsInTheRecord(t *testing.T) {
	m := newJWTMount(t, map[string]any{"revocation": "expiry"})
	l := m.signedTo(alice, "j", nil)
	at := m.clock.Now()
	record := m.recordOf(m.must(m.write("revoke/entity/"+alice, nil)))
	require.Equal(t, []any{"complete", 1, int64(600)}, []any{record["state"], record["expiry_only"], record["residual_exposure_seconds"]})
	require.Equal(t, killStamp(at.Add(10*time.Minute)), record["exposure_ends_at"])
	death := deathsIn(record)[l.grantID]
	require.Equal(t, []any{"expiry_only", "expiry", true}, []any{death["state"], death["revocation"], death["self_contained"]})
	require.Contains(t, record["report"], "who verifies offline")
}

// Whoever leaves has a record of his own, without anybody's asking; the sweep does not
// write one for what is left of a lease.
func TestWhoLeavesLeavesARecord(t *testing.T) {
	m := newMount(t, setup{})
	l := m.to(alice)
	m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = true })
	m.sweep()
	m.waitForKills()
	ids := m.keys("kills", nil)
	require.Len(t, ids, 1)
	record := m.killNamed(ids[0])
	require.Equal(t, []any{[]string{"entity/" + alice}, "holder_disabled", "the broker's sweep", "complete"}, []any{record["what"], record["cause"], record["by"], record["state"]})
	require.Equal(t, "revoked", deathsIn(record)[l.grantID]["state"])
	m.sweep()
	require.Len(t, m.keys("kills", nil), 1, "nothing was left to be killed")
}

// An intent that is to die is looked for later, and the record tells what had come of it.
func TestARecordTellsOfAnOrphan(t *testing.T) {
	r := &rack{lost: 1}
	m := newRack(t, r, "", nil)
	_, err := m.credsBy(call{entity: alice})
	require.Error(t, err)
	id := m.onlyGrant()["grant_id"].(string)
	answer := m.must(m.write("revoke/entity/"+alice, nil))
	require.Equal(t, "pending", deathsIn(m.recordOf(answer))[id]["state"])
	m.deadline()
	m.sweep()
	m.waitForKills()
	record := m.recordOf(answer)
	require.Equal(t, "complete", record["state"])
	require.Contains(t, []any{"revoked", "nothing_minted"}, deathsIn(record)[id]["state"])
}

func TestRecordsAreKeptForTheirTime(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("revoke/entity/"+alice, nil))
	m.waitForKills()
	m.clock.advance(48 * time.Hour)
	m.must(m.write("revoke/entity/"+alice, nil))
	m.waitForKills()
	ids := m.keys("kills", nil)
	require.Len(t, ids, 2, "an operator's kill has a record though nothing lived")
	require.NoError(t, m.periodic())
	require.Equal(t, ids, m.keys("kills", nil))
	_, err := m.write("config", map[string]any{"kills_retention": "1h"})
	require.ErrorContains(t, err, "kills_retention must be between")
	m.must(m.write("config", map[string]any{"kills_retention": "24h"}))
	m.start()
	require.NoError(t, m.periodic())
	require.Equal(t, ids[1:], m.keys("kills", nil))
	require.Equal(t, ids[1:], m.keys("kills", map[string]any{"after": ids[0]}))
	m.clock.advance(-72 * time.Hour)
	require.NoError(t, m.periodic())
	require.Equal(t, ids[1:], m.keys("kills", nil), "a clock that goes back costs nothing")
}

// Kills on the word of the same thing, such as a signal that means several subjects, are
// one record; and one that a signal has ordered in vain leaves none.
func TestKillsOfOneWordAreOneRecord(t *testing.T) {
	m := newMount(t, setup{})
	l, event := m.to(alice), m.clock.Now().Add(-5*time.Second)
	id, err := kills.NewID(m.clock.Now())
	require.NoError(t, err)
	asked := kills.Asked{ID: id, By: "signal okta (jti 1)", Event: event, Cause: ending.CauseSignal + "session-revoked"}
	for _, what := range []string{alice, bob} {
		_, err := m.b.killer.KillAll(t.Context(), ending.Thing{Kind: ending.KindEntity, Name: what}, asked)
		require.NoError(t, err)
	}
	m.waitForKills()
	record := m.killNamed(id)
	require.ElementsMatch(t, []string{"entity/" + alice, "entity/" + bob}, record["what"])
	require.Equal(t, []any{"signal okta (jti 1)", killStamp(event), int64(5)}, []any{record["by"], record["event_at"], record["residual_exposure_seconds"]})
	require.Equal(t, "revoked", deathsIn(record)[l.grantID]["state"])
	require.Contains(t, m.metrics(), `broker_time_to_death_seconds_sum{cause="signal/session-revoked",provider="oauth2/p"} 5`)
	_, err = m.b.killer.KillAll(t.Context(), ending.Thing{Kind: ending.KindEntity, Name: bob}, kills.Asked{By: "signal okta (jti 2)"})
	require.NoError(t, err)
	m.waitForKills()
	require.Equal(t, []string{id}, m.keys("kills", nil))
}

// One event kills a thousand grants at two providers: all die, and neither does a
// provider wait for the other nor a grant for the one before it. The server counts who is
// there at once, and lets nobody go before as many are there as may be.
func TestOneEventKillsAThousandAtOnce(t *testing.T) {
	const each, atOnce = 500, 32
	m := newMount(t, setup{})
	m.must(m.write("providers/oauth2/q", m.providerFields(nil)))
	m.must(m.write("roles/q", map[string]any{"provider": "oauth2/q", "scopes": "read"}))
	for range each {
		m.to(alice)
		_, err := m.credsBy(call{path: "creds/q", entity: alice})
		require.NoError(t, err)
	}
	m.untilAtOnce(2 * atOnce)
	answer := m.must(m.write("revoke/entity/"+alice, nil))
	require.Equal(t, []any{2 * each, 0}, []any{answer.Data["revoked"], answer.Data["pending"]})
	require.Empty(t, m.server.Live())
	record := m.recordOf(answer)
	require.Equal(t, []any{"complete", 2 * each, 2 * each}, []any{record["state"], record["grants"], record["revoked"]})
	metrics := m.metrics()
	for _, ref := range []string{"oauth2/p", "oauth2/q"} {
		require.Contains(t, metrics, fmt.Sprintf(`broker_time_to_death_seconds_count{cause="revoke/entity",provider=%q} %d`, ref, each))
	}
}

// untilAtOnce has the server answer no revocation before there are so many under way: a
// kill that is serial anywhere does not end.
func (m *mount) untilAtOnce(want int) {
	var mu sync.Mutex
	there, released := 0, false
	all := make(chan struct{})
	m.server.Break(authserver.EndpointRevoke, authserver.Before(func() {
		mu.Lock()
		if there++; there == want && !released {
			released = true
			close(all)
		}
		mu.Unlock()
		<-all
		mu.Lock()
		there--
		mu.Unlock()
	}))
}

// Who has the answer to a kill of one grant has its record, whatever happens next; and the
// answer all the same where storage hangs.
func TestTheRecordOfOneGrantIsThereBeforeTheAnswer(t *testing.T) {
	m := newMount(t, setup{})
	for range 5 {
		l := m.to(alice)
		answer := m.must(m.write("revoke/grant/"+l.grantID, nil))
		entry, err := m.storage.InmemStorage.Get(t.Context(), kills.StoragePrefix+answer.Data["kill_id"].(string))
		require.NoError(t, err)
		require.NotNil(t, entry)
		require.Contains(t, string(entry.Value), `"tried"`)
	}
	l, release := m.to(alice), make(chan struct{})
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, kills.StoragePrefix) {
			<-release
		}
		return nil
	})
	answer := m.must(m.write("revoke/grant/"+l.grantID, nil))
	require.Equal(t, 1, answer.Data["revoked"])
	close(release)
	require.Equal(t, "complete", m.recordOf(answer)["state"])
}

// An order of a build that did not ask on whose word has a record all the same, always
// the same one.
func TestAnOrderOfBeforeLeavesARecord(t *testing.T) {
	m := newMount(t, setup{})
	l := m.to(alice)
	order := fmt.Sprintf(`{"kind":"entity","name":%q,"until":%q}`, alice, m.clock.Now().Add(time.Second).Format(time.RFC3339))
	for range 2 {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: ending.OrderPrefix + "0b7e1a1c-0000-4000-8000-000000000000", Value: []byte(order)}))
		m.start()
		require.NoError(t, m.periodic())
		m.waitForKills()
	}
	ids := m.keys("kills", nil)
	require.Len(t, ids, 1)
	record := m.killNamed(ids[0])
	require.Contains(t, record["by"], "earlier build")
	require.Equal(t, "revoked", deathsIn(record)[l.grantID]["state"])
}

// A kill that comes while a token is being minted finds the intent alone. The token comes,
// is not handed out and dies, and the record tells when.
func TestARecordTellsOfATokenThatCameAfterTheKill(t *testing.T) {
	r := &rack{}
	m := newRack(t, r, "", nil)
	var answer *logical.Response
	r.set(func(r *rack) {
		r.after = func() { answer = m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": true})) }
	})
	_, err := m.credsBy(call{entity: alice})
	require.Error(t, err)
	m.waitForKills()
	require.Empty(t, r.live())
	record := m.recordOf(answer)
	require.Equal(t, []any{"complete", 1}, []any{record["state"], record["revoked"]}, "%v", record["report"])
}

// A kill that storage has stopped is repeated by the sweep, in the same record, which
// counts nothing twice.
func TestAKillThatIsRepeatedIsOneRecord(t *testing.T) {
	m := newMount(t, setup{})
	for range 3 {
		m.to(alice)
	}
	m.pushOut()
	var reads atomic.Int32
	m.storage.on(func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, "grant/") {
			if reads.Add(1) > 4 {
				return errors.New("not now")
			}
		}
		return nil
	})
	_, _ = m.write("revoke/entity/"+alice, nil)
	m.waitForKills()
	ids := m.keys("kills", nil)
	require.Len(t, ids, 1)
	require.Equal(t, "under_way", m.killNamed(ids[0])["state"])
	m.heal()
	m.periodicallyUntil(func() bool {
		m.clock.advance(time.Minute) // what is in the outbox becomes due
		m.waitForKills()
		return m.killNamed(ids[0])["state"] == "complete"
	})
	require.Equal(t, ids, m.keys("kills", nil))
	record := m.killNamed(ids[0])
	require.Equal(t, []any{3, false}, []any{record["grants"], record["interrupted"]}, "%v", record["report"])
	dead, _ := record["dead"].(int) // whose record could not be read when they died
	require.Equal(t, 3, record["revoked"].(int)+dead, "%v", record["report"])
	require.Empty(t, m.server.Live())
}
