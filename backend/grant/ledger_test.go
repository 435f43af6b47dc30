package grant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const handle = `{"v":1,"token":"HANDLE-canary"}`

// newGrant is a grant with something in every field.
func newGrant(t testing.TB, holder string) *Grant {
	t.Helper()
	id, err := NewID(holder)
	require.NoError(t, err)
	owner, ok := HolderOf(id)
	require.True(t, ok)
	return &Grant{
		ID: id, Holder: owner, Role: "r", Provider: "oauth2/p", Subject: "user-1", SubjectIssuer: "ci", Actor: "agent",
		Access:  Access{Scopes: []string{"read"}, Audiences: []string{"a"}, Resources: []string{"b"}, Permissions: map[string]string{"c": "d"}, Details: json.RawMessage(`[{"type":"t"}]`)},
		Granted: []string{"scope:read"}, Facts: Facts{RemoteAddr: "10.0.0.1", SubjectClaims: map[string]any{"n": json.Number("9007199254740993")}, SubjectExpires: noon.Add(time.Hour)},
		IssuedAt: noon, ExpiresAt: noon.Add(time.Hour), LeaseEnds: noon.Add(30 * time.Minute), MaxLease: noon.Add(time.Hour),
		Class: provider.ClassToken, SelfContained: true, Handle: secret.New(handle),
	}
}

func newLedger(t testing.TB) (*Ledger, *logical.InmemStorage) {
	t.Helper()
	s := &logical.InmemStorage{}
	return NewLedger(s), s
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	l, s := newLedger(t)
	g := newGrant(t, "alice")
	g.Doom = &Doom{Since: noon, Cause: "c", Attempts: 3, Next: noon.Add(time.Second), Error: "e"}
	require.NoError(t, l.Record(t.Context(), g))
	for _, ledger := range []*Ledger{l, NewLedger(s)} {
		got, err := ledger.Get(t.Context(), g.ID)
		require.NoError(t, err)
		require.Equal(t, g, got)
		all, err := ledger.Select(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, []Summary{g.Summary()}, all)
	}
}

func TestAGrantDoesNotShowItsHandle(t *testing.T) {
	g := newGrant(t, "alice")
	raw, err := json.Marshal(g)
	require.NoError(t, err)
	for _, text := range []string{string(raw), fmt.Sprint(g), fmt.Sprintf("%+v %#v", *g, *g), fmt.Sprint(g.Summary())} {
		require.NotContains(t, text, "canary")
	}
}

func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id, err := NewID("")
		require.NoError(t, err)
		require.False(t, seen[id])
		seen[id] = true
		holder, ok := HolderOf(id)
		require.True(t, ok)
		require.Equal(t, NoHolder, holder)
	}
	for _, bad := range []string{"", ".", "a", "a.", ".a", "/", "a/b.c", "a.b/c", "../x.y", "a.b/../../provider/oauth2/p"} {
		_, ok := HolderOf(bad)
		require.False(t, ok, bad)
		l, s := newLedger(t)
		_, err := l.Get(t.Context(), bad)
		require.ErrorIs(t, err, ErrGone)
		require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: "provider/oauth2/p", Value: []byte("{}")}))
		require.NoError(t, l.Remove(t.Context(), bad))
		require.Error(t, l.Record(t.Context(), &Grant{ID: bad}))
		_, err = l.Update(t.Context(), bad, func(*Grant) error { return nil })
		require.ErrorIs(t, err, ErrGone)
		keys, err := logical.CollectKeys(t.Context(), s)
		require.NoError(t, err)
		require.Equal(t, []string{"provider/oauth2/p"}, keys, bad)
	}
}

func FuzzIDs(f *testing.F) {
	f.Add("none.0123456789abcdef0123456789abcdef")
	f.Add("a.b.c")
	f.Add("../a.b")
	f.Fuzz(func(t *testing.T, id string) {
		key, err := keyOf(id)
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(key, StoragePrefix))
		require.Equal(t, 2, strings.Count(key, "/"), "an id names one record of one holder")
		holder, random, _ := strings.Cut(strings.TrimPrefix(key, StoragePrefix), "/")
		require.Equal(t, id, holder+"."+random)
	})
}

func FuzzDecode(f *testing.F) {
	raw, err := newGrant(f, "alice").encode()
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte(`null`))
	f.Add([]byte(`{"doom":null,"access":null,"expires_at":"x"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := decode(raw)
		if err != nil {
			require.ErrorIs(t, err, ErrUnreadable)
			return
		}
		again, err := g.encode()
		if err != nil {
			return // a time beyond what JSON can hold
		}
		_, err = decode(again)
		require.NoError(t, err)
	})
}

func TestAnUnreadableRecordDoesNotHideTheOthers(t *testing.T) {
	_, s := newLedger(t)
	for _, raw := range []string{`{`, `[]`, `null`, `7`, `{"id":5}`, `{}`, `{"id":"bob.x","holder":"bob"}`, `{"id":"alice.broken","holder":"alice and more than the id"}`} {
		require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: StoragePrefix + "alice/broken", Value: []byte(raw)}))
		l := NewLedger(s)
		g := newGrant(t, "alice")
		require.NoError(t, l.Record(t.Context(), g))
		all, err := l.OfHolder(t.Context(), "alice")
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(all, func(s Summary) bool { return s.ID == g.ID }), raw)
		require.Equal(t, []string{"alice.broken"}, l.Unreadable(), raw)
		require.NoError(t, l.Remove(t.Context(), g.ID))
	}
}

func TestLoadingIsTriedAgain(t *testing.T) {
	_, s := newLedger(t)
	first := NewLedger(s)
	g := newGrant(t, "alice")
	require.NoError(t, first.Record(t.Context(), g))
	l := NewLedger(s)
	s.FailList(true)
	_, err := l.Select(t.Context(), nil)
	require.Error(t, err)
	s.FailList(false).FailGet(true)
	_, err = l.Holders(t.Context())
	require.Error(t, err)
	require.False(t, l.Loaded())
	s.FailGet(false)
	holders, err := l.Holders(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"alice"}, holders)
}

func TestUpdateIsOneStep(t *testing.T) {
	l, _ := newLedger(t)
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	var wg sync.WaitGroup
	for range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := l.Update(t.Context(), g.ID, func(g *Grant) error { g.LeaseEnds = g.LeaseEnds.Add(time.Second); return nil })
			require.NoError(t, err)
		}()
	}
	wg.Wait()
	got, err := l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, g.LeaseEnds.Add(50*time.Second), got.LeaseEnds)

	boom := errors.New("no")
	_, err = l.Update(t.Context(), g.ID, func(g *Grant) error { g.LeaseEnds = noon; return boom })
	require.ErrorIs(t, err, boom)
	got, err = l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.NotEqual(t, noon, got.LeaseEnds, "nothing was written")
}

func TestNothingBringsBackTheDead(t *testing.T) {
	revive := map[string]func(l *Ledger, g *Grant) error{
		"update": func(l *Ledger, g *Grant) error {
			_, err := l.Update(context.Background(), g.ID, func(*Grant) error { return nil })
			return err
		},
		"doom": func(l *Ledger, g *Grant) error {
			return l.Doom(context.Background(), g, func(d *Doom) { d.Attempts++ })
		},
		"suspect": func(l *Ledger, g *Grant) error { l.Suspect(g.ID, noon); return nil },
		"flush":   func(l *Ledger, _ *Grant) error { return l.Flush(context.Background()) },
		"load":    func(l *Ledger, _ *Grant) error { return l.Load(context.Background()) },
	}
	for name, f := range revive {
		for _, adopted := range []bool{false, true} {
			l, s := newLedger(t)
			for range 50 {
				g := newGrant(t, "alice")
				if adopted {
					l.Adopt(g)
				} else {
					require.NoError(t, l.Record(t.Context(), g))
				}
				var wg sync.WaitGroup
				wg.Add(2)
				go func() { defer wg.Done(); _ = f(l, g) }()
				go func() { defer wg.Done(); require.NoError(t, l.Remove(context.Background(), g.ID)) }()
				wg.Wait()
				_, err := l.Get(t.Context(), g.ID)
				require.ErrorIs(t, err, ErrGone, name)
			}
			all, err := l.Select(t.Context(), nil)
			require.NoError(t, err)
			require.Empty(t, all, name)
			keys, err := logical.CollectKeys(t.Context(), s)
			require.NoError(t, err)
			require.Empty(t, keys, name)
		}
	}
}

func TestAdoptedGrantsAreLikeAnyOther(t *testing.T) {
	l, s := newLedger(t)
	g := newGrant(t, "alice")
	s.FailPut(true)
	require.Error(t, l.Record(t.Context(), g))
	_, err := l.Get(t.Context(), g.ID)
	require.ErrorIs(t, err, ErrGone)
	l.Adopt(g)
	got, err := l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, g, got)
	require.NotSame(t, g, got, "what is handed out can be changed")
	require.Error(t, l.Flush(t.Context()))
	all, err := l.OfHolder(t.Context(), "alice")
	require.NoError(t, err)
	require.Len(t, all, 1)

	s.FailPut(false)
	require.NoError(t, l.Flush(t.Context()))
	got, err = NewLedger(s).Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, g, got)
	require.NoError(t, l.Remove(t.Context(), g.ID))
	require.NoError(t, l.Flush(t.Context()))
	_, err = l.Get(t.Context(), g.ID)
	require.ErrorIs(t, err, ErrGone)
}

func TestFlushWritesWhatItCan(t *testing.T) {
	l, s := newLedger(t)
	broken := &Grant{ID: "no id", Holder: "no id"}
	l.Adopt(broken)
	g := newGrant(t, "alice")
	l.Adopt(g)
	require.Error(t, l.Flush(t.Context()))
	_, err := NewLedger(s).Get(t.Context(), g.ID)
	require.NoError(t, err)
}

func TestDoom(t *testing.T) {
	attempt := func(d *Doom) { d.Attempts++; d.Next = noon.Add(time.Minute) }
	for name, c := range map[string]struct {
		fail    func(s *logical.InmemStorage)
		durable bool
	}{
		"storage works": {func(*logical.InmemStorage) {}, true},
		"put fails":     {func(s *logical.InmemStorage) { s.FailPut(true) }, false},
		"get fails":     {func(s *logical.InmemStorage) { s.FailGet(true) }, true},
		"all fails":     {func(s *logical.InmemStorage) { s.FailPut(true).FailGet(true) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, s := newLedger(t)
			g := newGrant(t, "alice")
			require.NoError(t, l.Load(t.Context()))
			require.NoError(t, l.Record(t.Context(), g))
			gone := newGrant(t, "alice")
			c.fail(s)
			err := l.Doom(t.Context(), g, attempt)
			require.Equal(t, c.durable, err == nil)
			require.ErrorIs(t, l.Doom(t.Context(), gone, attempt), ErrGone)
			all, err := l.Select(t.Context(), nil)
			require.NoError(t, err)
			require.Len(t, all, 1)
			require.True(t, all[0].Doomed)
			require.Equal(t, noon.Add(time.Minute), all[0].Next)

			s.FailPut(false).FailGet(false)
			require.NoError(t, l.Flush(t.Context()))
			require.NoError(t, l.Doom(t.Context(), g, attempt))
			got, err := NewLedger(s).Get(t.Context(), g.ID)
			require.NoError(t, err)
			require.Equal(t, 2, got.Doom.Attempts)
			require.Nil(t, g.Doom, "the caller's is not changed")
		})
	}
}

func TestSuspectedGrantsAreDue(t *testing.T) {
	l, _ := newLedger(t)
	require.NoError(t, l.Load(t.Context()))
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	l.Suspect(g.ID, noon)
	l.Suspect("alice.nobody", noon)
	l.Suspect("", noon)
	all, err := l.Select(t.Context(), func(s *Summary) bool { return s.Doomed && !s.Next.After(noon) })
	require.NoError(t, err)
	require.Len(t, all, 1)
	got, err := l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Nil(t, got.Doom, "in memory only")
}

func TestLookup(t *testing.T) {
	l, s := newLedger(t)
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	for _, l := range []*Ledger{l, NewLedger(s)} { // one that knows it, and one that has to read it first
		found, known, err := l.Lookup(t.Context(), g.ID)
		require.NoError(t, err)
		require.True(t, known)
		require.Equal(t, g.ID, found.ID)
		for _, id := range []string{"", ".", "alice", "alice.", g.ID + "0", "bob" + g.ID[len("alice"):]} {
			_, known, err := l.Lookup(t.Context(), id)
			require.NoError(t, err)
			require.False(t, known, id)
		}
	}
	require.NoError(t, l.Remove(t.Context(), g.ID))
	_, known, err := l.Lookup(t.Context(), g.ID)
	require.NoError(t, err)
	require.False(t, known)
}

func TestTheIndexIsWhatStorageHolds(t *testing.T) {
	// Many at once, while others load, list and invalidate; at the end the index,
	// a fresh ledger and storage tell the same.
	l, s := newLedger(t)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 30 {
				g := newGrant(t, []string{"alice", "bob", ""}[w%3])
				require.NoError(t, l.Record(context.Background(), g))
				switch rand.IntN(6) {
				case 0:
					require.NoError(t, l.Remove(context.Background(), g.ID))
				case 1:
					require.NoError(t, l.Doom(context.Background(), g, func(d *Doom) { d.Attempts++ }))
				case 2:
					_, err := l.Select(context.Background(), nil)
					require.NoError(t, err)
				case 3:
					l.Invalidate()
				case 4:
					_, err := l.Holders(context.Background())
					require.NoError(t, err)
				}
			}
		}()
	}
	wg.Wait()
	indexed, err := l.Select(t.Context(), nil)
	require.NoError(t, err)
	fresh, err := NewLedger(s).Select(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, fresh, indexed)
	keys, err := logical.CollectKeys(t.Context(), s)
	require.NoError(t, err)
	require.Len(t, keys, len(fresh))
}

func TestInvalidatingKeepsWhatIsInMemoryOnly(t *testing.T) {
	l, _ := newLedger(t)
	g := newGrant(t, "alice")
	l.Adopt(g)
	l.Invalidate()
	all, err := l.Select(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, all, 1)
}
