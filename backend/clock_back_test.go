package backend

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The clock may go back, or the new leader's be behind: a kill means what is on record all
// the same.
func TestNoGrantHidesFromAKillBehindTheClock(t *testing.T) {
	for name, kill := range map[string]func(m *mount){
		"of an entity": func(m *mount) { m.must(m.write("revoke/entity/"+alice, nil)) },
		"of a role":    func(m *mount) { m.must(m.write("revoke/role/r", map[string]any{"freeze": true})) },
		"of a provider": func(m *mount) {
			m.must(m.delete("providers/rack/p", map[string]any{"force": true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rack{nameless: true}
			m := newRack(t, r, "", nil)
			hers := m.to(alice)
			m.clock.advance(-5 * time.Second)
			kill(m)
			m.waitForKills()
			require.False(t, r.works(hers))
			m.clock.advance(10 * time.Second)
			require.Empty(t, m.allGrants())
		})
	}
}

// What is issued after a kill is not meant, whatever goes on with the kill.
func TestWhatIsIssuedAfterAKillIsNotMeant(t *testing.T) {
	r := &rack{nameless: true}
	m := newRack(t, r, "", nil)
	m.to(alice)
	m.must(m.write("revoke/entity/"+alice, nil))
	m.waitForKills()
	m.clock.advance(time.Second)
	later := m.to(alice)
	m.sweep()
	require.True(t, r.works(later))
	require.NoError(t, m.revoke(later))
}

// What a version of the type that finds nothing any more has left is not on record for ever.
func TestAnIntentThatIsNeverFoundEnds(t *testing.T) {
	r := &rack{lost: 1}
	m := newRack(t, r, "", map[string]any{"max_grants_per_entity": 1})
	_, err := m.credsBy(call{entity: alice})
	require.Error(t, err)
	r.set(func(r *rack) { r.nameless = true }) // the type of this version finds nothing
	m.start()
	require.NoError(t, m.b.ledger.Load(t.Context()))
	m.clock.advance(5 * time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	m.clock.advance(25 * time.Hour)
	require.NoError(t, m.periodic())
	m.waitForKills()
	require.Empty(t, m.allGrants())
}
