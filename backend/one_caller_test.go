package backend

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
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
	require.Contains(t, shown["health_detail"], "asked to be left alone: mint requests of the role r by one caller are made again in 1m, at 20")
	require.NotContains(t, shown["health_detail"], alice)
	m.clock.advance(downstream.MaxPause)
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
	m.clock.advance(downstream.MaxPause)
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
	for range downstream.MaxFailures {
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
	for n := range downstream.MaxFailures {
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
	for range downstream.MaxFailures {
		require.Error(t, m.suffer(silent, alice, "r", nil))
	}
	_, err := m.credsBy(call{entity: bob, path: "creds/other"})
	requireCode(t, err, fault.TemporarilyUnavailable, "not answering") // the transport is everybody's
	m.clock.advance(downstream.ShortestRest)
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
	for n := range downstream.MaxFailures { // an outage that everybody has met
		who, role := alice, "r"
		if n == 0 {
			who, role = bob, "other"
		}
		requireCode(t, m.suffer(failing, who, role, nil), fault.TemporarilyUnavailable, "HTTP 500")
	}
	// It is over, but for requests of hers, and she is always the first.
	for range 6 {
		m.clock.advance(downstream.LongestRest)
		requireCode(t, m.suffer(failing, alice, "r", nil), fault.TemporarilyUnavailable, "HTTP 500")
	}
	m.clock.advance(downstream.ShortestRest)
	_ = m.suffer(failing, alice, "r", map[string]any{"scopes": "read"})
	_ = m.suffer(failing, alice, "other", nil)
	m.mustServe(bob, "other", nil)
	require.Equal(t, "ok", m.must(m.read("providers/oauth2/p")).Data["health"])
}

// An agent may come without its entity too, by an orphan token.
func TestACallerOfTwoNamesKeepsNobodyOut(t *testing.T) {
	m := newShared(t, setup{})
	for n := range downstream.MaxFailures {
		who, role := alice, "r"
		if n == 0 {
			who, role = "", "other"
		}
		requireCode(t, m.suffer(failing, who, role, nil), fault.TemporarilyUnavailable, "HTTP 500")
	}
	for range 6 { // hers are the first as soon as there is a trial
		m.clock.advance(downstream.LongestRest)
		_ = m.suffer(failing, alice, "r", nil)
		m.clock.advance(downstream.ShortestRest)
		_ = m.suffer(failing, "", "other", nil)
	}
	m.clock.advance(downstream.ShortestRest)
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
	m.clock.advance(downstream.MaxMoot)
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
