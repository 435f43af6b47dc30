package stored

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// thing is what the tests keep.
type thing struct {
	Count int      `json:"count"`
	Words []string `json:"words,omitempty"`
}

var thingForm = form.Kind{Name: "thing"}

const (
	thingsPlace = "thing/"
	newerThing  = `{"form":2,"form_plugin":"v9.9.9"}`
)

var errStorage = errors.New("the storage does not work")

// unsureStorage fails when it is told to, before or after it has done what it should.
type unsureStorage struct {
	logical.InmemStorage
	fails func(op string) (before, after bool)
}

func (s *unsureStorage) do(op string, f func() error) error {
	var before, after bool
	if s.fails != nil {
		before, after = s.fails(op)
	}
	if before {
		return errStorage
	}
	if err := f(); err != nil {
		return err
	}
	if after {
		return errStorage
	}
	return nil
}

func (s *unsureStorage) Put(ctx context.Context, e *logical.StorageEntry) error {
	return s.do("put", func() error { return s.InmemStorage.Put(ctx, e) })
}

func (s *unsureStorage) Delete(ctx context.Context, key string) error {
	return s.do("delete", func() error { return s.InmemStorage.Delete(ctx, key) })
}

func (s *unsureStorage) Get(ctx context.Context, key string) (e *logical.StorageEntry, err error) {
	err = s.do("get", func() error { e, err = s.InmemStorage.Get(ctx, key); return err })
	return e, err
}

// house is a keeper, and a cache of what was made of its things: their counts.
type house struct {
	t       require.TestingT
	storage *unsureStorage
	things  *Keeper[thing]
	counts  *Cache[int]
}

func newHouse(t require.TestingT) *house {
	h := &house{t: t, storage: &unsureStorage{}, counts: NewCacheOfAbsent[int]()}
	h.things = NewKeeper(h.storage, thingsPlace, KindOf[thing](thingForm))
	h.things.OnChange(h.counts.Drop)
	return h
}

func (h *house) count(name string) (int, error) {
	return h.counts.Get(name, func() (int, error) {
		v, err := h.things.Get(context.Background(), name)
		if err != nil {
			return 0, err
		}
		return v.Count, nil
	})
}

// raw is what is stored, "" if nothing is.
func (h *house) raw(name string) string {
	entry, err := h.storage.InmemStorage.Get(context.Background(), thingsPlace+name)
	require.NoError(h.t, err)
	if entry == nil {
		return ""
	}
	return string(entry.Value)
}

func (h *house) store(name, value string) {
	require.NoError(h.t, h.storage.InmemStorage.Put(context.Background(), &logical.StorageEntry{Key: thingsPlace + name, Value: []byte(value)}))
}

// agrees holds what the keeper and the cache say of a name against storage.
func (h *house) agrees(name string) {
	_, fromStorage := h.things.Get(context.Background(), name)
	count, err := h.count(name)
	switch raw := h.raw(name); raw {
	case "":
		require.ErrorIs(h.t, fromStorage, ErrAbsent)
		require.ErrorIs(h.t, err, ErrAbsent)
	case "{", newerThing:
		for _, err := range []error{fromStorage, err} {
			require.Equal(h.t, fault.TemporarilyUnavailable, fault.CodeOf(err))
			require.NotErrorIs(h.t, err, ErrAbsent)
			require.Equal(h.t, raw == "{", errors.Is(err, ErrUndecodable))
			require.Equal(h.t, raw == newerThing, errors.Is(err, form.ErrNewer))
		}
	default:
		require.NoError(h.t, fromStorage)
		require.NoError(h.t, err)
		require.Contains(h.t, raw, fmt.Sprintf(`"count":%d`, count))
	}
}

// TestKeeperAgreesWithStorage: whatever happens, in whatever order, what is in memory is
// what is stored, a change is made of what is stored, and what cannot be read is not
// written over.
func TestKeeperAgreesWithStorage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHouse(t)
		ctx := context.Background()
		names := rapid.SampledFrom([]string{"a", "b", "folder/a"})
		seen := map[string]*thing{} // what somebody has read of a name once
		failing := func(t *rapid.T) {
			fail := rapid.SampledFrom([]string{"", "", "", "before", "after"}).Draw(t, "fails")
			op := rapid.SampledFrom([]string{"get", "put", "delete"}).Draw(t, "op")
			h.storage.fails = func(o string) (bool, bool) { return o == op && fail == "before", o == op && fail == "after" }
		}
		readable := func(raw string) bool { return raw != "{" && raw != newerThing }
		// unread is what must be so where the entry could not be read.
		unread := func(t *rapid.T, name, before string, err error) {
			if !readable(before) {
				require.Error(t, err)
				require.Equal(t, before, h.raw(name))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				name, what := names.Draw(t, "name"), rapid.SampledFrom([]string{"more", "delete", "nothing", "refuse"}).Draw(t, "what")
				before, refusal := h.raw(name), errors.New("no")
				failing(t)
				err := h.things.Change(ctx, name, func(v *thing) (*thing, error) {
					require.Equal(t, before == "", v == nil)
					switch what {
					case "delete":
						return nil, nil
					case "nothing":
						return nil, ErrUnchanged
					case "refuse":
						return nil, refusal
					}
					if v == nil {
						v = &thing{}
					}
					v.Count++
					return v, nil
				})
				unread(t, name, before, err)
				if what == "nothing" || what == "refuse" {
					require.Equal(t, before, h.raw(name))
				}
				if err == nil && what == "delete" {
					require.Empty(t, h.raw(name))
				}
				if err == nil && what == "more" {
					require.NotEqual(t, before, h.raw(name))
				}
			},
			"replace": func(t *rapid.T) {
				name := names.Draw(t, "name")
				before := h.raw(name)
				after := &thing{Count: rapid.IntRange(0, 3).Draw(t, "count")}
				made := seen[name]
				failing(t)
				err := h.things.Replace(ctx, name, made, after)
				unread(t, name, before, err)
				same, _ := h.things.same(made, h.parse(before))
				if readable(before) && !same {
					require.Error(t, err)
					require.Equal(t, before, h.raw(name))
				}
				if errors.Is(err, ErrChanged) {
					require.False(t, same)
					require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
				}
			},
			"delete": func(t *rapid.T) {
				name := names.Draw(t, "name")
				failing(t)
				if h.things.Delete(ctx, name) == nil {
					require.Empty(t, h.raw(name))
				}
			},
			"read": func(t *rapid.T) {
				name := names.Draw(t, "name")
				seen[name], _ = h.things.Get(ctx, name)
			},
			"another node": func(t *rapid.T) {
				name := names.Draw(t, "name")
				h.store(name, rapid.SampledFrom([]string{`{"count":7}`, `{"count":8,"later":1}`, "{", newerThing}).Draw(t, "value"))
				require.True(t, h.things.Invalidate(thingsPlace+name))
			},
			"": func(*rapid.T) {
				h.storage.fails = nil
				for _, name := range []string{"a", "b", "folder/a"} {
					h.agrees(name)
				}
			},
		})
	})
}

// parse is what is stored, decoded; nil if it is nothing or not to be read.
func (h *house) parse(raw string) *thing {
	v, err := KindOf[thing](thingForm).decode([]byte(raw))
	if err != nil {
		return nil
	}
	return v
}

const (
	writers = 8
	rounds  = 150
)

// together runs f many times at once.
func together(f func(worker int)) {
	var group sync.WaitGroup
	for worker := range writers {
		group.Go(func() { f(worker) })
	}
	group.Wait()
}

// TestNoChangeIsLost: with many writers, a storage that fails and may have written, and
// invalidations, each change counts once, and nobody is shown less than was stored before
// he asked.
func TestNoChangeIsLost(t *testing.T) {
	h := newHouse(t)
	names := []string{"a", "b"}
	h.storage.fails = func(op string) (before, after bool) {
		if op != "put" {
			return false, false
		}
		runtime.Gosched() // between a read and the write that is made of it
		n := rand.IntN(8)
		return n == 0, n == 1
	}
	more := func(v *thing) (*thing, error) {
		if v == nil {
			v = &thing{}
		}
		v.Count++
		return v, nil
	}
	var done, unsure [2]atomic.Int64 // what surely was written, and what may have been
	together(func(worker int) {
		which := worker % 2
		for range rounds {
			switch worker / 2 {
			case 0:
				floor := done[which].Load()
				count, err := h.count(names[which])
				if !errors.Is(err, ErrAbsent) {
					assert.NoError(t, err)
				}
				assert.GreaterOrEqual(t, int64(count), floor)
				h.things.Invalidate(thingsPlace + names[which])
				continue
			case 1:
				if err := h.things.Change(t.Context(), names[which], more); err != nil {
					unsure[which].Add(1)
					continue
				}
			default:
				before, err := h.things.Get(t.Context(), names[which])
				if errors.Is(err, ErrAbsent) {
					before = nil
				}
				var copied *thing
				if before != nil {
					copied = &thing{Count: before.Count}
				}
				after, _ := more(copied)
				err = h.things.Replace(t.Context(), names[which], before, after)
				if errors.Is(err, ErrChanged) {
					continue
				}
				if err != nil {
					unsure[which].Add(1)
					continue
				}
			}
			done[which].Add(1)
		}
	})
	for i, name := range names {
		v, err := h.things.Get(t.Context(), name)
		require.NoError(t, err)
		require.GreaterOrEqual(t, int64(v.Count), done[i].Load())
		require.LessOrEqual(t, int64(v.Count), done[i].Load()+unsure[i].Load())
		count, err := h.count(name)
		require.NoError(t, err)
		require.Equal(t, v.Count, count)
	}
}

// TestWhoeverReadsMayChangeWhatHeGot, and whoever wrote may go on with what he gave.
func TestWhoeverReadsMayChangeWhatHeGot(t *testing.T) {
	h := newHouse(t)
	given := &thing{Words: []string{"one", "two"}}
	require.NoError(t, h.things.Replace(t.Context(), "a", nil, given))
	given.Words[0] = "spoilt"
	got, err := h.things.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two"}, got.Words)
	got.Words[0] = "spoilt"
	require.Error(t, h.things.Change(t.Context(), "a", func(v *thing) (*thing, error) {
		require.Equal(t, []string{"one", "two"}, v.Words)
		v.Words[1] = "spoilt"
		return nil, errors.New("no")
	}))
	got, err = h.things.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two"}, got.Words)
}

// TestReplaceIsForWhatWasRead: what was changed, deleted or made anew meanwhile is not
// written over; what was undone is as it was.
func TestReplaceIsForWhatWasRead(t *testing.T) {
	h := newHouse(t)
	write := func(v *thing) {
		require.NoError(t, h.things.Change(t.Context(), "a", func(*thing) (*thing, error) { return v, nil }))
	}
	for what, c := range map[string]struct {
		meanwhile func()
		refused   bool
	}{
		"nothing":                  {func() {}, false},
		"a change":                 {func() { write(&thing{Count: 2}) }, true},
		"a deletion":               {func() { require.NoError(t, h.things.Delete(t.Context(), "a")) }, true},
		"a change that was undone": {func() { write(&thing{Count: 2}); write(&thing{Count: 1}) }, false},
	} {
		t.Run(what, func(t *testing.T) {
			write(&thing{Count: 1})
			before, err := h.things.Get(t.Context(), "a")
			require.NoError(t, err)
			c.meanwhile()
			stored := h.raw("a")
			err = h.things.Replace(t.Context(), "a", before, &thing{Count: 9})
			if !c.refused {
				require.NoError(t, err)
				require.JSONEq(t, `{"count":9}`, h.raw("a"))
				return
			}
			require.ErrorIs(t, err, ErrChanged)
			require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
			require.ErrorContains(t, err, "the thing was changed by somebody else meanwhile")
			require.Equal(t, stored, h.raw("a"))
		})
	}
	write(&thing{Count: 1})
	require.ErrorIs(t, h.things.Replace(t.Context(), "a", nil, &thing{}), ErrChanged, "there is one")
}

// TestWhatIsDroppedOverAWrite: also one that failed; but nothing over a read, over a
// change that changes nothing, or over one of which whoever is kept knows.
func TestWhatIsDroppedOverAWrite(t *testing.T) {
	h := newHouse(t)
	var order []string
	h.things.OnChange(func(name string) { order = append(order, "first "+name) })
	h.things.OnChange(func(name string) { order = append(order, "then "+name) })
	set := func(*thing) (*thing, error) { return &thing{}, nil }
	told := []string{"first a", "then a"}
	for what, c := range map[string]struct {
		act   func() error
		fails string
		told  []string
	}{
		"change":                  {func() error { return h.things.Change(t.Context(), "a", set) }, "", told},
		"change that fails":       {func() error { return h.things.Change(t.Context(), "a", set) }, "put", told},
		"delete":                  {func() error { return h.things.Delete(t.Context(), "a") }, "", told},
		"delete that fails":       {func() error { return h.things.Delete(t.Context(), "a") }, "delete", told},
		"change that cannot read": {func() error { return h.things.Change(t.Context(), "a", set) }, "get", nil},
		"change of nothing": {func() error {
			return h.things.Change(t.Context(), "a", func(*thing) (*thing, error) { return nil, ErrUnchanged })
		}, "", nil},
		"quiet change": {func() error { return h.things.ChangeQuietly(t.Context(), "a", set) }, "", nil},
		"read":         {func() error { _, err := h.things.Exists(t.Context(), "a"); return err }, "", nil},
	} {
		t.Run(what, func(t *testing.T) {
			order = nil
			h.storage.fails = func(op string) (bool, bool) { return op == c.fails, false }
			err := c.act()
			h.storage.fails = nil
			require.Equal(t, c.fails != "", err != nil)
			require.Equal(t, c.told, order)
		})
	}
}

func TestWhoseKeyItIs(t *testing.T) {
	many := NewKeeper(&logical.InmemStorage{}, "thing/", KindOf[thing](thingForm))
	one := NewKeeper(&logical.InmemStorage{}, "thing", KindOf[thing](thingForm))
	for key, whose := range map[string]string{
		"thing": "one", "thing/a": "many", "thing/a/b": "many", "thing/": "", "things": "", "other/a": "", "": "",
	} {
		require.Equal(t, whose == "many", many.Invalidate(key), key)
		require.Equal(t, whose == "one", one.Invalidate(key), key)
	}
}

func TestWhatIsThere(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"b", "a", "folder/a"} {
		require.NoError(t, h.things.Replace(t.Context(), name, nil, &thing{}))
	}
	for folder, names := range map[string]string{"": "a b folder/", "folder/": "a", "none/": ""} {
		listed, err := h.things.List(t.Context(), folder)
		require.NoError(t, err)
		require.Equal(t, names, strings.Join(listed, " "))
	}
	for name, is := range map[string]bool{"a": true, "c": false} {
		exists, err := h.things.Exists(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, is, exists)
	}
	h.store("a", newerThing)
	_, err := h.things.Exists(t.Context(), "a")
	require.ErrorContains(t, err, "v9.9.9")
	require.NoError(t, h.things.Delete(t.Context(), "a"), "an operator may delete what nobody can read")
}

// lastPut is a storage that knows what was written to it last.
type lastPut struct {
	logical.InmemStorage
	put *logical.StorageEntry
}

func (s *lastPut) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.put = e
	return s.InmemStorage.Put(ctx, e)
}

// TestASingleEntryThatIsWrapped keeps a kind that encodes by itself.
func TestASingleEntryThatIsWrapped(t *testing.T) {
	s := &lastPut{}
	k := NewKeeper(s, "text", Kind[string]{
		Name: "text", SealWrap: true,
		Encode: func(v *string) ([]byte, error) { return []byte(*v), nil },
		Decode: func(raw []byte) (*string, error) { v := string(raw); return &v, nil },
	})
	text := "kept"
	require.NoError(t, k.Replace(t.Context(), "", nil, &text))
	require.Equal(t, &logical.StorageEntry{Key: "text", Value: []byte(text), SealWrap: true}, s.put)
	got, err := k.Get(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, text, *got)
}
