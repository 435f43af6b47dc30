package grant

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

const (
	entityID   = "7a3c1b52-90de-4f61-8a55-000000000001"
	namespaced = entityID + ".Zx09q"
)

// Ids of which nothing is known but that they can stand in a storage key.
var holders = []string{NoHolder, entityID, namespaced, namespaced + ".b", "0", "a.b.c.d", ".a", "a:b@c d=%20+~", "é.ü", "-x-", "n.n"}

func TestAHoldersIDIsWhatItIs(t *testing.T) {
	l, s := emptyLedger(t)
	made := map[string][]string{}
	for _, holder := range holders {
		for range 40 {
			g := newGrant(t, holder)
			require.Equal(t, holder, g.Holder)
			require.NoError(t, l.Record(t.Context(), g))
			made[holder] = append(made[holder], g.ID)
		}
	}
	for _, ledger := range []*Ledger{l, NewLedger(s)} {
		all, err := ledger.Holders(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, holders, all)
		for _, holder := range holders {
			slices.Sort(made[holder])
			require.Equal(t, made[holder], walked(t, ledger, holder, 7), holder)
		}
	}
	for _, bad := range []string{"a/b", "a..b", "a.", "..", "/", "a\x00", "a\n", "\xff"} {
		_, err := NewID(bad)
		require.ErrorIs(t, err, ErrHolder, bad)
		require.False(t, IsHolder(bad))
	}
	_, err := NewID(NoHolder)
	require.ErrorIs(t, err, ErrHolder, "no entity may be nobody")
}

// walked are the holder's ids, read in pages.
func walked(t *testing.T, l *Ledger, holder string, page int) (ids []string) {
	t.Helper()
	for after := ""; ; {
		n := 0
		require.NoError(t, l.Walk(t.Context(), holder, after, func(s *Summary) bool {
			require.Equal(t, holder, s.Holder)
			ids, after, n = append(ids, s.ID), s.ID, n+1
			return n < page
		}))
		if n < page {
			return ids
		}
	}
}

// The lists of one holder stay short whatever its id is.
func TestAHolderWithADotHasShardsToo(t *testing.T) {
	l, s := emptyLedger(t)
	for range 400 {
		require.NoError(t, l.Record(t.Context(), newGrant(t, namespaced)))
	}
	shards, err := s.List(t.Context(), inBucket(namespaced))
	require.NoError(t, err)
	require.Len(t, shards, 16)
}

// early writes a record as builds did that took a holder's id to end at its first dot.
func early(t *testing.T, s logical.Storage, holder string, n int) *Grant {
	t.Helper()
	g := newGrant(t, holder)
	g.ID = fmt.Sprintf("%s.%032x", holder, n)
	first, rest, _ := strings.Cut(g.ID, ".")
	g.Holder = first
	raw, err := json.Marshal(stored{Grant: g, Handle: g.Handle.Reveal()})
	require.NoError(t, err)
	key := fmt.Sprintf("grant/%x/%s/%s/%s", bucketOf(first), first, rest[:1], rest[1:])
	require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: key, Value: raw}))
	return g
}

// What a build of before has put under half of its holder's id is found where it is,
// is the whole holder's, and is changed and deleted there.
func TestRecordsUnderHalfOfAHoldersIDAreFound(t *testing.T) {
	_, s := emptyLedger(t)
	var old, others []string
	for n := range 5 {
		old = append(old, early(t, s, namespaced, n).ID)
		others = append(others, early(t, s, entityID+".Zother", n).ID)
	}
	l := NewLedger(s)
	fresh := newGrant(t, namespaced)
	require.NoError(t, l.Record(t.Context(), fresh))
	root := newGrant(t, entityID)
	require.NoError(t, l.Record(t.Context(), root))
	check := func(l *Ledger, old []string) {
		t.Helper()
		require.Equal(t, append(slices.Clone(old), fresh.ID), walked(t, l, namespaced, 2))
		require.Equal(t, others, walked(t, l, entityID+".Zother", 2))
		require.Equal(t, []string{root.ID}, walked(t, l, entityID, 2))
		held, err := l.Holders(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, []string{namespaced, entityID + ".Zother", entityID}, held)
		require.Equal(t, len(old)+1, l.Counts(namespaced)[0].Live)
		require.Len(t, liveIDs(t, l, namespaced, "r", noon), len(old)+1)
		require.Empty(t, l.Unreadable())
	}
	check(l, old)
	check(NewLedger(s), old)

	g, err := l.Update(t.Context(), old[0], func(g *Grant) error { g.Role = "r"; g.LeaseEnds = noon; return nil })
	require.NoError(t, err)
	require.Equal(t, namespaced, g.Holder)
	require.NoError(t, l.Doom(t.Context(), g, func(d *Doom) { d.Cause = "c" }))
	check(l, old)
	check(NewLedger(s), old)
	for _, id := range old[:4] {
		g, err := l.Get(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, l.Remove(t.Context(), g))
		_, err = l.Get(t.Context(), id)
		require.ErrorIs(t, err, ErrGone)
	}
	check(l, old[4:])
	check(NewLedger(s), old[4:])
}
