package grant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const handle = `{"v":1,"token":"HANDLE-canary"}`

// newGrant is a grant with something in every field.
func newGrant(t testing.TB, holder string) *Grant {
	t.Helper()
	entity := holder
	if holder == NoHolder {
		entity = ""
	}
	id, err := NewID(entity)
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

// everything walks all holders.
func everything(t testing.TB, l *Ledger) []Summary {
	t.Helper()
	holders, err := l.Holders(context.Background())
	require.NoError(t, err)
	all := []Summary{}
	for _, holder := range holders {
		all = append(all, ofHolder(t, l, holder)...)
	}
	return all
}

func ofHolder(t testing.TB, l *Ledger, holder string) (all []Summary) {
	t.Helper()
	require.NoError(t, l.Walk(context.Background(), holder, "", func(s *Summary) bool {
		all = append(all, *s)
		return true
	}))
	return all
}

func isDue(s *Summary, now time.Time) bool {
	due, ever := s.Due()
	return ever && !now.Before(due)
}

// dueAt are the ids that are due, with every record judged by its own due time.
func dueAt(t require.TestingT, l *Ledger, now time.Time) (ids []string) {
	due, _, err := l.Due(context.Background(), Query{
		Now: now, Limit: 1 << 20, Skip: func(string) bool { return false },
		Business: func(s *Summary) bool { return isDue(s, now) },
	})
	require.NoError(t, err)
	for _, s := range due {
		ids = append(ids, s.ID)
	}
	slices.Sort(ids)
	return ids
}

func emptyLedger(t testing.TB) (*Ledger, *logical.InmemStorage) {
	t.Helper()
	s := &logical.InmemStorage{}
	return NewLedger(s), s
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	l, s := emptyLedger(t)
	g := newGrant(t, "alice")
	g.Doom = &Doom{Since: noon, Cause: "c", Attempts: 3, Next: noon.Add(time.Second), Error: "e"}
	g.Lever, g.Released, g.Intent = "a session", true, noon
	require.NoError(t, l.Record(t.Context(), g))
	for _, ledger := range []*Ledger{l, NewLedger(s)} {
		got, err := ledger.Get(t.Context(), g.ID)
		require.NoError(t, err)
		require.Equal(t, g, got)
		require.Equal(t, []Summary{g.Summary()}, everything(t, ledger))
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
	for _, bad := range []string{"", ".", "a", "a.", ".a", "/", "a/b.c", "a.b/c", "../x.y", "a.b/../../provider/oauth2/p", "a..b", "a.b..c"} {
		_, ok := HolderOf(bad)
		require.False(t, ok, bad)
		l, s := emptyLedger(t)
		_, err := l.Get(t.Context(), bad)
		require.ErrorIs(t, err, ErrGone)
		require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: "provider/oauth2/p", Value: []byte("{}")}))
		require.NoError(t, l.Remove(t.Context(), &Grant{ID: bad}))
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
	f.Add("a.b.nc0")
	f.Add("0.-0")
	f.Add("../a.b")
	f.Fuzz(func(t *testing.T, id string) {
		at, ok := addressOf(id)
		if !ok {
			return
		}
		require.Equal(t, id, at.id(), "a place names one grant")
		require.Equal(t, StoragePrefix, at.key()[:len(StoragePrefix)])
		require.Equal(t, 4, strings.Count(at.key(), "/"), "an id names one record of one holder")
		require.True(t, strings.HasPrefix(at.key(), inBucket(at.folder)))
		holder, ok := HolderOf(id)
		require.True(t, ok)
		require.True(t, holder == at.folder || at.early && strings.HasPrefix(holder, at.folder+"."), "%q lies with %q", holder, at.folder)
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
	_, s := emptyLedger(t)
	broken, _ := addressOf("alice.broken")
	for _, raw := range []string{`{`, `[]`, `null`, `7`, `{"id":5}`, `{}`, `{"id":"bob.x","holder":"bob"}`, `{"id":"alice.broken","holder":"alice and more than the id"}`} {
		require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: broken.key(), Value: []byte(raw)}))
		l := NewLedger(s)
		g := newGrant(t, "alice")
		require.NoError(t, l.Record(t.Context(), g))
		require.NoError(t, l.Load(t.Context()))
		require.True(t, slices.ContainsFunc(ofHolder(t, l, "alice"), func(s Summary) bool { return s.ID == g.ID }), raw)
		require.Equal(t, []string{"alice.broken"}, l.Unreadable(), raw)
		require.NoError(t, l.Remove(t.Context(), g))
	}
}

func TestLoadingIsTriedAgain(t *testing.T) {
	_, s := emptyLedger(t)
	first := NewLedger(s)
	g := newGrant(t, "alice")
	require.NoError(t, first.Record(t.Context(), g))
	l := NewLedger(s)
	s.FailList(true)
	require.Error(t, l.Load(t.Context()))
	s.FailList(false).FailGet(true)
	_, err := l.Holders(t.Context())
	require.Error(t, err)
	require.False(t, l.Loaded())
	s.FailGet(false)
	holders, err := l.Holders(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"alice"}, holders)
}

func TestUpdateIsOneStep(t *testing.T) {
	l, _ := emptyLedger(t)
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	var wg sync.WaitGroup
	for range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := l.Update(t.Context(), g.ID, func(g *Grant) error { g.LeaseEnds = g.LeaseEnds.Add(time.Second); return nil })
			assert.NoError(t, err)
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
		"suspect": func(l *Ledger, g *Grant) error { l.Suspect(g.ID, "why", false); return nil },
		"flush":   func(l *Ledger, _ *Grant) error { return l.Flush(context.Background()) },
		"load":    func(l *Ledger, _ *Grant) error { return l.Load(context.Background()) },
	}
	for name, f := range revive {
		for _, adopted := range []bool{false, true} {
			l, s := emptyLedger(t)
			for range 50 {
				g := newGrant(t, "alice")
				if adopted {
					l.adopt(g, nil)
				} else {
					require.NoError(t, l.Record(t.Context(), g))
				}
				var wg sync.WaitGroup
				wg.Add(2)
				go func() {
					defer wg.Done()
					if err := f(l, g); err != nil {
						assert.ErrorIs(t, err, ErrGone, name)
					}
				}()
				go func() { defer wg.Done(); assert.NoError(t, l.Remove(context.Background(), g)) }()
				wg.Wait()
				_, err := l.Get(t.Context(), g.ID)
				require.ErrorIs(t, err, ErrGone, name)
			}
			require.Empty(t, everything(t, l), name)
			require.Empty(t, l.Totals(), name)
			require.Empty(t, dueAt(t, l, noon.Add(24*time.Hour)), name)
			keys, err := logical.CollectKeys(t.Context(), s)
			require.NoError(t, err)
			require.Empty(t, keys, name)
		}
	}
}

func TestAdoptedGrantsAreLikeAnyOther(t *testing.T) {
	l, s := emptyLedger(t)
	g := newGrant(t, "alice")
	s.FailPut(true)
	require.Error(t, l.Record(t.Context(), g))
	_, err := l.Get(t.Context(), g.ID)
	require.ErrorIs(t, err, ErrGone)
	require.Error(t, l.Keep(t.Context(), g))
	got, err := l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, g, got)
	require.NotSame(t, g, got, "what is handed out can be changed")
	require.Error(t, l.Flush(t.Context()))
	require.Len(t, ofHolder(t, l, "alice"), 1)
	require.Len(t, everything(t, l), 1)

	s.FailPut(false)
	require.NoError(t, l.Flush(t.Context()))
	got, err = NewLedger(s).Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, g, got)
	require.NoError(t, l.Remove(t.Context(), g))
	require.NoError(t, l.Flush(t.Context()))
	_, err = l.Get(t.Context(), g.ID)
	require.ErrorIs(t, err, ErrGone)
}

func TestFlushWritesWhatItCan(t *testing.T) {
	l, s := emptyLedger(t)
	broken, g := newGrant(t, "alice"), newGrant(t, "alice")
	broken.Access.Details = json.RawMessage("{") // it cannot be encoded
	require.Error(t, l.Keep(t.Context(), broken))
	s.FailPut(true)
	require.Error(t, l.Keep(t.Context(), g))
	s.FailPut(false)
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
			l, s := emptyLedger(t)
			g := newGrant(t, "alice")
			require.NoError(t, l.Load(t.Context()))
			require.NoError(t, l.Record(t.Context(), g))
			gone := newGrant(t, "alice")
			c.fail(s)
			err := l.Doom(t.Context(), g, attempt)
			require.Equal(t, c.durable, err == nil)
			require.ErrorIs(t, l.Doom(t.Context(), gone, attempt), ErrGone)
			require.Equal(t, []Count{{Role: "r", Provider: "oauth2/p", Live: 1, Revocable: 1, Outbox: 1}}, l.Counts("alice"))

			s.FailPut(false).FailGet(false)
			require.Empty(t, dueAt(t, l, noon.Add(59*time.Second)))
			require.Equal(t, []string{g.ID}, dueAt(t, l, noon.Add(time.Minute)))
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
	l, _ := emptyLedger(t)
	require.NoError(t, l.Load(t.Context()))
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	l.Suspect(g.ID, "why", false)
	l.Suspect("alice.nobody", "why", false)
	l.Suspect("", "why", false)
	require.Equal(t, []string{g.ID}, dueAt(t, l, noon))
	require.Equal(t, []string{g.ID}, dueAt(t, l, noon), "until it is dead or in the outbox")
	got, err := l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Nil(t, got.Doom, "in memory only")
	require.NoError(t, l.Doom(t.Context(), g, func(d *Doom) { d.Next = noon.Add(time.Minute) }))
	require.Empty(t, dueAt(t, l, noon))
}

func TestLookup(t *testing.T) {
	s := &logical.InmemStorage{}
	l := NewLedger(s)
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
	require.NoError(t, l.Remove(t.Context(), g))
	_, known, err := l.Lookup(t.Context(), g.ID)
	require.NoError(t, err)
	require.False(t, known)
}

func TestInvalidatingKeepsWhatIsInMemoryOnly(t *testing.T) {
	l, s := emptyLedger(t)
	g := newGrant(t, "alice")
	s.FailPut(true)
	require.Error(t, l.Keep(t.Context(), g))
	l.Invalidate()
	require.Len(t, everything(t, l), 1)
	require.Equal(t, []Count{{Role: "r", Provider: "oauth2/p", Live: 1, Revocable: 1}}, l.Counts("alice"))
}

func TestStorageInDoubtIsFoundOut(t *testing.T) {
	one := []Count{{Role: "r", Provider: "oauth2/p", Live: 1, Revocable: 1}}
	for name, c := range map[string]struct {
		fail    func(l *Ledger, s *ambiguous, g *Grant) error
		written bool
		after   []Count // once it is found out
	}{
		"a record that was written": {func(l *Ledger, s *ambiguous, g *Grant) error {
			return s.lying(true, func() error { return l.Record(context.Background(), g) })
		}, false, one},
		"a record that was not written": {func(l *Ledger, s *ambiguous, g *Grant) error {
			return s.lying(false, func() error { return l.Record(context.Background(), g) })
		}, false, nil},
		"a removal that happened": {func(l *Ledger, s *ambiguous, g *Grant) error {
			return s.lying(true, func() error { return l.Remove(context.Background(), g) })
		}, true, nil},
		"a removal that did not happen": {func(l *Ledger, s *ambiguous, g *Grant) error {
			return s.lying(false, func() error { return l.Remove(context.Background(), g) })
		}, true, one},
	} {
		t.Run(name, func(t *testing.T) {
			s := &ambiguous{}
			l := NewLedger(s)
			require.NoError(t, l.Load(t.Context()))
			g := newGrant(t, "alice")
			if c.written {
				require.NoError(t, l.Record(t.Context(), g))
			}
			require.Error(t, c.fail(l, s, g))
			require.Equal(t, one, l.Counts("alice"), "never too few")
			require.NoError(t, l.Flush(t.Context()))
			require.Equal(t, c.after, l.Counts("alice"))
			require.NoError(t, l.Remove(t.Context(), g))
			require.Empty(t, l.Counts("alice"))
		})
	}
}

// ambiguous is a storage whose writes of records fail, done or not.
type ambiguous struct {
	logical.InmemStorage
	mu      sync.Mutex
	lie, do bool
}

var errLost = errors.New("the answer was lost")

func (a *ambiguous) lying(do bool, f func() error) error {
	a.set(true, do)
	defer a.set(false, false)
	return f()
}

func (a *ambiguous) set(lie, do bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lie, a.do = lie, do
}

// write does it, or not, and says so, or not.
func (a *ambiguous) write(key string, f func() error) error {
	a.mu.Lock()
	lie, do := a.lie && strings.HasPrefix(key, StoragePrefix), a.do
	a.mu.Unlock()
	switch {
	case lie && !do:
		return errLost
	case lie:
		return errors.Join(f(), errLost)
	}
	return f()
}

func (a *ambiguous) Put(ctx context.Context, e *logical.StorageEntry) error {
	return a.write(e.Key, func() error { return a.InmemStorage.Put(ctx, e) })
}

func (a *ambiguous) Delete(ctx context.Context, key string) error {
	return a.write(key, func() error { return a.InmemStorage.Delete(ctx, key) })
}

func TestWhatIsKeptLosesNoKill(t *testing.T) {
	for name, unread := range map[string]bool{"its record is read": false, "its record cannot be read": true} {
		t.Run(name, func(t *testing.T) {
			l, s := emptyLedger(t)
			g := newGrant(t, "alice")
			require.NoError(t, l.Record(t.Context(), g))
			require.NoError(t, l.Doom(t.Context(), g, func(d *Doom) { d.Cause, d.Attempts = "revoke/entity", 2 }))
			l.index.lately = newLately(0)
			s.FailGet(unread)
			kept := g.Clone()
			require.Equal(t, unread, l.Keep(t.Context(), kept) != nil)
			s.FailGet(false)
			require.NoError(t, l.Flush(t.Context()))
			got, err := NewLedger(s).Get(t.Context(), g.ID)
			require.NoError(t, err)
			require.NotNil(t, got.Doom)
			require.Equal(t, "revoke/entity", got.Doom.Cause)
			require.Equal(t, 2, got.Doom.Attempts)
		})
	}
}

func TestASuspectKeepsTheStrongerCause(t *testing.T) {
	l, _ := emptyLedger(t)
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	_, suspect := l.Suspected(g.ID)
	require.False(t, suspect)
	for _, c := range []struct {
		cause    string
		stronger bool
		want     string
	}{{"weak", false, "weak"}, {"later", false, "weak"}, {"strong", true, "strong"}, {"later", false, "strong"}} {
		l.Suspect(g.ID, c.cause, c.stronger)
		cause, suspect := l.Suspected(g.ID)
		require.True(t, suspect)
		require.Equal(t, c.want, cause)
	}
}

func TestWhoIsAloneOnALever(t *testing.T) {
	l, s := emptyLedger(t)
	require.NoError(t, l.Load(t.Context()))
	on := func() *Grant {
		g := newGrant(t, "alice")
		g.Lever = "a session"
		return g
	}
	first, second := on(), on()
	lever := Lever{first.Provider, "a session"}
	require.NoError(t, l.Record(t.Context(), first))
	watch := l.WatchLever(lever)
	require.NoError(t, l.Doom(t.Context(), first, func(*Doom) {}))
	alone, err := l.AloneOn(t.Context(), lever, first.ID)
	require.NoError(t, err)
	require.True(t, alone)
	require.NoError(t, l.Record(t.Context(), second))
	alone, err = l.AloneOn(t.Context(), lever, first.ID)
	require.NoError(t, err)
	require.False(t, alone)
	require.False(t, watch.Has(first.ID), "it hung there before")
	require.True(t, watch.Has(second.ID))
	kept := on()
	s.FailGet(true)
	require.Error(t, l.Keep(t.Context(), kept), "in memory only")
	s.FailGet(false)
	require.True(t, watch.Has(kept.ID))
	require.NoError(t, l.Remove(t.Context(), kept))
	watch.Close()
	third := on()
	require.NoError(t, l.Record(t.Context(), third))
	require.False(t, watch.Has(third.ID))
	require.Empty(t, l.watched)

	again := newLedger(s, 2, 1) // in whose memory not all have room
	require.NoError(t, again.Load(t.Context()))
	for _, g := range []*Grant{second, third} {
		require.NoError(t, again.Remove(t.Context(), g))
	}
	alone, err = again.AloneOn(t.Context(), lever, first.ID)
	require.NoError(t, err)
	require.True(t, alone)
}
