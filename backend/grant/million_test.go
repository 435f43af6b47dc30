package grant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// imagined is a storage with very many grants that holds none of them: it makes up
// each record when it is read, so that what a test sees in memory is the ledger's.
type imagined struct {
	holders, each int
	calls, pages  atomic.Int64
}

func (s *imagined) holder(i int) string { return fmt.Sprintf("7a3c1b52-90de-4f61-8a55-%012x", i) }

// id is the nth of a holder's grants, as random as a real one.
func (s *imagined) id(holder string, n int) string {
	sum := sha256.Sum256([]byte(holder + strconv.Itoa(n)))
	return holder + "." + hex.EncodeToString(sum[:16])
}

func (s *imagined) List(_ context.Context, prefix string) ([]string, error) {
	s.calls.Add(1)
	parts := strings.Split(strings.TrimSuffix(prefix, "/"), "/")
	if parts[0]+"/" != StoragePrefix {
		return nil, nil
	}
	names := map[string]bool{}
	switch len(parts) {
	case 2:
		for i := range s.holders {
			if strings.HasPrefix(inBucket(s.holder(i)), prefix) {
				names[s.holder(i)+"/"] = true
			}
		}
	default:
		for n := range s.each {
			at, _ := addressOf(s.id(parts[2], n))
			switch {
			case len(parts) == 3:
				names[at.shard+"/"] = true
			case at.shard == parts[3]:
				names[at.rest] = true
			}
		}
	}
	return slices.Collect(maps.Keys(names)), nil
}

func (s *imagined) Get(_ context.Context, key string) (*logical.StorageEntry, error) {
	s.calls.Add(1)
	parts := strings.Split(key, "/")
	if len(parts) != 5 {
		return nil, nil
	}
	g := &Grant{
		ID: parts[2] + "." + parts[3] + parts[4], Holder: parts[2], Role: "deploy", Provider: "oauth2/acme",
		Access: Access{Scopes: []string{"read", "write"}}, Granted: []string{"scope:read", "scope:write"},
		IssuedAt: noon, ExpiresAt: noon.Add(time.Hour), LeaseEnds: noon.Add(time.Hour), MaxLease: noon.Add(time.Hour),
		Class: provider.ClassToken, Handle: secret.New(handle),
	}
	raw, err := g.encode()
	return &logical.StorageEntry{Key: key, Value: raw}, err
}

func (s *imagined) Put(_ context.Context, e *logical.StorageEntry) error {
	s.calls.Add(1)
	if strings.HasPrefix(e.Key, pagePrefix) {
		s.pages.Add(1)
	}
	return nil
}

func (s *imagined) Delete(context.Context, string) error { s.calls.Add(1); return nil }

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkRebuild reads all grants after a start, and reports what the ledger
// then holds in memory.
func BenchmarkRebuild(b *testing.B) {
	for _, c := range []struct{ holders, each int }{{1_000, 100}, {10_000, 100}, {100_000, 10}, {100, 10_000}} {
		b.Run(fmt.Sprintf("holders=%d/each=%d", c.holders, c.each), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				s := &imagined{holders: c.holders, each: c.each}
				l := NewLedger(s)
				started := time.Now()
				l.joinScan()
				b.ReportMetric(float64(time.Since(started).Microseconds()), "start-µs")
				require.NoError(b, l.Load(b.Context()))
				held := heap() - before
				grants := float64(c.holders * c.each)
				b.ReportMetric(float64(held)/grants, "heap-B/grant")
				b.ReportMetric(float64(held)/(1<<20), "heap-MiB")
				b.ReportMetric(float64(s.pages.Load()), "pages")
				b.ReportMetric(float64(s.calls.Load())/grants, "storage-calls/grant")
				runtime.KeepAlive(l)
			}
		})
	}
}

// BenchmarkRecord is what an issue costs the ledger, without storage.
func BenchmarkRecord(b *testing.B) {
	for name, s := range map[string]*imagined{"empty": {}, "million": {holders: 10_000, each: 100}} {
		b.Run(name, func(b *testing.B) {
			l := NewLedger(s)
			require.NoError(b, l.Load(b.Context()))
			g := newGrant(b, "alice")
			b.ReportAllocs()
			for b.Loop() {
				id, err := NewID("alice")
				require.NoError(b, err)
				g := *g
				g.ID = id
				require.NoError(b, l.Record(b.Context(), &g))
				require.NoError(b, l.Remove(b.Context(), &g))
			}
		})
	}
}

// BenchmarkSweep looks for what is due among a million where nothing is.
func BenchmarkSweep(b *testing.B) {
	l := NewLedger(&imagined{holders: 10_000, each: 100})
	require.NoError(b, l.Load(b.Context()))
	for b.Loop() {
		require.Empty(b, dueAt(b, l, noon))
		require.Len(b, l.HoldersSoFar(func(Count) bool { return true }), 10_000)
	}
}

func TestMemoryDoesNotGrowWithGrants(t *testing.T) {
	s := &imagined{holders: 50, each: 40}
	l := newLedger(s, 100, scanParallel)
	require.NoError(t, l.Load(t.Context()))
	for i := range 500 {
		g := newGrant(t, s.holder(i%50))
		require.NoError(t, l.Record(t.Context(), g))
	}
	require.Eventually(t, func() bool { return !l.making.Load() }, time.Minute, time.Millisecond)
	require.NoError(t, l.makeRoom(t.Context()))
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	require.LessOrEqual(t, len(x.entries), 100)
	require.LessOrEqual(t, len(x.pages), 2500/50+10, "a page is for many")
	require.Len(t, x.holders, 50)
	for _, has := range x.holders {
		require.LessOrEqual(t, len(has.counts), 2)
	}
	for i := range x.scan {
		require.Empty(t, x.scan[i].late)
		require.Empty(t, x.scan[i].seen)
	}
}
