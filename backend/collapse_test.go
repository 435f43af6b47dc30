package backend

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// bringDown lets calls fail until the provider is spared.
func (m *mount) bringDown() {
	m.t.Helper()
	for range downstream.MaxFailures {
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
		requireCode(t, err, fault.TemporarilyUnavailable, "the provider is not answering: it is tried again in")
	}
	require.Equal(t, before, m.tokenRequests())
	require.NoError(t, m.revoke(l), "a revocation is always tried")

	m.clock.advance(downstream.ShortestRest)
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "did not arrive")
	_, err = m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "not answering")
	require.Equal(t, before+1, m.tokenRequests(), "one is let through after a rest")

	m.server.Break(authserver.EndpointToken, nil)
	m.clock.advance(downstream.LongestRest)
	m.mustCreds(nil)
	m.mustCreds(nil)
}

func TestOneCallAloneFindsOutWhetherTheProviderIsBack(t *testing.T) {
	m := newMount(t, setup{provider: patient.provider})
	m.server.Break(authserver.EndpointToken, failing)
	m.bringDown()
	m.clock.advance(downstream.LongestRest)
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
			for range 2 * downstream.MaxFailures {
				_, err := m.creds(nil)
				require.Error(t, err)
			}
			require.Equal(t, 2*downstream.MaxFailures, m.tokenRequests())
			m.server.Break(authserver.EndpointToken, nil)
			m.mustCreds(nil)
		})
	}
}

func TestARefusalToCallCostsNoQuota(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"max_issue_rate": downstream.MaxFailures + 1}})
	m.server.Break(authserver.EndpointToken, failing)
	for range downstream.MaxFailures {
		_, err := m.credsBy(call{entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable)
	}
	for range 10 {
		_, err := m.credsBy(call{entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable, "not answering")
	}
	m.server.Break(authserver.EndpointToken, nil)
	m.clock.advance(downstream.ShortestRest)
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

// maxAlone is how many places one caller gets of all.
const maxAlone = downstream.MaxMinting * 3 / 4

func (m *mount) metrics() string {
	m.t.Helper()
	text, _ := m.must(m.read("metrics")).Data[logical.HTTPRawBody].([]byte)
	return string(text)
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
	require.Eventually(t, func() bool {
		return m.b.providers.State("oauth2/p") == downstream.State{Waiting: crowd - maxAlone, Minting: maxAlone}
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
	worked, release := make(chan struct{}, downstream.MaxMinting), make(chan struct{})
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
	p, err := m.b.providers.MustOpen(t.Context(), "oauth2/p")
	require.NoError(t, err)
	var places []*downstream.Place
	for n := range downstream.MaxMinting {
		place, err := p.WaitMint(t.Context(), downstream.Kind{Holder: fmt.Sprint("occupant ", n)})
		require.NoError(t, err)
		places = append(places, place)
	}
	ends := make(chan error, 1)
	go func() { _, err := m.creds(nil); ends <- err }()
	require.Eventually(t, func() bool { return m.b.providers.State("oauth2/p").Waiting == 1 }, promptly, time.Millisecond)
	m.must(m.write("providers/oauth2/p", map[string]any{"disabled": true}))
	for _, place := range places {
		place.Leave()
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
