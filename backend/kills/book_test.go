package kills

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

var dawn = time.Date(2026, 11, 28, 5, 0, 0, 0, time.UTC)

// stacks is a storage that can fail, and knows the largest entry.
type stacks struct {
	logical.InmemStorage
	mu      sync.Mutex
	fail    func(op, key string) error
	largest int
	puts    int
}

func (s *stacks) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.mu.Lock()
	fail := s.fail
	s.puts++
	s.largest = max(s.largest, len(e.Value))
	s.mu.Unlock()
	if fail != nil {
		if err := fail("put", e.Key); err != nil {
			return err
		}
	}
	return s.InmemStorage.Put(ctx, e)
}

func (s *stacks) failing(fail func(op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func newTestBook(s logical.Storage) *Book {
	b := NewBook(s, func() time.Time { return dawn }, hclog.NewNullLogger)
	b.background = func(func()) {} // the test says when
	return b
}

func summary(n int) *grant.Summary {
	return &grant.Summary{
		ID: fmt.Sprintf("alice.%08d", n), Holder: "alice", Role: "r", Provider: "oauth2/p", Class: provider.ClassToken,
		ExpiresAt: dawn.Add(time.Hour), Subject: grant.Party{Issuer: "idp", ID: "user-1"},
	}
}

func ended(n int, state State) Entry {
	e := Describe(summary(n))
	e.State, e.At, e.Attempts = state, dawn.Add(time.Second), 1
	return e
}

func named(t *testing.T, by string) Asked {
	t.Helper()
	id, err := NewID(dawn)
	require.NoError(t, err)
	return Asked{ID: id, By: by, Cause: "revoke/entity", Always: true}
}

// A kill of very many counts all of them, lists as many as it may, in entries that every
// storage takes, and needs memory and writes for those alone.
func TestAKillOfVeryManyIsCountedWhole(t *testing.T) {
	const many = 100_000
	s := &stacks{}
	b, asked := newTestBook(s), named(t, strings.Repeat("é", 5000))
	r := b.Begin(asked, []string{"entity/alice"}, dawn, false, false)
	for n := range many {
		listed := r.Found(summary(n))
		require.Equal(t, n < maxListed, listed)
		if n%5000 == 0 {
			require.NoError(t, b.Flush(t.Context()))
		}
	}
	for n := range many {
		state := Revoked
		if n%1000 == 0 {
			state = Pending
		}
		r.Ended(ended(n, state), n < maxListed)
	}
	r.End(true)
	require.NoError(t, b.Flush(t.Context()))
	require.Less(t, s.largest, 256<<10)
	require.Less(t, s.puts, 200)
	require.Empty(t, b.told)

	b = newTestBook(s)
	h, entries, more, err := b.Read(t.Context(), asked.ID, "", 10)
	require.NoError(t, err)
	require.True(t, more)
	require.Len(t, entries, 10)
	require.Equal(t, many, h.Grants())
	require.Equal(t, map[State]int{Revoked: many - many/1000, Pending: many / 1000}, h.Counts)
	require.LessOrEqual(t, len(h.By), maxLine)
	for n := 0; n < many; n += 1000 {
		b.Later(asked.ID, ended(n, Revoked))
		b.Later(asked.ID, ended(n, Revoked)) // said twice
	}
	require.NoError(t, b.Flush(t.Context()))
	h, entries, more, err = newTestBook(s).Read(t.Context(), asked.ID, "alice.00009989", 100)
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, entries, 10)
	require.Equal(t, map[State]int{Revoked: many}, h.Counts)
	require.Equal(t, Complete, h.State())
	require.Less(t, h.Bytes, 16<<20)
}

// Whatever write fails, or is the last one before a crash, what was written is read, once.
func TestEachWriteMayBeTheLast(t *testing.T) {
	for last := range 8 {
		s := &stacks{}
		b, asked := newTestBook(s), named(t, "bob")
		r := b.Begin(asked, []string{"entity/alice"}, dawn, false, false)
		done := 0
		s.failing(func(string, string) error {
			if done++; done > last {
				return errors.New("gone")
			}
			return nil
		})
		for n := range 600 {
			r.Ended(ended(n, Revoked), r.Found(summary(n)))
		}
		r.End(true)
		failed := b.Flush(t.Context())
		s.failing(nil)

		crashed := newTestBook(s)
		h, entries, _, err := crashed.Read(t.Context(), asked.ID, "", 1000)
		if last == 0 {
			require.ErrorIs(t, err, stored.ErrAbsent)
		} else {
			require.NoError(t, err)
			require.Len(t, entries, h.Counts[Revoked], "what is counted is what is listed")
		}

		again := crashed.Begin(asked, []string{"entity/alice"}, dawn, true, true)
		require.True(t, again.Found(summary(600)))
		again.Ended(ended(600, Revoked), true)
		again.End(true)
		require.NoError(t, crashed.Flush(t.Context()))
		h, _, _, err = crashed.Read(t.Context(), asked.ID, "", 1000)
		require.NoError(t, err)
		require.Equal(t, []any{true, Complete, len(entries) + 1}, []any{h.Interrupted, h.State(), h.Counts[Revoked]})

		// Without a crash nothing is lost.
		require.NoError(t, b.Flush(t.Context()))
		require.Equal(t, failed != nil, last < 4)
	}
}

func TestWhatFailsIsWrittenLater(t *testing.T) {
	s := &stacks{}
	b, asked := newTestBook(s), named(t, "bob")
	s.failing(func(string, string) error { return errors.New("not now") })
	r := b.Begin(asked, []string{"entity/alice"}, dawn, false, false)
	listed := r.Found(summary(1))
	require.Error(t, b.Flush(t.Context()))
	r.Ended(ended(1, Revoked), listed)
	r.End(true)
	require.Error(t, b.Flush(t.Context()))
	require.Equal(t, 1, b.Unwritten())
	h, entries, _, err := b.Read(t.Context(), asked.ID, "", 10)
	require.NoError(t, err, "it can be read all the same")
	require.Equal(t, []any{Complete, Revoked}, []any{h.State(), entries[0].State})
	s.failing(nil)
	require.NoError(t, b.Flush(t.Context()))
	require.Zero(t, b.Unwritten())
	_, entries, _, err = newTestBook(s).Read(t.Context(), asked.ID, "", 10)
	require.NoError(t, err)
	require.Equal(t, Revoked, entries[0].State)
}

// Nobody waits for storage who tells of a kill.
func TestTellingWaitsForNoStorage(t *testing.T) {
	s, halted, release := &stacks{}, make(chan struct{}), make(chan struct{})
	b := newTestBook(s)
	first := b.Begin(named(t, "bob"), []string{"entity/alice"}, dawn, false, false)
	s.failing(func(string, string) error {
		halted <- struct{}{}
		<-release
		return nil
	})
	flushed := make(chan error)
	go func() { flushed <- b.Flush(context.Background()) }()
	<-halted
	s.failing(nil)
	listed := first.Found(summary(1))
	first.Ended(ended(1, Revoked), listed)
	first.End(true)
	b.Later(first.ID(), ended(1, Revoked))
	other := b.Begin(named(t, "eve"), []string{"role/r"}, dawn, false, false)
	other.End(true)
	require.False(t, b.Invalidate("grant/x"))
	close(release)
	require.NoError(t, <-flushed)
	require.NoError(t, b.Flush(t.Context()))
	h, _, _, err := b.Read(t.Context(), first.ID(), "", 10)
	require.NoError(t, err)
	require.Equal(t, map[State]int{Revoked: 1}, h.Counts)
}

func TestTheOldestGoFirst(t *testing.T) {
	s := &stacks{}
	b, now := newTestBook(s), dawn
	b.now = func() time.Time { return now }
	alive := func(context.Context, string) (bool, error) { return true, nil }
	var ids []string
	for n := range maxRecords + 10 {
		id, err := NewID(dawn.Add(time.Duration(n) * time.Second))
		require.NoError(t, err)
		ids = append(ids, id)
		b.Begin(Asked{ID: id, Always: true}, []string{"role/r"}, now, false, false).End(true)
		if n%1000 == 0 {
			require.NoError(t, b.Flush(t.Context()))
		}
	}
	require.NoError(t, b.Flush(t.Context()))
	require.NoError(t, b.Keep(t.Context(), 10*24*time.Hour, time.Minute, alive))
	heads, err := b.List(t.Context(), "", 3)
	require.NoError(t, err)
	require.Equal(t, ids[10], heads[0].ID)
	require.Equal(t, ids[11], heads[1].ID)

	now = dawn.Add(365 * 24 * time.Hour)
	b = newTestBook(s)
	b.now = func() time.Time { return now }
	require.NoError(t, b.Keep(t.Context(), 24*time.Hour, time.Minute, alive))
	heads, err = b.List(t.Context(), "", 1)
	require.NoError(t, err)
	require.Equal(t, ids[10+maxAged], heads[0].ID, "a clock that is wrong for a minute costs only so many")
	b.Later(ids[10], ended(1, Revoked))
	require.NoError(t, b.Flush(t.Context()))
	require.Empty(t, b.told, "what is kept no more does not come back")
	_, _, _, err = b.Read(t.Context(), ids[10], "", 1)
	require.ErrorIs(t, err, stored.ErrAbsent)
}

func TestARecordOfANewerFormIsLeftAlone(t *testing.T) {
	s := &stacks{}
	b, asked := newTestBook(s), named(t, "bob")
	newer := []byte(`{"form":2,"form_plugin":"v9.9.9","id":7}`)
	require.NoError(t, s.Put(t.Context(), &logical.StorageEntry{Key: StoragePrefix + asked.ID, Value: newer}))
	_, _, _, err := b.Read(t.Context(), asked.ID, "", 1)
	require.ErrorContains(t, err, "v9.9.9")
	b.Later(asked.ID, ended(1, Revoked))
	require.NoError(t, b.Flush(t.Context()))
	heads, err := b.List(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, heads, 1)
	entry, err := s.Get(t.Context(), StoragePrefix+asked.ID)
	require.NoError(t, err)
	require.Equal(t, newer, entry.Value)
}

func TestALinePlaysNoTricks(t *testing.T) {
	require.Equal(t, "a b ?[2Jc?d ?", line(" a\nb \x1b[2Jc\u202ed \xff", 100))
	require.Equal(t, "éé…", line("éééééé", 8))
}

// A record of very many that are pending is looked after a part at a time.
func TestManyPendingAreLookedForInParts(t *testing.T) {
	const many = 2*maxLooks + 500
	s := &stacks{}
	b, asked, now := newTestBook(s), named(t, "bob"), dawn
	b.now = func() time.Time { return now }
	r := b.Begin(asked, []string{"entity/alice"}, dawn, false, false)
	for n := range many {
		r.Ended(ended(n, Pending), r.Found(summary(n)))
	}
	r.End(true)
	looks, dead := 0, func(context.Context, string) (bool, error) { return false, nil }
	for range 4 {
		require.NoError(t, b.Keep(t.Context(), 24*time.Hour, time.Minute, func(ctx context.Context, id string) (bool, error) {
			looks++
			return dead(ctx, id)
		}))
		now = now.Add(time.Minute)
	}
	require.Equal(t, many, looks, "each once")
	h, _, _, err := newTestBook(s).Read(t.Context(), asked.ID, "", 1)
	require.NoError(t, err)
	require.Equal(t, []any{Complete, many}, []any{h.State(), h.Counts[Dead]})
}

// What nobody knows an end of must not alarm anybody for as long as records are kept.
func TestAnExposureWithoutAnEndEnds(t *testing.T) {
	ordered := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := &Head{Ordered: ordered, Tried: ordered}
	h.Exposure.end(&Entry{State: ExpiryOnly})
	require.Equal(t, ordered.Add(grant.EndlessLife), h.accepted())
	h.Exposure.end(&Entry{State: ExpiryOnly, Expires: ordered.Add(48 * time.Hour)})
	require.Equal(t, ordered.Add(48*time.Hour), h.accepted())
}
