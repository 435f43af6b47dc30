package grant

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

func liveIDs(t testing.TB, l *Ledger, holder, role string, now time.Time) map[string]bool {
	t.Helper()
	require.NoError(t, l.Watch(context.Background(), holder, role, now))
	ids, ok := l.LiveIDs(holder, role, now)
	require.True(t, ok)
	return ids
}

func TestAQuotaCountsWhatLives(t *testing.T) {
	l, s := emptyLedger(t)
	_, ok := l.LiveIDs("alice", "r", noon)
	require.False(t, ok, "it has to be watched first")
	before, withheld, other, otherRole := newGrant(t, "alice"), newGrant(t, "alice"), newGrant(t, "bob"), newGrant(t, "alice")
	withheld.Withheld, withheld.ExpiresAt, withheld.Handle, otherRole.Role = true, time.Time{}, secret.Text{}, "s" // nobody knows when it ends
	for _, g := range []*Grant{before, withheld, other, otherRole} {
		require.NoError(t, l.Record(t.Context(), g))
	}
	for name, l := range map[string]*Ledger{"known": l, "after a restart, not loaded": NewLedger(s)} {
		require.Equal(t, map[string]bool{before.ID: true}, liveIDs(t, l, "alice", "r", noon), name)
		require.Empty(t, liveIDs(t, l, "carol", "r", noon), name)
		after := newGrant(t, "alice")
		require.NoError(t, l.Record(t.Context(), after))
		require.Len(t, liveIDs(t, l, "alice", "r", noon), 2, name)
		require.Empty(t, liveIDs(t, l, "alice", "r", noon.Add(time.Hour+ExpiryGrace+time.Second)), name)
		require.NoError(t, l.Remove(t.Context(), after))
		require.Len(t, liveIDs(t, l, "alice", "r", noon), 1, name)
	}
}

func TestAQuotaIsGivenUpWhenIdle(t *testing.T) {
	l, _ := emptyLedger(t)
	require.Empty(t, liveIDs(t, l, "alice", "r", noon))
	l.Unwatch(noon)
	_, ok := l.LiveIDs("alice", "r", noon)
	require.True(t, ok)
	l.Unwatch(noon.Add(time.Second))
	_, ok = l.LiveIDs("alice", "r", noon)
	require.False(t, ok)
}

func TestAQuotaThatCannotBeReadIsTriedAgain(t *testing.T) {
	l, s := emptyLedger(t)
	require.NoError(t, l.Record(t.Context(), newGrant(t, "alice")))
	l.index.lately = newLately(0)
	s.FailGet(true)
	require.Error(t, l.Watch(t.Context(), "alice", "r", noon))
	s.FailGet(false).FailList(true)
	require.Error(t, l.Watch(t.Context(), "alice", "r", noon))
	s.FailList(false)
	require.Len(t, liveIDs(t, l, "alice", "r", noon), 1)
}

func TestAQuotaIsExactWhileItIsRead(t *testing.T) {
	s := &logical.InmemStorage{}
	var old []*Grant
	for range 200 {
		old = append(old, newGrant(t, "alice"))
		require.NoError(t, NewLedger(s).Record(t.Context(), old[len(old)-1]))
	}
	l := NewLedger(s)
	var mu sync.Mutex
	want := map[string]bool{}
	for _, g := range old {
		want[g.ID] = true
	}
	concurrently(20, func(i int) {
		switch {
		case i < 4:
			require.NoError(t, l.Watch(context.Background(), "alice", "r", noon))
		case i < 12:
			g := newGrant(t, "alice")
			require.NoError(t, l.Record(context.Background(), g))
			mu.Lock()
			want[g.ID] = true
			mu.Unlock()
		default:
			require.NoError(t, l.Remove(context.Background(), old[i]))
			mu.Lock()
			delete(want, old[i].ID)
			mu.Unlock()
		}
	})
	require.Equal(t, want, liveIDs(t, l, "alice", "r", noon))
}
