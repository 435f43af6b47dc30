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
	// subjects is on behalf of how many the grants are; none are on anybody's at zero.
	subjects int
	// roles is of how many the grants are; at zero all are of one.
	roles int
	// untold means that no id tells anything of its grant, as those of builds of before.
	untold              bool
	calls, pages, reads atomic.Int64
}

func (s *imagined) holder(i int) string { return fmt.Sprintf("7a3c1b52-90de-4f61-8a55-%012x", i) }

// id is the nth of a holder's grants, as random as a real one.
func (s *imagined) id(holder string, n int) string {
	sum := sha256.Sum256([]byte(holder + strconv.Itoa(n)))
	random := hex.EncodeToString(sum[:16])
	if s.untold {
		return holder + "." + random
	}
	if s.each < fewGrants {
		random = "0" + random[1:]
	}
	return holder + "." + random + s.told(random).text(random)
}

func (s *imagined) told(random string) Told {
	of := Told{Role: s.role(random), Provider: s.provider(random)}
	if sub := s.subject(random); sub != "" {
		of.Parties = []Party{{ID: sub, Issuer: "idp"}}
	}
	return of
}

// role is of which role the grant is that has this random part, provider at which provider:
// each has ten roles.
func (s *imagined) role(random string) string {
	if s.roles == 0 {
		return "deploy"
	}
	n, _ := strconv.ParseUint(random[2:16], 16, 64)
	return fmt.Sprintf("role-%d", n%uint64(s.roles))
}

func (s *imagined) provider(random string) string {
	if s.roles == 0 {
		return "oauth2/acme"
	}
	n, _ := strconv.Atoi(strings.TrimPrefix(s.role(random), "role-"))
	return fmt.Sprintf("oauth2/p%d", n/10)
}

// subject is on whose behalf the grant is that has this random part.
func (s *imagined) subject(random string) string {
	if s.subjects == 0 {
		return ""
	}
	n, _ := strconv.ParseUint(random[16:30], 16, 64)
	return fmt.Sprintf("0f9c1a77-5c1e-4d0b-9d57-%012x", n%uint64(s.subjects))
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
	s.reads.Add(1)
	random := (parts[3] + parts[4])[:randomPart]
	g := &Grant{
		Subject: s.subject(random), SubjectIssuer: "idp",
		ID: parts[2] + "." + parts[3] + parts[4], Holder: parts[2], Role: s.role(random), Provider: s.provider(random),
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
	for _, c := range []struct{ holders, each, subjects int }{
		{1_000, 10, 0}, {10_000, 10, 0}, {10_000, 100, 0}, // as docs/capacity.md has it
		{1_000, 10, 1_000}, {10_000, 10, 10_000}, {10_000, 100, 100_000},
		{1_000, 100, 0}, {100_000, 10, 0}, {100, 10_000, 0},
	} {
		b.Run(fmt.Sprintf("holders=%d/each=%d/subjects=%d", c.holders, c.each, c.subjects), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				s := &imagined{holders: c.holders, each: c.each, subjects: c.subjects}
				l := NewLedger(s)
				started := time.Now()
				l.joinScan()
				b.ReportMetric(float64(time.Since(started).Microseconds()), "start-µs")
				require.NoError(b, l.Load(b.Context()))
				held := heap() - before
				b.ReportMetric(float64(len(l.current().parties.of)), "parties")
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

// BenchmarkFind looks right after a start for the grants of one role of a thousand, and says
// what that asks of storage.
func BenchmarkFind(b *testing.B) {
	for _, c := range []struct{ holders, each int }{{1_000, 100}, {10_000, 100}, {100_000, 10}, {100, 10_000}} {
		b.Run(fmt.Sprintf("holders=%d/each=%d", c.holders, c.each), func(b *testing.B) {
			for b.Loop() {
				s := &imagined{holders: c.holders, each: c.each, roles: 1_000}
				found := 0
				require.NoError(b, NewLedger(s).Find(b.Context(), OfRole("role-7"), func(*Summary) bool { found++; return true }))
				b.ReportMetric(float64(found), "found")
				b.ReportMetric(float64(s.reads.Load()), "reads")
				b.ReportMetric(float64(s.calls.Load()-s.reads.Load()), "lists")
			}
		})
	}
}

// BenchmarkParties is what subjects cost in memory, each at so many holders.
func BenchmarkParties(b *testing.B) {
	for _, c := range []struct{ subjects, holders, each int }{{1_000_000, 1, 1}, {100_000, 1_000, 1}, {100_000, 1_000, 3}, {10_000, 100, 100}} {
		b.Run(fmt.Sprintf("subjects=%d/holders=%d/each=%d", c.subjects, c.holders, c.each), func(b *testing.B) {
			for b.Loop() {
				holders := make([]*holding, c.holders)
				for i := range holders {
					holders[i] = &holding{}
				}
				before := heap()
				v := newParties()
				for i := range c.subjects {
					s := Summary{Subject: Party{ID: strconv.Itoa(i)}}
					for n := range c.each {
						v.add(&s, holders[(i+n)%c.holders], 1)
					}
				}
				b.ReportMetric(float64(heap()-before)/float64(c.subjects), "heap-B/subject")
				runtime.KeepAlive(v)
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

// TestASubjectsGrantsAreFoundWithoutReadingOthers, also where one agent holds very many, of
// very many subjects.
func TestASubjectsGrantsAreFoundWithoutReadingOthers(t *testing.T) {
	for name, s := range map[string]*imagined{
		"one agent for all":    {holders: 1, each: 5_000, subjects: 500},
		"many, each for a few": {holders: 500, each: 10, subjects: 1_000},
		"a few, each for all":  {holders: 10, each: 500, subjects: 100},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLedger(s)
			require.NoError(t, l.Load(t.Context()))
			require.LessOrEqual(t, len(l.current().parties.of), s.subjects)
			for n := range 3 {
				subject := s.subject(fmt.Sprintf("%016x%014x%02x", 0, n, 0))
				want := map[string]bool{} // by the ids alone
				for i := range s.holders {
					for n := range s.each {
						id := s.id(s.holder(i), n)
						if s.subject(randomOf(id)) == subject {
							want[id] = true
						}
					}
				}
				before, calls := s.reads.Load(), s.calls.Load()
				got, holders := findSubject(t, l, subject)
				require.Equal(t, want, got)
				reads := s.reads.Load() - before
				require.LessOrEqual(t, reads, int64(len(want)+4), "one in 65,536 others looks alike")
				require.LessOrEqual(t, s.calls.Load()-calls, reads+int64(holders+len(want)), "and a list of who has any, and of each shard with one")
			}
			before := s.calls.Load()
			got, _ := findSubject(t, l, "nobody")
			require.Empty(t, got)
			require.Equal(t, before, s.calls.Load(), "nothing is asked about whom nobody knows")
		})
	}
}

func randomOf(id string) string { return id[strings.LastIndexByte(id, '.')+1:][:randomPart] }

// findSubject are the ids of a subject's grants, and how many holders were asked about.
func findSubject(t *testing.T, l *Ledger, subject string) (ids map[string]bool, asked int) {
	t.Helper()
	holders, err := l.HoldersWith(t.Context(), subject)
	require.NoError(t, err)
	ids = map[string]bool{}
	for _, holder := range holders {
		require.NoError(t, l.WalkWith(t.Context(), holder, OfParty(subject), "", func(s *Summary) bool {
			ids[s.ID] = true
			return true
		}))
	}
	return ids, len(holders)
}

// What builds of before have made is found by reading what its holders have.
func TestIDsThatTellNothingAreRead(t *testing.T) {
	s := &imagined{holders: 3, each: 50, subjects: 10, untold: true}
	l := NewLedger(s)
	require.NoError(t, l.Load(t.Context()))
	got, _ := findSubject(t, l, s.subject(strings.Repeat("0", 32)))
	require.NotEmpty(t, got)
	for id := range got {
		g, err := l.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, s.subject(strings.Repeat("0", 32)), g.Subject)
	}
}
