package backend

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// BenchmarkJoins is what a lease on a token that others share costs, where so many callers
// of one entity come at once and a write takes so long. What it tells beside the time is
// how many writes there were for a lease, and how long each.
//
//	go test ./backend -run '^$' -bench BenchmarkJoins
func BenchmarkJoins(b *testing.B) {
	for _, latency := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} {
		for _, callers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("write=%s/callers=%d", latency, callers), func(b *testing.B) {
				storage := &slowStorage{}
				backend, _ := benchBackendOn(b, storage)
				benchDo(b, backend, logical.CreateOperation, "roles/r", map[string]any{
					"provider": "oauth2/as", "sharing": "entity", "scopes": "read,write", "ttl": "10m",
				})
				benchDo(b, backend, logical.UpdateOperation, "creds/r", nil)
				storage.latency = latency
				storage.puts.Store(0)
				storage.bytes.Store(0)
				var begun atomic.Int64
				var all sync.WaitGroup
				b.ReportAllocs()
				b.ResetTimer()
				for range callers {
					all.Go(func() {
						for begun.Add(1) <= int64(b.N) {
							benchDo(b, backend, logical.UpdateOperation, "creds/r", nil)
						}
					})
				}
				all.Wait()
				puts := storage.puts.Load()
				b.ReportMetric(float64(puts)/float64(b.N), "puts/op")
				b.ReportMetric(float64(storage.bytes.Load())/float64(max(puts, 1)), "B/put")
			})
		}
	}
}

// slowStorage takes its time for a write.
type slowStorage struct {
	logical.InmemStorage
	latency     time.Duration
	puts, bytes atomic.Int64
}

// Put implements logical.Storage.
func (s *slowStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.puts.Add(1)
	s.bytes.Add(int64(len(entry.Value)))
	if s.latency > 0 {
		time.Sleep(s.latency)
	}
	return s.InmemStorage.Put(ctx, entry)
}
