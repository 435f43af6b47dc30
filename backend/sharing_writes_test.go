package backend

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// heldWrite is a write of a record that storage does not answer until it is let go.
type heldWrite struct {
	m       *mount
	begun   chan struct{}
	letGo   chan error
	records atomic.Int64 // written since then, this one too
}

// holdWrite holds the next write of a record.
func (m *mount) holdWrite() *heldWrite {
	h := &heldWrite{m: m, begun: make(chan struct{}), letGo: make(chan error)}
	m.storage.on(func(op, key string) error {
		if op != "put" || !strings.HasPrefix(key, grant.StoragePrefix) {
			return nil
		}
		if h.records.Add(1) > 1 {
			return nil
		}
		close(h.begun)
		return <-h.letGo
	})
	return h
}

// await waits until so many changes wait for the write after the one that is held.
func (h *heldWrite) await(id string, n int) {
	h.m.t.Helper()
	s := h.m.b.shares.of(id)
	require.NotNil(h.m.t, s)
	require.Eventually(h.m.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.next != nil && len(s.next.changes) == n
	}, promptly, time.Millisecond)
}

// recorded are the shares of a grant that a restart would find.
func (m *mount) recorded(id string) map[string]bool {
	m.t.Helper()
	g, err := grant.NewLedger(m.storage).Get(context.Background(), id)
	require.NoError(m.t, err)
	names := map[string]bool{}
	for _, s := range g.Shares {
		names[s.Name] = true
	}
	return names
}

func (l *lease) share() string { return l.secret.InternalData["share"].(string) }

// However many want a lease on one token while a write of it is under way, they cost one
// more; and nobody has an answer before his lease is on record.
func TestLeasesThatComeTogetherAreWrittenTogether(t *testing.T) {
	m := newSharingMount(t, nil)
	first := m.together(1)[0]
	const more = 60
	h := m.holdWrite()
	var wg sync.WaitGroup
	var answered atomic.Int64
	leases := make(chan *lease, more+1)
	ask := func() {
		l, err := m.credsBy(call{entity: alice})
		answered.Add(1)
		if err != nil {
			t.Errorf("creds: %v", err)
			return
		}
		leases <- l
	}
	wg.Go(ask)
	<-h.begun
	for range more {
		wg.Go(ask)
	}
	h.await(first.grantID, more)
	require.Zero(t, answered.Load(), "answered before it is on record")
	h.letGo <- nil
	wg.Wait()
	close(leases)
	require.EqualValues(t, 2, h.records.Load())
	recorded := m.recorded(first.grantID)
	require.Len(t, recorded, more+2)
	for l := range leases {
		require.Equal(t, first.token, l.token)
		require.True(t, recorded[l.share()])
	}
}

var errRefused = errors.New("refused")

// What comes together stands and falls by its own reasons, and by the write.
func TestWhatIsWrittenTogetherFailsApart(t *testing.T) {
	for name, problem := range map[string]error{"written": nil, "lost": errStorage} {
		t.Run(name, func(t *testing.T) {
			m := newSharingMount(t, nil)
			leases := m.together(3)
			s, id := m.b.shares.of(leases[0].grantID), leases[0].grantID
			h := m.holdWrite()
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = m.credsBy(call{entity: alice}) })
			<-h.begun
			var joined *lease
			var joins, ends, renews, refused error
			wg.Go(func() { joined, joins = m.credsBy(call{entity: alice}) })
			wg.Go(func() { ends = m.revoke(leases[0]) })
			wg.Go(func() { _, renews = m.renew(leases[1], 15*time.Minute) })
			wg.Go(func() {
				refused = s.change(t.Context(), func(*grant.Grant) error { return errRefused })
			})
			h.await(id, 4)
			written := 0
			next := func(op, key string) error {
				if op == "put" && strings.HasPrefix(key, grant.StoragePrefix) {
					written++
					return problem
				}
				return nil
			}
			m.storage.on(next)
			h.letGo <- nil
			wg.Wait()
			require.Equal(t, 1, written)
			require.Equal(t, errRefused, refused)
			m.storage.heal()
			if problem != nil {
				for what, err := range map[string]error{"join": joins, "end": ends, "renewal": renews} {
					require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err), what)
				}
				require.Len(t, m.recorded(id), 4, "three, and the one whose write was held")
				require.NoError(t, m.revoke(leases[0]), "Vault repeats it")
				require.Len(t, m.recorded(id), 3)
				return
			}
			require.NoError(t, joins)
			require.NoError(t, ends)
			require.NoError(t, renews)
			recorded := m.recorded(id)
			require.Len(t, recorded, 4)
			require.True(t, recorded[joined.share()])
			require.False(t, recorded[leases[0].share()])
		})
	}
}

// Whoever hangs up while his lease waits for its write has none: Vault would never end it, and
// the token would outlive the last of those who have it.
func TestWhoHangsUpBeforeItIsWrittenHasNoLease(t *testing.T) {
	m := newSharingMount(t, nil)
	first := m.together(1)[0]
	h := m.holdWrite()
	var wg sync.WaitGroup
	errs := make([]error, 3)
	ctx, hangUp := context.WithCancel(t.Context())
	wg.Go(func() { _, errs[0] = m.credsBy(call{entity: alice, ctx: ctx}) })
	<-h.begun
	for i := range errs[1:] {
		wg.Go(func() { _, errs[i+1] = m.credsBy(call{entity: alice, ctx: ctx}) })
	}
	h.await(first.grantID, len(errs)-1)
	hangUp()
	h.letGo <- nil
	wg.Wait()
	m.storage.heal()
	for _, err := range errs {
		requireCode(t, err, fault.TemporarilyUnavailable, "hung up")
	}
	require.Equal(t, map[string]bool{first.share(): true}, m.recorded(first.grantID))
	require.NoError(t, m.revoke(first))
	require.False(t, m.server.Active(first.token))
}

// Whoever writes for the others may break down over it, which ends the plugin, though not at
// once: until then nobody takes his lease for written.
func TestNobodyIsAnsweredByAWriteThatBroke(t *testing.T) {
	for name, breaks := range map[string]func(*mount){
		"over a change": func(*mount) {},
		"over storage": func(m *mount) {
			m.storage.on(func(op, key string) error {
				if op == "put" && strings.HasPrefix(key, grant.StoragePrefix) {
					panic("a fault of the plugin's")
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newSharingMount(t, nil)
			first := m.together(1)[0]
			s := m.b.shares.of(first.grantID)
			h := m.holdWrite()
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = m.credsBy(call{entity: alice}) })
			<-h.begun
			wg.Go(func() {
				defer func() { _ = recover() }()
				_ = s.change(t.Context(), func(*grant.Grant) error {
					if name == "over a change" {
						panic("a fault of the plugin's")
					}
					return nil
				})
			})
			h.await(first.grantID, 1)
			var ends, joins error
			wg.Go(func() { ends = s.change(t.Context(), func(*grant.Grant) error { return errSame }) })
			wg.Go(func() {
				joins = s.change(t.Context(), func(g *grant.Grant) error { g.SetShare(s.name(), m.clock.Now()); return nil })
			})
			h.await(first.grantID, 3)
			m.storage.heal()
			breaks(m)
			h.letGo <- nil
			wg.Wait()
			m.storage.heal()
			require.ErrorIs(t, ends, errUnwritten)
			require.ErrorIs(t, joins, errUnwritten)
		})
	}
}

// A kill that comes while leases wait for their write ends the joining: they are on another
// token.
func TestAKillPassesThoseWhoWaitForAWrite(t *testing.T) {
	m := newSharingMount(t, nil)
	first := m.together(1)[0]
	h := m.holdWrite()
	var wg sync.WaitGroup
	leases := make([]*lease, 9)
	ask := func(i int) func() {
		return func() {
			l, err := m.credsBy(call{entity: alice})
			if err != nil {
				t.Errorf("creds: %v", err)
			}
			leases[i] = l
		}
	}
	wg.Go(ask(0))
	<-h.begun
	for i := range leases[1:] {
		wg.Go(ask(i + 1))
	}
	h.await(first.grantID, len(leases)-1)
	m.b.ledger.EndHold(first.grantID) // what a kill begins with
	wg.Go(func() { m.must(m.write("revoke/grant/"+first.grantID, nil)) })
	h.letGo <- nil
	wg.Wait()
	m.waitForKills()
	require.False(t, m.server.Active(first.token))
	for _, l := range leases[1:] {
		require.NotEqual(t, first.token, l.token)
		require.True(t, m.server.Active(l.token))
	}
	require.Equal(t, []string{leases[1].grantID}, m.allGrants())
}

// Vault repeats the end of a lease; that it has ended already needs no write.
func TestTheEndOfALeaseThatHasEndedWritesNothing(t *testing.T) {
	m := newSharingMount(t, nil)
	leases := m.together(3)
	require.NoError(t, m.revoke(leases[0]))
	for range 2 {
		m.storage.fail("put", "delete")
		require.NoError(t, m.revoke(leases[0]))
		require.Error(t, m.revoke(leases[1]))
		m.storage.heal()
		m.start()
	}
	require.NoError(t, m.revoke(leases[1]))
	require.True(t, m.server.Active(leases[0].token))
	require.NoError(t, m.revoke(leases[2]))
	require.False(t, m.server.Active(leases[0].token))
}

// sharers are leases on shared tokens, and what must be true of them.
type sharers struct {
	*rapid.T
	m *mount

	mu sync.Mutex
	// held are the leases that somebody has, ending those whose end failed, which Vault
	// repeats.
	held, ending map[*lease]bool
	// doubtful are the grants of which storage did not say whether their last write was done;
	// uncertain those that were so when the plugin died, which alone knew who had no answer.
	doubtful, uncertain map[string]bool
	killed              map[string]bool
}

func (h *sharers) some() []*lease {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Concat(slices.Collect(maps.Keys(h.held)), slices.Collect(maps.Keys(h.ending)))
	slices.SortFunc(all, func(a, b *lease) int {
		return strings.Compare(a.grantID+" "+a.share(), b.grantID+" "+b.share())
	})
	return all
}

func (h *sharers) pick() *lease {
	all := h.some()
	if len(all) == 0 {
		return nil
	}
	return rapid.SampledFrom(all).Draw(h.T, "lease")
}

// act draws something that somebody does, which may go wrong as storage does.
func (h *sharers) act() func() {
	switch what := rapid.SampledFrom([]string{"join", "join", "join", "end", "end", "renew", "kill"}).Draw(h.T, "what"); what {
	case "join":
		return func() {
			l, err := h.m.credsBy(call{entity: alice})
			h.mu.Lock()
			defer h.mu.Unlock()
			if err == nil {
				h.held[l] = true
			}
		}
	case "end":
		l := h.pick()
		if l == nil {
			return func() {}
		}
		return func() {
			err := h.m.revoke(l)
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.held, l)
			delete(h.ending, l)
			if err != nil {
				h.ending[l] = true
			}
		}
	case "renew":
		l := h.pick()
		if l == nil {
			return func() {}
		}
		return func() { _, _ = h.m.renew(l, 10*time.Minute) }
	default:
		l := h.pick()
		if l == nil || rapid.IntRange(0, 2).Draw(h.T, "kills") > 0 {
			return func() {}
		}
		h.killed[l.grantID] = true
		return func() { _, _ = h.m.write("revoke/grant/"+l.grantID, nil) }
	}
}

// step is some of that at once, while storage does what it is told, or does not, or does
// not say that it did.
func (h *sharers) step() {
	var acts []func()
	for range rapid.IntRange(1, 6).Draw(h.T, "at once") {
		acts = append(acts, h.act())
	}
	mode := rapid.SampledFrom([]string{"", "", "", "not done", "not said"}).Draw(h.T, "storage")
	h.m.storage.on(func(op, key string) error {
		for range 20 { // so that the others come meanwhile
			runtime.Gosched()
		}
		if mode == "not done" && h.told(op, key, true) {
			return errStorage
		}
		return nil
	})
	h.m.storage.after(func(op, key string) error {
		if h.told(op, key, mode != "") && mode == "not said" {
			return errStorage
		}
		return nil
	})
	var wg sync.WaitGroup
	for _, act := range acts {
		wg.Go(act)
	}
	wg.Wait()
	h.m.storage.heal()
	if rapid.IntRange(0, 3).Draw(h.T, "then") == 0 {
		h.m.start() // it may have died before it could answer
		for id, doubtful := range h.doubtful {
			h.uncertain[id] = h.uncertain[id] || doubtful
		}
	}
}

// told notes a write of a record; false for any other operation.
func (h *sharers) told(op, key string, doubtful bool) bool {
	if op != "put" || !strings.HasPrefix(key, grant.StoragePrefix) {
		return false
	}
	parts := strings.Split(strings.TrimPrefix(key, grant.StoragePrefix), "/")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doubtful[parts[1]+"."+parts[2]+parts[3]] = doubtful
	return true
}

// check is what a restart finds: each lease that somebody has, on a token that lives, and
// nothing else but what was never certain.
func (h *sharers) check() {
	h.m.waitForKills()
	want := map[string]map[string]bool{}
	for _, l := range h.some() {
		if h.killed[l.grantID] {
			delete(h.held, l)
			delete(h.ending, l)
			continue
		}
		if want[l.grantID] == nil {
			want[l.grantID] = map[string]bool{}
		}
		want[l.grantID][l.share()] = h.held[l]
		if h.held[l] && !h.m.server.Active(l.token) {
			h.Fatalf("the token of a lease is dead")
		}
	}
	for id, shares := range want {
		held := slices.Contains(slices.Collect(maps.Values(shares)), true)
		if _, err := grant.NewLedger(h.m.storage).Get(context.Background(), id); err != nil && !held {
			continue
		}
		recorded := h.m.recorded(id)
		for share, surely := range shares {
			if surely && !recorded[share] {
				h.Fatalf("a lease that was answered is not on record: %s of %v", share, recorded)
			}
		}
		for share := range recorded {
			if _, ok := shares[share]; !ok && !h.doubtful[id] && !h.uncertain[id] {
				h.Fatalf("on record is a lease that nobody has: %s of %v", share, shares)
			}
		}
	}
}

// TestSharesOnRecordAreWhatWasAnswered: whatever comes at once, however storage fails, and
// at whatever moment the plugin dies.
func TestSharesOnRecordAreWhatWasAnswered(t *testing.T) {
	m := newSharingMount(t, nil)
	rapid.Check(t, func(r *rapid.T) {
		h := &sharers{
			T: r, m: m, held: map[*lease]bool{}, ending: map[*lease]bool{},
			doubtful: map[string]bool{}, uncertain: map[string]bool{}, killed: map[string]bool{},
		}
		for range rapid.IntRange(1, 8).Draw(r, "steps") {
			h.step()
			h.check()
		}
		for _, l := range h.some() {
			if err := m.revoke(l); err != nil {
				r.Fatalf("the end of a lease: %v", err)
			}
		}
		for _, l := range h.some() {
			if !h.uncertain[l.grantID] && m.server.Active(l.token) {
				r.Fatalf("a token outlives the last of its leases")
			}
		}
		m.must(m.write("revoke/entity/"+alice, nil))
		m.waitForKills()
		m.sweep()
	})
}
