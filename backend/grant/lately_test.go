package grant

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// What this process has written last is not read again; whatever storage was told since,
// or did not say, is.
func TestWhatWasWrittenIsNotReadAgain(t *testing.T) {
	s := &ambiguous{}
	l := NewLedger(s)
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	fromMemory := func() bool {
		s.Underlying().FailGet(true)
		got, err := l.Get(t.Context(), g.ID)
		s.Underlying().FailGet(false)
		if err != nil {
			return false
		}
		want, err := NewLedger(s).Get(t.Context(), g.ID)
		require.NoError(t, err)
		require.Equal(t, want, got)
		return true
	}
	require.True(t, fromMemory())
	change := func() error {
		_, err := l.Update(t.Context(), g.ID, func(g *Grant) error { g.Role += "x"; return nil })
		return err
	}
	require.NoError(t, change())
	require.True(t, fromMemory())

	for _, done := range []bool{true, false} {
		require.Error(t, s.lying(done, change))
		require.False(t, fromMemory(), "storage knows")
		require.NoError(t, change())
		require.True(t, fromMemory())
		require.Error(t, s.lying(done, func() error { return l.Remove(t.Context(), g) }))
		require.False(t, fromMemory())
		require.NoError(t, l.Keep(t.Context(), g))
		require.True(t, fromMemory())
	}

	l.Invalidate()
	require.False(t, fromMemory(), "another node has written")
	_, err := l.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.False(t, fromMemory(), "what was only read may be old by now")
	require.NoError(t, change())
	require.NoError(t, l.Remove(t.Context(), g))
	_, err = l.Get(t.Context(), g.ID)
	require.ErrorIs(t, err, ErrGone)
}

// An Invalidate that comes while a record is being written may be for that record.
func TestAnInvalidateDuringAWriteIsNotForgotten(t *testing.T) {
	s := &writing{}
	l := NewLedger(s)
	g := newGrant(t, "alice")
	s.during = l.Invalidate
	require.NoError(t, l.Record(t.Context(), g))
	require.Nil(t, l.current().lately.get(g.ID))
}

// writing is a storage in whose writes something happens.
type writing struct {
	logical.InmemStorage
	during func()
}

func (s *writing) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.during()
	return s.InmemStorage.Put(ctx, e)
}

// TestMemoryOfRecordsIsBounded: by bytes, and what was written last stays.
func TestMemoryOfRecordsIsBounded(t *testing.T) {
	const room = 10_000
	r := newLately(room)
	record := func() []byte { return make([]byte, 90) }
	size := func() (size int) {
		for _, generation := range []map[string][]byte{r.young, r.old} {
			for id, record := range generation {
				size += sizeOf(id, record)
			}
		}
		return size
	}
	id := func(i int) string {
		return strings.Repeat("x", 7) + string(rune('a'+i/26%26)) + string(rune('a'+i%26)) + "."
	}
	for i := range 600 {
		r.put(id(i), record())
		require.LessOrEqual(t, size(), room)
		for n := range min(i, room/2/100) {
			require.NotNil(t, r.get(id(i-n)), "the last half of the room is certain")
		}
	}
	require.Nil(t, r.get(id(0)))
	for range 1000 {
		r.put(id(599), record()) // again and again
	}
	require.NotNil(t, r.get(id(590)), "one that is written often takes no others' room")
	r.put("big", make([]byte, room))
	require.Nil(t, r.get("big"))
	require.NotNil(t, r.get(id(590)))
	for i := range 600 {
		r.drop(id(i))
	}
	require.Zero(t, size())
	require.Zero(t, r.size)
}
