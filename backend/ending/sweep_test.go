package ending

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

func TestTheBackoffGrowsAndHasAnEnd(t *testing.T) {
	for attempts := 1; attempts < 200; attempts++ {
		want := min(5*time.Second<<min(attempts-1, 7), 10*time.Minute)
		for range 20 {
			require.GreaterOrEqual(t, backoff(attempts), want/2)
			require.LessOrEqual(t, backoff(attempts), want)
		}
	}
}

func TestAProviderWithTooMuchToKillDoesNotHoldUpOthers(t *testing.T) {
	w := newWorld(t)
	slow, quick := w.record("alice", "oauth2/slow"), w.record("alice", "oauth2/quick")
	w.setTo(w.now().Add(62 * time.Minute))
	w.queue.waiting["oauth2/slow"] = maxQueued
	_, err := w.Sweep(t.Context(), true, time.Minute)
	require.NoError(t, err)
	require.Equal(t, []string{slow.ID}, w.left("alice"), quick.ID)
	delete(w.queue.waiting, "oauth2/slow")
	_, err = w.Sweep(t.Context(), true, time.Minute)
	require.NoError(t, err)
	require.Empty(t, w.left("alice"))
}

// TestTheAgendaKnowsEveryCause holds when the ledger looks at a grant against why
// the sweep kills one.
func TestTheAgendaKnowsEveryCause(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		at := func(name string) time.Time {
			return now.Add(time.Duration(rapid.IntRange(-300, 300).Draw(t, name)) * time.Second)
		}
		s := grant.Summary{Revocable: rapid.Bool().Draw(t, "revocable"), LeaseEnds: at("lease")}
		if rapid.Bool().Draw(t, "expires") {
			s.ExpiresAt = at("expiry")
		}
		if rapid.Bool().Draw(t, "doomed") {
			s.Doomed, s.Next = true, at("next")
		}
		due, ever := s.Due()
		if dueCause(&s, now, false) != "" {
			require.True(t, ever && !now.Before(due), "looked at in time")
		} else {
			require.False(t, ever && now.After(due), "and not in vain")
		}
		if dueCause(&s, now, true) != "" {
			require.True(t, ever && (!now.Add(grant.Overstay).Before(due) || s.Doomed), "by hand, too")
		}
	})
}
