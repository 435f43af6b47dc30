package downstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Two entities.
const (
	alice = "11111111-aaaa-4aaa-8aaa-111111111111"
	bob   = "22222222-bbbb-4bbb-8bbb-222222222222"
)

// promptly is the longest that anything may take here, a busy machine and the race
// detector included.
const promptly = time.Minute

func within(t testing.TB, f func()) {
	t.Helper()
	started := time.Now()
	f()
	require.Less(t, time.Since(started), promptly, "a caller must not have to wait that long")
}

func TestAMintKeepsChangesOutAndNobodyWaits(t *testing.T) {
	s := newSite()
	first, ok := s.enter()
	require.True(t, ok)
	second, ok := s.enter()
	require.True(t, ok, "mints do not keep each other out")
	_, ok = s.keepMintsOut()
	require.False(t, ok)
	first()
	_, ok = s.keepMintsOut()
	require.False(t, ok)
	second()
	done, ok := s.keepMintsOut()
	require.True(t, ok)
	_, ok = s.enter()
	require.False(t, ok)
	_, ok = s.keepMintsOut()
	require.False(t, ok)
	done()
	leave, ok := s.enter()
	require.True(t, ok)
	leave()
}

// mintThrough lets a mint through that its provider answers.
func mintThrough(t *testing.T, g *gate) {
	t.Helper()
	p, err := g.waitMint(t.Context(), time.Now, promptly, Kind{})
	require.NoError(t, err)
	p.end(answered, time.Now())
}

func TestRevocationsGoBeforeMints(t *testing.T) {
	g := newGate()
	g.setLimit(20)
	now := time.Now()
	for range 20 { // use up the burst
		mintThrough(t, g)
	}
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 5 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			done, err := g.waitRevoke(context.Background(), now)
			if err != nil {
				t.Error(err)
				return
			}
			passed.Add(1)
			done()
		}()
	}
	waiting := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.waiting
	}
	// On a busy machine they may all be through before anybody has seen them wait.
	require.Eventually(t, func() bool { return waiting() > 0 || passed.Load() == 5 }, promptly, 100*time.Microsecond)
	mintThrough(t, g)
	require.Zero(t, waiting(), "revocations that the mint has overtaken")
	wg.Wait()
}

func TestAGateWithoutRoomSaysSo(t *testing.T) {
	g := newGate()
	g.setLimit(0.001)
	mintThrough(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	within(t, func() {
		_, err := g.waitMint(ctx, time.Now, promptly, Kind{})
		require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
		_, err = g.waitRevoke(ctx, time.Now())
		require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
	})
	g.setLimit(0)
	mintThrough(t, g)
	done, err := g.waitRevoke(t.Context(), time.Now())
	require.NoError(t, err)
	done()
}

func TestTurnsAreTakenOneByOne(t *testing.T) {
	s := newSite()
	release, err := s.turn(t.Context(), promptly)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.turn(ctx, promptly)
	require.ErrorIs(t, err, context.Canceled)
	release()
	release, err = s.turn(t.Context(), promptly)
	require.NoError(t, err)
	release()
}

// A request that fails on our side proves nothing of the provider, whoever sends how
// many of them.
func TestARequestThatNeverLeftIsNoAnswer(t *testing.T) {
	g := newGate()
	for range MaxFailures - 1 {
		p, err := g.waitMint(t.Context(), time.Now, promptly, Kind{})
		require.NoError(t, err)
		p.end(unanswered, time.Now())
		other, err := g.waitMint(t.Context(), time.Now, promptly, Kind{})
		require.NoError(t, err)
		other.Leave()
	}
	p, err := g.waitMint(t.Context(), time.Now, promptly, Kind{})
	require.NoError(t, err)
	require.NotZero(t, p.end(unanswered, time.Now()))
}

// occupy takes every place of a gate, each for somebody else.
func occupy(t *testing.T, g *gate) []*Place {
	t.Helper()
	var places []*Place
	for n := range MaxMinting {
		p, err := g.waitMint(t.Context(), time.Now, promptly, Kind{Holder: fmt.Sprint("occupant ", n)})
		require.NoError(t, err)
		places = append(places, p)
	}
	return places
}

// maxAlone is how many places one sharer gets of all.
const maxAlone = MaxMinting * timesFree / (timesFree + 1)

// requireUnavailable judges a gate's own refusal.
func requireUnavailable(t *testing.T, err error, words string) {
	t.Helper()
	require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
	require.True(t, faulttest.Says(err.Error(), words), "%q does not say %q", err, words)
}

// waiters lets n mints wait at a gate, and returns when they do.
func waiters(ctx context.Context, t *testing.T, g *gate, n int, patience time.Duration) (ends <-chan error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() {
			p, err := g.waitMint(ctx, time.Now, patience, Kind{Holder: fmt.Sprint("waiter ", i)})
			if err == nil {
				p.Leave()
			}
			errs <- err
		}()
	}
	require.Eventually(t, func() bool { return g.state(time.Now()).Waiting == n }, promptly, time.Millisecond)
	return errs
}

func TestWhatWaitsForAProviderIsBounded(t *testing.T) {
	g := newGate()
	places := occupy(t, g)
	ctx, giveUp := context.WithCancel(t.Context())
	ends := waiters(ctx, t, g, maxWaiting, time.Hour)
	within(t, func() {
		_, err := g.waitMint(t.Context(), time.Now, time.Hour, Kind{Holder: "another"})
		requireUnavailable(t, err, "no room")
	})
	done, err := g.waitRevoke(t.Context(), time.Now())
	require.NoError(t, err, "revocations have slots of their own")
	done()
	places[0].Leave()
	require.NoError(t, <-ends, "the next one in the queue")
	giveUp()
	for range maxWaiting - 1 {
		<-ends
	}
	for _, p := range places {
		p.Leave()
	}
	require.Equal(t, State{}, g.state(time.Now()))
}

func TestAMintWaitsNoLongerThanItsPatience(t *testing.T) {
	g := newGate()
	occupy(t, g)
	within(t, func() {
		_, err := g.waitMint(t.Context(), time.Now, time.Millisecond, Kind{})
		requireUnavailable(t, err, "no room")
	})
}

func TestWhoWaitsIsToldAtOnceThatTheProviderDoesNotAnswer(t *testing.T) {
	g := newGate()
	places := occupy(t, g)
	ends := waiters(t.Context(), t, g, 500, time.Hour)
	for _, p := range places[:MaxFailures] {
		p.end(unanswered, time.Now())
	}
	within(t, func() {
		for range 500 {
			requireUnavailable(t, <-ends, "not answering")
		}
	})
}

func TestThePlaceOfAnUnansweredCallIsWithheldUntilMoreIsKnown(t *testing.T) {
	for name, o := range map[string]outcome{"an answer": answered, "nothing was sent": notAsked} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			places := occupy(t, g)
			ends := waiters(t.Context(), t, g, 3, time.Hour)
			places[0].end(unanswered, time.Now())
			places[1].end(unanswered, time.Now())
			require.Equal(t, State{Waiting: 3, Minting: MaxMinting - 2}, g.state(time.Now()))
			places[2].end(o, time.Now())
			for range 3 {
				require.NoError(t, <-ends)
			}
		})
	}
	t.Run("no other call is under way", func(t *testing.T) {
		g := newGate()
		p, err := g.waitMint(t.Context(), time.Now, promptly, Kind{})
		require.NoError(t, err)
		p.end(unanswered, time.Now())
		require.Equal(t, State{}, g.state(time.Now()))
	})
}

func TestAMintThatTheRateLimitCannotServeInTimeIsRefusedAtOnce(t *testing.T) {
	g := newGate()
	g.setLimit(1)
	mintThrough(t, g) // uses up the burst
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	g.announceHeld(t)
	ends := make(chan error, 12)
	for n := range 12 {
		go func() { _, err := g.waitMint(ctx, time.Now, 10*time.Second, Kind{}); ends <- err }()
		require.Eventually(t, func() bool { return g.state(time.Now()).Waiting == n+1 }, promptly, time.Microsecond)
	}
	within(t, func() {
		_, err := g.waitMint(t.Context(), time.Now, 10*time.Second, Kind{})
		requireUnavailable(t, err, "no room")
	})
	giveUp()
	for range 12 {
		<-ends
	}
}

// announceHeld keeps mints behind a revocation that never comes to its turn.
func (g *gate) announceHeld(t *testing.T) {
	t.Helper()
	g.announce(1)
	t.Cleanup(func() { g.announce(-1) })
}

// A revocation must not stand behind every mint that the rate limit keeps waiting.
func TestARevocationOvertakesTheMintsThatWaitForTheRateLimit(t *testing.T) {
	g := newGate()
	g.setLimit(10)
	for range 10 {
		mintThrough(t, g)
	}
	var through atomic.Int64
	var mints sync.WaitGroup
	for range 40 {
		mints.Go(func() {
			p, err := g.waitMint(t.Context(), time.Now, promptly, Kind{})
			if err == nil {
				through.Add(1)
				p.Leave()
			}
		})
	}
	require.Eventually(t, func() bool { return g.state(time.Now()).Waiting > 30 }, promptly, time.Millisecond)
	before := through.Load()
	for range 5 {
		done, err := g.waitRevoke(t.Context(), time.Now())
		require.NoError(t, err)
		done()
	}
	// At each of the five the limiter may have had one mint before it.
	require.LessOrEqual(t, through.Load()-before, int64(10), "of 40 that were there first")
	mints.Wait()
}

// crowd lets n mints of the kind wait at the gate, in the name of one.
func (g *gate) crowd(t *testing.T, k Kind, n int, served func(Kind)) *sync.WaitGroup {
	t.Helper()
	var mints sync.WaitGroup
	before := g.state(time.Now()).Waiting
	for range n {
		mints.Go(func() {
			if p, err := g.waitMint(t.Context(), time.Now, promptly, k); err == nil {
				served(k)
				p.Leave()
			}
		})
	}
	require.Eventually(t, func() bool { return g.state(time.Now()).Waiting == before+n }, promptly, time.Microsecond)
	return &mints
}

func TestTheWaitingRoomIsNobodysOwn(t *testing.T) {
	g := newGate()
	places := occupy(t, g)
	ctx, giveUp := context.WithCancel(t.Context())
	var mints sync.WaitGroup
	refusals := make(chan error, maxWaiting)
	for range maxWaiting {
		mints.Go(func() {
			_, err := g.waitMint(ctx, time.Now, time.Hour, aliceReads)
			refusals <- err
		})
	}
	const room = maxWaiting * timesFree / (timesFree + 1)
	require.Eventually(t, func() bool { return g.state(time.Now()).Waiting == room }, promptly, time.Millisecond)
	his := make(chan error, 1)
	go func() { _, err := g.waitMint(t.Context(), time.Now, time.Hour, bobReads); his <- err }()
	require.Eventually(t, func() bool { return g.state(time.Now()).Waiting == room+1 }, promptly, time.Millisecond)
	places[0].Leave()
	places[1].Leave()
	require.NoError(t, <-his, "among the first two, behind 1,536 that were there before")
	giveUp()
	mints.Wait()
}

func TestTheRateLimitIsNobodysOwn(t *testing.T) {
	g := newGate()
	g.setLimit(20)
	for range 20 { // use up the burst
		mintThrough(t, g)
	}
	var mu sync.Mutex
	var order []string
	served := func(k Kind) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, k.Holder)
	}
	g.announce(1) // as if a revocation waited
	hers := g.crowd(t, aliceReads, 30, served)
	his := g.crowd(t, bobReads, 2, served)
	g.announce(-1)
	his.Wait()
	mu.Lock()
	require.LessOrEqual(t, len(order), 8, "of 32, of which 30 were there first")
	mu.Unlock()
	hers.Wait()
}

func TestTheParentsTurnIsNobodysOwn(t *testing.T) {
	s := newSite()
	release, err := s.turn(t.Context(), promptly)
	require.NoError(t, err)
	order := make(chan string, 40)
	var turns sync.WaitGroup
	wait := func(k Kind, n int) {
		for i := range n {
			turns.Go(func() {
				release, err := s.turn(withKind(context.Background(), k), promptly)
				require.NoError(t, err)
				order <- k.Holder
				release()
			})
			require.Eventually(t, func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, r := range s.turns.rows {
					if r.who == k.sharer() {
						return len(r.waiting) == i+1
					}
				}
				return false
			}, promptly, time.Microsecond)
		}
	}
	wait(aliceReads, 20)
	wait(bobReads, 1)
	release()
	turns.Wait()
	first := []string{<-order, <-order}
	require.Contains(t, first, bob)
}

// BenchmarkGate is what a mint that nothing keeps waiting costs at the gate.
func BenchmarkGate(b *testing.B) {
	g := newGate()
	b.ReportAllocs()
	for b.Loop() {
		p, err := g.waitMint(context.Background(), time.Now, time.Second, aliceReads)
		require.NoError(b, err)
		p.end(answered, time.Time{})
	}
}

// What has begun comes to its end before anybody else begins: a child that cannot be looked
// at in time dies.
func TestAFurtherRequestGoesBeforeMintsThatHaveNotBegun(t *testing.T) {
	g := newGate()
	g.setLimit(20)
	for range 20 { // use up the burst
		mintThrough(t, g)
	}
	g.announce(1) // as if a revocation waited
	var begun atomic.Int64
	mints := g.crowd(t, aliceReads, 20, func(Kind) { begun.Add(1) })
	further := make(chan int64, 2)
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			require.NoError(t, g.waitFurther(t.Context()))
			further <- begun.Load()
		})
	}
	others.Wait()
	require.Zero(t, max(<-further, <-further), "of 20 that were there first")
	g.announce(-1)
	mints.Wait()
}

// What is forwarded is the caller's own: a refused parent is nothing to it, and neither does
// it find out whether the parent is taken again.
func TestARefusedParentKeepsNobodyFromForwarding(t *testing.T) {
	g, now := newGate(), time.Now()
	g.distrusts(errors.New("refused"), now)
	require.Error(t, g.mayMint(Kind{}, now))
	require.NoError(t, g.mayMint(Kind{Mode: provider.ModeForward}, now))
	now = now.Add(refusedFor)
	_, err := g.begin(Kind{Mode: provider.ModeForward}, now)
	require.NoError(t, err)
	_, err = g.begin(Kind{Role: "r"}, now)
	require.NoError(t, err, "the one that tries")
	_, err = g.begin(Kind{Role: "other"}, now)
	require.Error(t, err)
	g.trusts()
	_, err = g.begin(Kind{Role: "other"}, now)
	require.NoError(t, err)
}
