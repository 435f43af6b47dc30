package ending

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

var dawn = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func atDawn() time.Time { return dawn }

// lateStorage calls back between a read and its answer.
type lateStorage struct {
	logical.Storage
	after func(op string)
}

// List implements logical.Storage.
func (s *lateStorage) List(ctx context.Context, prefix string) ([]string, error) {
	keys, err := s.Storage.List(ctx, prefix)
	s.after("list")
	return keys, err
}

// Get implements logical.Storage.
func (s *lateStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	entry, err := s.Storage.Get(ctx, key)
	s.after("get")
	return entry, err
}

// TestAFreezeWhileOthersAreReadIsNotMissed: what another node writes between a read of
// storage and the moment at which that is kept must not be hidden by it.
func TestAFreezeWhileOthersAreReadIsNotMissed(t *testing.T) {
	role := Thing{KindRole, "r"}
	for what, change := range map[string]func(storage logical.Storage, f *Freezer){
		"in an entry of its own": func(storage logical.Storage, f *Freezer) {
			require.NoError(t, NewFreezer(storage, atDawn).Freeze(t.Context(), role, "there"))
			require.True(t, f.Invalidate(FrozenPrefix+keyOf("role/r")))
		},
		"in the old entry": func(storage logical.Storage, f *Freezer) {
			entry, err := logical.StorageEntryJSON(OldFrozenKey, map[string]Frozen{"role/r": {Since: dawn}})
			require.NoError(t, err)
			require.NoError(t, storage.Put(t.Context(), entry))
			require.True(t, f.Invalidate(OldFrozenKey))
		},
	} {
		t.Run(what, func(t *testing.T) {
			storage := &lateStorage{Storage: &logical.InmemStorage{}}
			f := NewFreezer(storage, atDawn)
			storage.after = func(op string) {
				if op == "list" {
					change(storage.Storage, f)
				}
			}
			_, err := f.Check(t.Context(), Basis{Holder: "alice", Role: "r", Provider: "oauth2/p"})
			require.NoError(t, err)
			storage.after = func(string) {}
			reasons, err := f.Check(t.Context(), Basis{Holder: "alice", Role: "r", Provider: "oauth2/p"})
			require.NoError(t, err)
			require.Len(t, reasons, 1)
			require.NoError(t, f.Thaw(t.Context(), role))
			reasons, err = f.Check(t.Context(), Basis{Holder: "alice", Role: "r", Provider: "oauth2/p"})
			require.NoError(t, err)
			require.Empty(t, reasons)
		})
	}
}

// Where another node has written so much that each is not asked for, one list is read.
func TestManyFreezesOfAnotherNodeAreReadByOneList(t *testing.T) {
	storage := &lateStorage{Storage: &logical.InmemStorage{}, after: func(string) {}}
	here, there := NewFreezer(storage, atDawn), NewFreezer(storage.Storage, atDawn)
	_, err := here.Check(t.Context(), Basis{Holder: "alice", Role: "r", Provider: "oauth2/p"})
	require.NoError(t, err)
	for i := range mostUnsure + 1 {
		require.NoError(t, there.Freeze(t.Context(), Thing{KindRole, fmt.Sprint(i)}, "there"))
		require.True(t, here.Invalidate(FrozenPrefix+keyOf(fmt.Sprintf("role/%d", i))))
	}
	var reads []string
	storage.after = func(op string) { reads = append(reads, op) }
	for range 2 {
		reasons, err := here.Check(t.Context(), Basis{Holder: "alice", Role: "7", Provider: "oauth2/p"})
		require.NoError(t, err)
		require.Len(t, reasons, 1)
	}
	require.Equal(t, []string{"get", "list"}, reads, "the old entry and one list, once")
	require.False(t, here.Invalidate("role/r"))
}

func TestAnyNameCanBeFrozen(t *testing.T) {
	const alice = "11111111-aaaa-4aaa-8aaa-111111111111"
	storage := &logical.InmemStorage{}
	f := NewFreezer(storage, atDawn)
	names := []string{
		"entity/" + alice, "entity/" + alice + ".Ab1cD", "entity/..", "entity/../../provider/oauth2/p", "role/a/b", "role/", "subject/\x00\xff",
		"entity/ä☃", "subject/" + strings.Repeat("s", longestPlainName-len("subject/")), "subject/" + strings.Repeat("s", longestPlainName-len("subject/")+1),
		"subject/" + strings.Repeat("s", 5000), "subject/" + strings.Repeat("s", 4999) + "t", "subject/~",
	}
	slices.Sort(names)
	thing := func(name string) Thing {
		kind, rest, _ := strings.Cut(name, "/")
		return Thing{kind, rest}
	}
	for i, name := range names {
		require.NoError(t, f.Freeze(t.Context(), thing(name), fmt.Sprint(i)))
	}
	keys, err := storage.List(t.Context(), FrozenPrefix)
	require.NoError(t, err)
	require.Len(t, keys, len(names))
	for _, key := range keys {
		require.Regexp(t, regexp.MustCompile(`^[A-Za-z0-9_~-]{1,240}$`), key)
	}
	for _, f := range []*Freezer{f, NewFreezer(storage, atDawn)} {
		listed, err := f.List(t.Context(), "", 1000)
		require.NoError(t, err)
		require.Len(t, listed, len(names))
		for i, name := range names {
			require.Equal(t, Frozen{Since: dawn, By: fmt.Sprint(i), Name: name}, listed[i])
			what := thing(name)
			found, err := f.frozen.anyOf(t.Context(), []Thing{what, {what.Kind, what.Name + "x"}})
			require.NoError(t, err)
			require.Equal(t, []Thing{what}, found)
		}
	}
	for _, name := range names {
		require.NoError(t, f.Thaw(t.Context(), thing(name)))
	}
	left, err := storage.List(t.Context(), FrozenPrefix)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestAFreezeThatIsOverIsForgottenOneDay, but not while a mint may be in flight that
// began before it.
func TestAFreezeThatIsOverIsForgottenOneDay(t *testing.T) {
	now := dawn
	f := NewFreezer(&logical.InmemStorage{}, func() time.Time { return now })
	moment := f.Moment()
	for i := range 100 {
		role := Thing{KindRole, fmt.Sprint(i)}
		require.NoError(t, f.Freeze(t.Context(), role, "test"))
		require.NoError(t, f.Thaw(t.Context(), role))
	}
	reasons, err := f.CheckSince(t.Context(), moment, Basis{Holder: "alice", Role: "0", Provider: "oauth2/p"})
	require.NoError(t, err)
	require.Len(t, reasons, 1)
	now = now.Add(rememberedFor + time.Second)
	require.NoError(t, f.Thaw(t.Context(), Thing{KindRole, "0"}))
	require.Empty(t, f.last)
}

// TestWhatEventsInterruptIsForgottenToo: nobody thaws what was never frozen.
func TestWhatEventsInterruptIsForgottenToo(t *testing.T) {
	now := dawn
	f := NewFreezer(&logical.InmemStorage{}, func() time.Time { return now })
	for i := range 10_000 {
		now = now.Add(time.Minute)
		f.Interrupt(Subject("https://idp.example", fmt.Sprint(i)))
		require.NoError(t, f.FreezePerson(t.Context(), fmt.Sprint(i%3), "test", FrozenPerson{}))
	}
	require.LessOrEqual(t, len(f.last), 62)
	require.Len(t, f.persons, 3)
}
