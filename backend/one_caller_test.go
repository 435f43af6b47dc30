package backend

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// What one caller, one role or one hostile answer does to all others: nothing.

// newShared is a mount with the roles r and other on one provider, and two entities.
func newShared(t testing.TB, s setup) *mount {
	t.Helper()
	m := newMount(t, s)
	m.must(m.write("roles/other", map[string]any{"provider": "oauth2/p", "scopes": "read,write"}))
	return m
}

// mustServe lets somebody have a token.
func (m *mount) mustServe(entity, role string, data map[string]any) {
	m.t.Helper()
	_, err := m.credsBy(call{entity: entity, path: "creds/" + role, data: data})
	require.NoError(m.t, err)
}

// suffer lets somebody's request meet the fault, alone.
func (m *mount) suffer(f authserver.Fault, entity, role string, data map[string]any) error {
	m.t.Helper()
	m.server.Break(authserver.EndpointToken, f)
	defer m.server.Break(authserver.EndpointToken, nil)
	_, err := m.credsBy(call{entity: entity, path: "creds/" + role, data: data})
	return err
}

func TestAWishToBeLeftAloneIsOfTheKindOfRequestThatMetIt(t *testing.T) {
	m := newShared(t, setup{})
	requireCode(t, m.suffer(authserver.Busy(time.Hour), alice, "r", nil), fault.TemporarilyUnavailable)
	before := m.tokenRequests()
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable, "left alone for 1m0s")
	require.Equal(t, before, m.tokenRequests())
	m.mustServe(bob, "r", nil)
	m.mustServe(alice, "other", nil)
	m.mustServe(alice, "r", map[string]any{"scopes": "read"})
	shown := m.must(m.read("providers/oauth2/p")).Data
	require.Equal(t, "limited", shown["health"])
	require.Contains(t, shown["health_detail"], "asked to be left alone: mint requests of the role r by one caller wait until 20")
	require.NotContains(t, shown["health_detail"], alice)
	m.clock.advance(maxPause)
	m.mustServe(alice, "r", nil)
	require.Equal(t, "ok", m.must(m.read("providers/oauth2/p")).Data["health"])
}

func TestAWishToBeLeftAloneIsHeededByAllOnceOthersHaveMetIt(t *testing.T) {
	m := newShared(t, setup{})
	require.Error(t, m.suffer(authserver.Busy(time.Hour), alice, "r", nil))
	require.Error(t, m.suffer(authserver.Busy(time.Hour), bob, "other", nil))
	before := m.tokenRequests()
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "left alone")
	require.Equal(t, before, m.tokenRequests())
	m.clock.advance(maxPause)
	m.mustCreds(nil)
}

func TestAnOperatorEndsAWishToBeLeftAlone(t *testing.T) {
	for name, do := range map[string]func(m *mount) error{
		"check": func(m *mount) error { _, err := m.write("providers/oauth2/p/check", nil); return err },
		"write": func(m *mount) error {
			_, err := m.write("providers/oauth2/p", map[string]any{"timeout": 19})
			return err
		},
		"delete and create": func(m *mount) error {
			m.must(m.delete("providers/oauth2/p", nil))
			_, err := m.write("providers/oauth2/p", m.providerFields(nil))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{})
			require.Error(t, m.suffer(authserver.Busy(time.Hour), alice, "r", nil))
			require.NoError(t, do(m))
			m.mustServe(alice, "r", nil)
		})
	}
}

func TestOneOddRequestSparesNobodyTheProvider(t *testing.T) {
	m := newShared(t, setup{})
	odd := map[string]any{"scopes": "write"}
	for range maxFailures {
		requireCode(t, m.suffer(failing, alice, "r", odd), fault.TemporarilyUnavailable, "HTTP 500")
	}
	before := m.tokenRequests()
	_, err := m.credsBy(call{entity: alice, data: odd})
	requireCode(t, err, fault.TemporarilyUnavailable, "not answering")
	require.Equal(t, before, m.tokenRequests(), "that request is spared it")
	m.mustServe(bob, "r", odd)
	m.mustServe(alice, "r", nil)
	m.mustServe(alice, "other", nil)
	require.Equal(t, "limited", m.must(m.read("providers/oauth2/p")).Data["health"])
	require.Contains(t, m.metrics(), `broker_breaker_open{provider="oauth2/p"} 0`)
}

func TestAProviderThatFailsOthersTooIsSpared(t *testing.T) {
	m := newShared(t, setup{})
	for n := range maxFailures {
		who, role := alice, "r"
		if n == 0 {
			who, role = bob, "other"
		}
		requireCode(t, m.suffer(failing, who, role, nil), fault.TemporarilyUnavailable, "HTTP 500")
	}
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "not answering")
	require.Equal(t, "unreachable", m.must(m.read("providers/oauth2/p")).Data["health"])
}

func TestACallerWhoGoesOnFailingTakesNobodysTrial(t *testing.T) {
	m := newShared(t, patient)
	for range maxFailures {
		require.Error(t, m.suffer(silent, alice, "r", nil))
	}
	_, err := m.credsBy(call{entity: bob, path: "creds/other"})
	requireCode(t, err, fault.TemporarilyUnavailable, "not answering") // the transport is everybody's
	m.clock.advance(shortestRest)
	worked, release := make(chan struct{}, 1), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	var hers sync.WaitGroup
	hers.Go(func() {
		_, err := m.credsBy(call{entity: alice})
		assert.NoError(t, err, "her own trial, in the end")
	})
	<-worked
	m.server.Break(authserver.EndpointToken, nil)
	m.mustServe(bob, "other", nil)
	m.mustCreds(nil)
	close(release)
	hers.Wait()
}

func TestACallerWhoGoesOnFailingAfterAnOutageKeepsNobodyOut(t *testing.T) {
	m := newShared(t, setup{})
	for n := range maxFailures { // an outage that everybody has met
		who, role := alice, "r"
		if n == 0 {
			who, role = bob, "other"
		}
		requireCode(t, m.suffer(failing, who, role, nil), fault.TemporarilyUnavailable, "HTTP 500")
	}
	// It is over, but for requests of hers, and she is always the first.
	for range 6 {
		m.clock.advance(longestRest)
		requireCode(t, m.suffer(failing, alice, "r", nil), fault.TemporarilyUnavailable, "HTTP 500")
	}
	m.clock.advance(shortestRest)
	_ = m.suffer(failing, alice, "r", map[string]any{"scopes": "read"})
	_ = m.suffer(failing, alice, "other", nil)
	m.mustServe(bob, "other", nil)
	require.Equal(t, "ok", m.must(m.read("providers/oauth2/p")).Data["health"])
}

// An agent may come without its entity too, by an orphan token.
func TestACallerOfTwoNamesKeepsNobodyOut(t *testing.T) {
	m := newShared(t, setup{})
	for n := range maxFailures {
		who, role := alice, "r"
		if n == 0 {
			who, role = "", "other"
		}
		requireCode(t, m.suffer(failing, who, role, nil), fault.TemporarilyUnavailable, "HTTP 500")
	}
	for range 6 { // hers are the first as soon as there is a trial
		m.clock.advance(longestRest)
		_ = m.suffer(failing, alice, "r", nil)
		m.clock.advance(shortestRest)
		_ = m.suffer(failing, "", "other", nil)
	}
	m.clock.advance(shortestRest)
	_ = m.suffer(failing, alice, "r", nil)
	_ = m.suffer(failing, "", "other", nil)
	m.mustServe(bob, "r", nil)
}

func TestATokenWithoutAnEndStopsRequestsOfItsKindAlone(t *testing.T) {
	m := newShared(t, setup{server: authserver.Options{WithoutRevocation: true, Lifetime: 10 * time.Hour}})
	requireCode(t, m.suffer(authserver.Drop("expires_in"), alice, "r", nil), fault.ProviderViolation, "assumed_lifetime")
	before := m.tokenRequests()
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.ProviderViolation, "assumed_lifetime")
	require.Equal(t, before, m.tokenRequests(), "each further one would live for ever")
	m.mustServe(bob, "r", nil)
	m.mustServe(alice, "other", nil)
	require.Contains(t, m.must(m.read("providers/oauth2/p")).Data["health_detail"], "assumed_lifetime")
	m.must(m.write("providers/oauth2/p/check", nil))
	m.mustServe(alice, "r", nil)

	require.Error(t, m.suffer(authserver.Drop("expires_in"), alice, "r", nil))
	m.clock.advance(maxMoot)
	m.mustServe(alice, "r", nil)
}

func TestTheQueueIsNobodysOwn(t *testing.T) {
	m := newShared(t, patient)
	const crowd = 400
	worked, release := make(chan struct{}, crowd), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	var mints sync.WaitGroup
	for range crowd {
		mints.Go(func() { m.mustServe(alice, "r", nil) })
	}
	reach := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return len(worked) == n }, promptly, time.Millisecond)
	}
	reach(maxAlone)
	for n, other := range []call{{entity: bob, path: "creds/r"}, {path: "creds/r"}, {path: "creds/other"}} {
		mints.Go(func() { m.mustServe(other.entity, other.path[len("creds/"):], nil) })
		reach(maxAlone + n + 1)
	}
	m.server.Break(authserver.EndpointToken, nil)
	close(release)
	mints.Wait()
}

// crowd lets n mints of the kind wait at the gate, in the name of one.
func (g *gate) crowd(t *testing.T, k kind, n int, served func(kind)) *sync.WaitGroup {
	t.Helper()
	var mints sync.WaitGroup
	before := g.state(time.Now()).waiting
	for range n {
		mints.Go(func() {
			if p, err := g.waitMint(t.Context(), time.Now, promptly, k); err == nil {
				served(k)
				p.leave()
			}
		})
	}
	require.Eventually(t, func() bool { return g.state(time.Now()).waiting == before+n }, promptly, time.Microsecond)
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
	require.Eventually(t, func() bool { return g.state(time.Now()).waiting == room }, promptly, time.Millisecond)
	his := make(chan error, 1)
	go func() { _, err := g.waitMint(t.Context(), time.Now, time.Hour, bobReads); his <- err }()
	require.Eventually(t, func() bool { return g.state(time.Now()).waiting == room+1 }, promptly, time.Millisecond)
	places[0].leave()
	places[1].leave()
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
	served := func(k kind) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, k.holder)
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
	g := newGate()
	release, err := g.turn(t.Context(), promptly)
	require.NoError(t, err)
	order := make(chan string, 40)
	var turns sync.WaitGroup
	wait := func(k kind, n int) {
		for i := range n {
			turns.Go(func() {
				release, err := g.turn(withKind(context.Background(), k), promptly)
				require.NoError(t, err)
				order <- k.holder
				release()
			})
			require.Eventually(t, func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				for _, r := range g.turns.rows {
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
