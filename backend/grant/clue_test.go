package grant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Two ids of one subject have nothing in common for who does not know it.
func TestAnIDDoesNotShowWhoseItIs(t *testing.T) {
	of := Told{Role: "r", Provider: "oauth2/p", Parties: []Party{{ID: "ann", Issuer: "idp"}, {}, {ID: "ann", Issuer: "idp"}}}
	seen := map[string]bool{}
	for range 50 {
		id, err := NewIDBeside("alice", 0, of)
		require.NoError(t, err)
		random, digits, marked := strings.Cut(strings.TrimPrefix(id, "alice."), toldMark)
		require.True(t, marked)
		require.Len(t, random, randomPart)
		require.Len(t, digits, 4*toldDigits, "each once")
		for ; digits != ""; digits = digits[toldDigits:] {
			seen[digits[:toldDigits]] = true
		}
		for _, clue := range []Clue{{}, OfRole("r"), OfProvider("oauth2/p"), OfParty("ann"), OfIssuer("idp")} {
			require.True(t, clue.mayBeOf(id), clue)
		}
		holder, ok := HolderOf(id)
		require.True(t, ok)
		require.Equal(t, "alice", holder)
	}
	require.Greater(t, len(seen), 190)
}

// TestAnIDTellsNothingFalse: whatever a grant has, its id may be of; and of what it has not,
// hardly ever, unless the id is of a build of before.
func TestAnIDTellsNothingFalse(t *testing.T) {
	names := rapid.SampledFrom([]string{"", "a", "b", "role/a", "issuer/b", "s", "t"})
	wrong, all := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		g := &Grant{Role: names.Draw(t, "role"), Provider: names.Draw(t, "provider")}
		g.Subject, g.SubjectIssuer, g.Actor, g.ActorIssuer = names.Draw(t, "sub"), names.Draw(t, "iss"), names.Draw(t, "act"), names.Draw(t, "act's iss")
		id, err := NewIDBeside(rapid.SampledFrom([]string{"alice", NoHolder, "a.ns1"}).Draw(t, "holder"), rapid.IntRange(0, 500).Draw(t, "others"),
			Told{g.Role, g.Provider, []Party{g.subject(), g.actor()}})
		require.NoError(t, err)
		g.ID = id
		s := g.Summary()
		for _, name := range []string{"a", "b", "role/a", "issuer/b", "s", "t"} {
			for _, clue := range []Clue{OfRole(name), OfProvider(name), OfIssuer(name), OfParty(name)} {
				if clue.IsOf(&s) {
					require.True(t, clue.mayBeOf(id), "%v of %s", clue, id)
				} else if all++; clue.mayBeOf(id) {
					wrong++
				}
			}
		}
	})
	require.LessOrEqual(t, wrong, 2, "of %d", all)
	for _, odd := range []string{
		"alice.shared", "alice.s", "alice.t", "none.check17", "x", "alice.0123456789abcdef0123456789abcdefs123", "alice.0123456789abcdef0123456789abcdeft1234", "alice.0123456789abcdef0123456789abcdef",
	} {
		for _, clue := range []Clue{{}, OfRole("r"), OfProvider("oauth2/p"), OfParty("ann"), OfIssuer("idp")} {
			require.True(t, clue.mayBeOf(odd), "%v of %s", clue, odd)
		}
	}
}

// What is found right after a start costs the reads of what is found, and the lists of who
// has any, whatever the ledger looks like.
func TestWhatIsLookedForAfterAStartIsFoundWithoutReadingOthers(t *testing.T) {
	for name, s := range map[string]*imagined{
		"one holder of all":          {holders: 1, each: 5_000, subjects: 500, roles: 50},
		"many holders of a few":      {holders: 2_000, each: 5, subjects: 1_000, roles: 50},
		"a few holders of many":      {holders: 10, each: 1_000, subjects: 100, roles: 50},
		"a role for each":            {holders: 100, each: 50, roles: 5_000},
		"everything of one provider": {holders: 50, each: 100, roles: 5},
	} {
		t.Run(name, func(t *testing.T) {
			all := []string{}
			shards := 0
			for i := range s.holders {
				in := map[string]bool{}
				for n := range s.each {
					id := s.id(s.holder(i), n)
					at, _ := addressOf(id)
					all, in[at.shard] = append(all, id), true
				}
				shards += len(in)
			}
			clues := []Clue{OfRole(s.role(randomOf(all[0]))), OfProvider(s.provider(randomOf(all[0]))), OfRole("nobody"), OfIssuer("nobody")}
			if s.subjects > 0 {
				clues = append(clues, OfParty(s.subject(randomOf(all[0]))))
			}
			for _, of := range clues {
				l := NewLedger(s)
				want := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return !s.has(randomOf(id), of) })
				got, reads, calls := []string{}, s.reads.Load(), s.calls.Load()
				require.NoError(t, l.Find(t.Context(), of, func(found *Summary) bool { got = append(got, found.ID); return true }))
				require.ElementsMatch(t, want, got)
				reads, calls = s.reads.Load()-reads, s.calls.Load()-calls
				require.LessOrEqual(t, reads, int64(len(want)+5), "%v: one in 65,536 others looks alike", of)
				require.LessOrEqual(t, calls, reads+int64(buckets+s.holders+shards), "%v: and a list of each holder, and of each shard", of)
				require.False(t, l.Loaded())
			}
		})
	}
}

// has is what the grant's record tells.
func (s *imagined) has(random string, of Clue) bool {
	told := s.told(random)
	return slices.Contains([]Clue{OfRole(told.Role), OfProvider(told.Provider)}, of) ||
		slices.ContainsFunc(told.Parties, func(p Party) bool { return of == OfParty(p.ID) || of == OfIssuer(p.Issuer) })
}

// Who has few grants has them in one shard, and who has very many in all.
func TestFewGrantsNeedNoShards(t *testing.T) {
	shardsOf := func(holder string, others, n int) int {
		shards := map[string]bool{}
		for range n {
			id, err := NewIDBeside(holder, others, Told{})
			require.NoError(t, err)
			at, ok := addressOf(id)
			require.True(t, ok)
			require.Equal(t, id, at.id())
			shards[at.shard] = true
		}
		return len(shards)
	}
	for _, holder := range []string{"alice", "alice.ns1", NoHolder} {
		require.Equal(t, 1, shardsOf(holder, fewGrants-1, 100), holder)
		require.Greater(t, shardsOf(holder, fewGrants, 200), 10, holder)
	}
	l := NewLedger(&imagined{holders: 1, each: fewGrants})
	require.Equal(t, fewGrants, l.live("alice"), "nobody knows yet")
	require.NoError(t, l.Load(t.Context()))
	require.Zero(t, l.live("alice"))
	require.Equal(t, fewGrants, l.live(l.storage.(*imagined).holder(0)))
}

// A list that fails, and a record that only a newer version reads, hide no others, and are
// told.
func TestFindTellsWhatItCouldNotRead(t *testing.T) {
	s := &failingLists{}
	l := NewLedger(s)
	l.index.lately = newLately(0)
	var ids []string
	for i := range 40 {
		g := newGrant(t, fmt.Sprintf("holder-%d", i))
		require.NoError(t, l.Record(t.Context(), g))
		ids = append(ids, g.ID)
	}
	at, _ := addressOf(ids[0])
	s.fail = inBucket(at.folder)
	found := []string{}
	visit := func(s *Summary) bool { found = append(found, s.ID); return true }
	require.ErrorContains(t, l.Find(t.Context(), Clue{}, visit), "no list")
	require.ElementsMatch(t, ids[1:], found)

	raw, err := form.Kind{Since: []string{"v9.9.9"}}.Encode(map[string]string{"id": ids[0]})
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: at.key(), Value: raw}))
	s.fail, found = "", nil
	require.ErrorIs(t, l.Find(t.Context(), Clue{}, visit), form.ErrNewer)
	require.ElementsMatch(t, ids[1:], found)
	require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: at.key(), Value: []byte("{")}))
	require.NoError(t, l.Find(t.Context(), Clue{}, func(*Summary) bool { return true }), "nobody can read it")

	found = nil
	n := 0
	require.NoError(t, l.Find(t.Context(), Clue{}, func(*Summary) bool { n++; return n < 3 }), "who knows enough")
	require.Equal(t, 3, n)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.Find(ctx, Clue{}, visit), context.Canceled)
}

// A scan gives way to kills that search, but not for ever: in the end they wait for it.
func TestTheScanGivesWayForAMinute(t *testing.T) {
	s := &imagined{holders: 20, each: 5, roles: 1}
	l := NewLedger(s)
	l.finding.Add(1) // one that does not end
	l.index.yields.Store(maxFindYields - 2)
	require.NoError(t, l.Load(t.Context()))
	require.EqualValues(t, maxFindYields-2+100, l.index.yields.Load(), "each record asks, and two waited")
}

// failingLists is a storage that does not list one prefix.
type failingLists struct {
	logical.InmemStorage
	fail string
}

func (s *failingLists) List(ctx context.Context, prefix string) ([]string, error) {
	if prefix == s.fail {
		return nil, errors.New("no list")
	}
	return s.InmemStorage.List(ctx, prefix)
}
