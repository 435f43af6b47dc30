package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// bringDown lets calls fail until the provider is spared.
func (m *mount) bringDown() {
	m.t.Helper()
	for range maxFailures {
		_, err := m.creds(nil)
		requireCode(m.t, err, fault.TemporarilyUnavailable)
	}
}

func (m *mount) tokenRequests() int {
	return m.server.Counts().Requests[authserver.EndpointToken]
}

// failing answers 500 without having minted, so that nothing is left over.
var failing = authserver.Answer(500, "text/plain", "")

// silent breaks the connection without having minted.
var silent = authserver.Silent()

func TestAProviderThatDoesNotAnswerIsSpared(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	m.server.Break(authserver.EndpointToken, silent)
	m.bringDown()
	before := m.tokenRequests()
	for range 20 {
		_, err := m.creds(nil)
		requireCode(t, err, fault.TemporarilyUnavailable, "the provider is not answering: tried again at")
	}
	require.Equal(t, before, m.tokenRequests())
	require.NoError(t, m.revoke(l), "a revocation is always tried")

	m.clock.advance(shortestRest)
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "did not arrive")
	_, err = m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "not answering")
	require.Equal(t, before+1, m.tokenRequests(), "one is let through after a rest")

	m.server.Break(authserver.EndpointToken, nil)
	m.clock.advance(longestRest)
	m.mustCreds(nil)
	m.mustCreds(nil)
}

func TestOneCallAloneFindsOutWhetherTheProviderIsBack(t *testing.T) {
	m := newMount(t, setup{provider: patient.provider})
	m.server.Break(authserver.EndpointToken, failing)
	m.bringDown()
	m.clock.advance(longestRest)
	worked, release := make(chan struct{}, 1), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	var trial sync.WaitGroup
	trial.Go(func() { m.mustCreds(nil) })
	<-worked
	for range 5 {
		_, err := m.creds(nil)
		requireCode(t, err, fault.TemporarilyUnavailable, "being tried at this moment")
	}
	m.server.Break(authserver.EndpointToken, nil)
	close(release)
	trial.Wait()
	m.mustCreds(nil)
}

func TestWhatTheProviderAnswersIsNoReasonToSpareIt(t *testing.T) {
	answers := map[string]authserver.Fault{
		"401":             authserver.Answer(401, "application/json", `{"error":"invalid_client"}`),
		"429":             authserver.Answer(429, "text/plain", ""),
		"400":             authserver.Answer(400, "application/json", `{"error":"invalid_scope"}`),
		"a violation":     authserver.Lie(),
		"a captive page":  authserver.HTML(),
		"an endless body": authserver.Endless(),
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{})
			m.server.Break(authserver.EndpointToken, answer)
			for range 2 * maxFailures {
				_, err := m.creds(nil)
				require.Error(t, err)
			}
			require.Equal(t, 2*maxFailures, m.tokenRequests())
			m.server.Break(authserver.EndpointToken, nil)
			m.mustCreds(nil)
		})
	}
}

// A request that fails on our side proves nothing of the provider, whoever sends how
// many of them.
func TestARequestThatNeverLeftIsNoAnswer(t *testing.T) {
	m := newMount(t, setup{})
	g := m.b.providers.gate("oauth2/p")
	for range maxFailures - 1 {
		p, err := g.waitMint(t.Context(), m.clock.Now, promptly, kind{})
		require.NoError(t, err)
		p.end(unanswered, m.clock.Now())
		other, err := g.waitMint(t.Context(), m.clock.Now, promptly, kind{})
		require.NoError(t, err)
		other.leave()
	}
	p, err := g.waitMint(t.Context(), m.clock.Now, promptly, kind{})
	require.NoError(t, err)
	require.NotZero(t, p.end(unanswered, m.clock.Now()))
}

func TestARefusalToCallCostsNoQuota(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"max_issue_rate": maxFailures + 1}})
	m.server.Break(authserver.EndpointToken, failing)
	for range maxFailures {
		_, err := m.credsBy(call{entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable)
	}
	for range 10 {
		_, err := m.credsBy(call{entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable, "not answering")
	}
	m.server.Break(authserver.EndpointToken, nil)
	m.clock.advance(shortestRest)
	_, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
}

func TestAnOperatorWhoMendsAProviderNeedNotWait(t *testing.T) {
	mend := map[string]func(m *mount) error{
		"check": func(m *mount) error { _, err := m.write("providers/oauth2/p/check", nil); return err },
		"write": func(m *mount) error {
			_, err := m.write("providers/oauth2/p", map[string]any{"timeout": 19})
			return err
		},
	}
	for name, do := range mend {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{})
			m.server.Break(authserver.EndpointToken, silent)
			m.bringDown()
			shown := m.must(m.read("providers/oauth2/p")).Data
			require.Equal(t, "unreachable", shown["health"])
			require.Contains(t, shown["health_detail"], "not answering")
			require.Contains(t, m.metrics(), `broker_breaker_open{provider="oauth2/p"} 1`)
			m.server.Break(authserver.EndpointToken, nil)
			require.NoError(t, do(m))
			m.mustCreds(nil)
			require.Equal(t, "ok", m.must(m.read("providers/oauth2/p")).Data["health"])
			require.Contains(t, m.metrics(), `broker_breaker_open{provider="oauth2/p"} 0`)
		})
	}
}

func TestACheckThatFailsMendsNothing(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointToken, failing)
	m.bringDown()
	_, err := m.write("providers/oauth2/p/check", nil)
	require.Error(t, err)
	_, err = m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "not answering")
}

func (m *mount) metrics() string {
	m.t.Helper()
	text, _ := m.must(m.read("metrics")).Data[logical.HTTPRawBody].([]byte)
	return string(text)
}

// occupy takes every place of a gate, each for somebody else.
func occupy(t *testing.T, g *gate) []*place {
	t.Helper()
	var places []*place
	for n := range maxMinting {
		p, err := g.waitMint(t.Context(), time.Now, promptly, kind{holder: fmt.Sprint("occupant ", n)})
		require.NoError(t, err)
		places = append(places, p)
	}
	return places
}

// maxAlone is how many places one sharer gets of all.
const maxAlone = maxMinting * timesFree / (timesFree + 1)

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
			p, err := g.waitMint(ctx, time.Now, patience, kind{holder: fmt.Sprint("waiter ", i)})
			if err == nil {
				p.leave()
			}
			errs <- err
		}()
	}
	require.Eventually(t, func() bool { return g.state(time.Now()).waiting == n }, promptly, time.Millisecond)
	return errs
}

func TestWhatWaitsForAProviderIsBounded(t *testing.T) {
	g := newGate()
	places := occupy(t, g)
	ctx, giveUp := context.WithCancel(t.Context())
	ends := waiters(ctx, t, g, maxWaiting, time.Hour)
	within(t, func() {
		_, err := g.waitMint(t.Context(), time.Now, time.Hour, kind{holder: "another"})
		requireUnavailable(t, err, "no room")
	})
	done, err := g.waitRevoke(t.Context(), time.Now())
	require.NoError(t, err, "revocations have slots of their own")
	done()
	places[0].leave()
	require.NoError(t, <-ends, "the next one in the queue")
	giveUp()
	for range maxWaiting - 1 {
		<-ends
	}
	for _, p := range places {
		p.leave()
	}
	require.Equal(t, gateState{}, g.state(time.Now()))
}

func TestAMintWaitsNoLongerThanItsPatience(t *testing.T) {
	g := newGate()
	occupy(t, g)
	within(t, func() {
		_, err := g.waitMint(t.Context(), time.Now, time.Millisecond, kind{})
		requireUnavailable(t, err, "no room")
	})
}

func TestWhoWaitsIsToldAtOnceThatTheProviderDoesNotAnswer(t *testing.T) {
	g := newGate()
	places := occupy(t, g)
	ends := waiters(t.Context(), t, g, 500, time.Hour)
	for _, p := range places[:maxFailures] {
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
			require.Equal(t, gateState{waiting: 3, minting: maxMinting - 2}, g.state(time.Now()))
			places[2].end(o, time.Now())
			for range 3 {
				require.NoError(t, <-ends)
			}
		})
	}
	t.Run("no other call is under way", func(t *testing.T) {
		g := newGate()
		p, err := g.waitMint(t.Context(), time.Now, promptly, kind{})
		require.NoError(t, err)
		p.end(unanswered, time.Now())
		require.Equal(t, gateState{}, g.state(time.Now()))
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
		go func() { _, err := g.waitMint(ctx, time.Now, 10*time.Second, kind{}); ends <- err }()
		require.Eventually(t, func() bool { return g.state(time.Now()).waiting == n+1 }, promptly, time.Microsecond)
	}
	within(t, func() {
		_, err := g.waitMint(t.Context(), time.Now, 10*time.Second, kind{})
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
			p, err := g.waitMint(t.Context(), time.Now, promptly, kind{})
			if err == nil {
				through.Add(1)
				p.leave()
			}
		})
	}
	require.Eventually(t, func() bool { return g.state(time.Now()).waiting > 30 }, promptly, time.Millisecond)
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

func TestRevocationsGoThroughWhileMintsQueue(t *testing.T) {
	m := newMount(t, patient)
	var leases []*lease
	for range 20 {
		leases = append(leases, m.mustCreds(nil))
	}
	const crowd = 500
	worked, release := make(chan struct{}, crowd), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	var mints sync.WaitGroup
	for range crowd {
		mints.Go(func() { m.mustCreds(nil) })
	}
	g := m.b.providers.gate("oauth2/p")
	require.Eventually(t, func() bool {
		return g.state(time.Now()) == gateState{waiting: crowd - maxAlone, minting: maxAlone}
	}, promptly, time.Millisecond)
	require.Contains(t, m.metrics(), `broker_mints_waiting{provider="oauth2/p"} 308`)
	within(t, func() {
		for _, l := range leases {
			require.NoError(t, m.revoke(l))
		}
	})
	require.LessOrEqual(t, len(worked), maxAlone, "no more than have a place are at the provider")
	m.server.Break(authserver.EndpointToken, nil)
	close(release)
	mints.Wait()
}

func TestASlowProviderDoesNotSlowAnother(t *testing.T) {
	m := newMount(t, patient)
	worked, release := make(chan struct{}, maxMinting), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	quick := authserver.New(t, authserver.Options{Now: m.clock.Now}, authserver.Client{ID: parentClient, Secrets: []string{parentSecret}, Scopes: []string{"read"}})
	m.must(m.write("providers/oauth2/quick", m.providerFields(map[string]any{"issuer": quick.URL})))
	m.must(m.write("roles/quick", map[string]any{"provider": "oauth2/quick", "scopes": "read"}))
	var mints sync.WaitGroup
	for range 300 {
		mints.Go(func() { m.mustCreds(nil) })
	}
	for range maxAlone {
		<-worked
	}
	within(t, func() {
		for range 20 {
			m.must(m.do(call{op: logical.ReadOperation, path: "creds/quick"}))
		}
	})
	m.must(m.write("revoke/provider/oauth2/quick", nil))
	m.server.Break(authserver.EndpointToken, nil)
	close(release)
	mints.Wait()
}

func TestADisabledProviderIsNotAskedByThoseWhoWaited(t *testing.T) {
	m := newMount(t, patient)
	g := m.b.providers.gate("oauth2/p")
	places := occupy(t, g)
	ends := make(chan error, 1)
	go func() { _, err := m.creds(nil); ends <- err }()
	require.Eventually(t, func() bool { return g.state(time.Now()).waiting == 1 }, promptly, time.Millisecond)
	m.must(m.write("providers/oauth2/p", map[string]any{"disabled": true}))
	for _, p := range places {
		p.leave()
	}
	requireCode(t, <-ends, fault.TemporarilyUnavailable, "has been changed")
	require.Zero(t, m.tokenRequests())
}

// Nothing that callers can make up becomes a label.
func TestTheGatesLabelsAreProviders(t *testing.T) {
	m := newMount(t, setup{})
	_, _ = m.do(call{op: logical.ReadOperation, path: "creds/made-up"})
	labelled := slices.DeleteFunc(strings.Split(m.metrics(), "\n"), func(line string) bool {
		return !strings.HasPrefix(line, "broker_mints_waiting{")
	})
	require.Equal(t, []string{`broker_mints_waiting{provider="oauth2/p"} 0`}, labelled)
}
