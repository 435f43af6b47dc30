package backend

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// A restart gives nobody a second minute: what was issued is on record. Only what is on
// record no more is forgotten, and after a minute nothing need be read.
func TestTheIssueRateOutlivesARestart(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"max_issue_rate": 3}})
	issue := func(entity string) error { _, err := m.credsBy(call{entity: entity}); return err }
	first, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	m.clock.advance(30 * time.Second)
	require.NoError(t, issue(alice))
	require.NoError(t, issue(alice))
	for range 2 {
		requireCode(t, issue(alice), fault.SlowDown, "try again in 30s")
		require.NoError(t, issue(bob), "another's")
		explained := m.must(m.write("roles/r/explain", map[string]any{"entity_id": alice}))
		require.Contains(t, explained.Data["reasons"].([]string)[0], "slow_down")
		m.start()
	}
	m.clock.advance(30 * time.Second)
	require.NoError(t, issue(alice), "the first one's minute is over")
	requireCode(t, issue(alice), fault.SlowDown)

	m.clock.advance(rateWindow)
	require.NoError(t, issue(alice))
	require.NoError(t, issue(alice))
	require.NoError(t, m.revoke(first))
	l, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	require.NoError(t, m.revoke(l))
	requireCode(t, issue(alice), fault.SlowDown) // an issue stays one though it is revoked
	m.start()
	require.NoError(t, issue(alice), "but for a restart")
	requireCode(t, issue(alice), fault.SlowDown)
}

// Whoever comes while the records are read after a start is counted with all the others.
func TestTheIssueRateHoldsUnderPressure(t *testing.T) {
	m := newMount(t, setup{provider: patient.provider, role: map[string]any{"max_issue_rate": 5}})
	_, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	m.start()
	var got atomic.Int64
	together(func(worker int) {
		if worker%7 == 0 {
			assert.NoError(t, m.b.quotas.sweep(context.Background()))
		}
		_, err := m.credsBy(call{entity: alice})
		if err == nil {
			got.Add(1)
			return
		}
		requireCode(t, err, fault.SlowDown)
	})
	require.EqualValues(t, 4, got.Load())
	require.Len(t, m.server.Live(), 5)
}

func TestARateIsNotForgottenWhileSomebodyNeedsIt(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"max_issue_rate": 2}})
	for range 2 {
		_, err := m.credsBy(call{entity: alice})
		require.NoError(t, err)
		require.NoError(t, m.b.quotas.sweep(t.Context()))
	}
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.SlowDown)
	m.clock.advance(rateWindow)
	require.NoError(t, m.b.quotas.sweep(t.Context()))
	require.Empty(t, m.b.quotas.rates)
	_, err = m.credsBy(call{entity: alice})
	require.NoError(t, err)
}

// Not knowing is neither nothing nor a limit.
func TestARateThatCannotBeReadAfterAStartIsNotNothing(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"max_issue_rate": 1}})
	_, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	m.start()
	m.storage.fail("list")
	_, err = m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.storage.on(nil)
	_, err = m.credsBy(call{entity: alice})
	requireCode(t, err, fault.SlowDown)
}

// Of what builds of before stored of rates nothing stays.
func TestStoredRatesAreCleared(t *testing.T) {
	m := newMount(t, setup{})
	require.NoError(t, m.storage.Put(context.Background(), &logical.StorageEntry{Key: ratePrefix + "r/" + alice, Value: []byte(`{"issues":["2026-03-01T12:00:00Z"]}`)}))
	m.sweep()
	require.Empty(t, m.allKeysBelow(ratePrefix))
}
