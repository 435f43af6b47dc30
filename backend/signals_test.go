package backend

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

const streamToken = "STREAM-canary-9e8d7c6b5a4f"

// signalling is a mount whose role r exchanges tokens of the issuer i and whose role own
// mints without any, and which listens to a transmitter of events about the issuer's
// subjects as the signal s.
func signalling(t *testing.T, o transmitter.Options, fields map[string]any) (*mount, *transmitter.Server) {
	t.Helper()
	m := exchanging(t, nil)
	m.must(m.write("roles/own", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	m.hide(streamToken)
	o.Now, o.Tokens = m.clock.Now, []string{streamToken}
	s := transmitter.New(t, o)
	written := map[string]any{"issuer": s.URL, "token": streamToken}
	for name, value := range fields {
		written[name] = value
	}
	m.must(m.write("signals/s", written))
	return m, s
}

// exchanged is a child that an agent has got on a user's behalf.
func (m *mount) exchanged(entity, user, jti string) *lease {
	m.t.Helper()
	l, err := m.tryExchanged(entity, user, jti)
	require.NoError(m.t, err)
	return l
}

func (m *mount) tryExchanged(entity, user, jti string) (*lease, error) {
	m.t.Helper()
	token := m.subjectToken(jti, map[string]any{"sub": user})
	m.server.Trust(token, authserver.Bearer{Subject: user})
	return m.credsBy(call{path: "creds/r", entity: entity, data: map[string]any{"subject_token": token, "scopes": "read"}})
}

// user is a subject of the issuer i.
func (m *mount) user(sub string) map[string]any { return transmitter.IssSub(m.server.URL, sub) }

// poll fetches the events now, and returns how the signal is.
func (m *mount) poll() map[string]any {
	m.t.Helper()
	return m.must(m.write("signals/s/check", nil)).Data
}

// dies waits for a kill that goes on in the background.
func (m *mount) dies(leases ...*lease) {
	m.t.Helper()
	for _, l := range leases {
		require.Eventually(m.t, func() bool { return !m.server.Active(l.token) }, promptly, time.Millisecond)
	}
}

// A session that is revoked ends what agents hold in its user's name, whoever they are, and
// nothing else of theirs; and the event is acknowledged.
func TestASecurityEventEndsWhatItsSubjectHas(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	one, two := m.exchanged(alice, "user-1", "a"), m.exchanged(bob, "user-1", "b")
	other := m.exchanged(alice, "user-2", "c")
	own, err := m.credsBy(call{path: "creds/own", entity: alice})
	require.NoError(t, err)

	id := s.Send(transmitter.SessionRevoked(m.user("user-1")))
	require.Equal(t, "ok", m.poll()["health"])
	m.dies(one, two)
	require.True(t, m.server.Active(other.token), "another user's")
	require.True(t, m.server.Active(own.token), "nobody's but the agent's")
	require.Contains(t, s.Acknowledged(), id)
	require.Empty(t, s.Pending())
	for _, line := range []string{
		`broker_signal_events_total{event="session-revoked",outcome="killed",signal="s"} 1`,
		`broker_grants_killed_total{cause="signal/session-revoked",provider="oauth2/p"} 2`,
		`broker_signal_health{signal="s",state="ok"} 1`,
	} {
		require.Eventually(t, func() bool { return strings.Contains(m.metrics(), line) }, promptly, time.Millisecond, line)
	}
}

// From a security event on, too, all die and nothing is serial: a thousand tokens of one
// user, of two providers, and the record says of each when.
func TestASecurityEventKillsAThousandAtOnce(t *testing.T) {
	const each, atOnce = 500, 32
	m, s := signalling(t, transmitter.Options{}, nil)
	m.must(m.write("providers/oauth2/q", m.providerFields(nil)))
	m.must(m.write("roles/q", map[string]any{"provider": "oauth2/q", "scopes": "read", "mode": "exchange", "subject_issuers": "i"}))
	token := m.subjectToken("a", map[string]any{"sub": "user-1"})
	m.server.Trust(token, authserver.Bearer{Subject: "user-1"})
	for i := range 2 * each {
		_, err := m.credsBy(call{path: "creds/" + []string{"r", "q"}[i%2], entity: []string{alice, bob}[i/each], data: map[string]any{"subject_token": token, "scopes": "read"}})
		require.NoError(t, err)
	}
	m.untilAtOnce(2 * atOnce)
	m.clock.advance(time.Second)
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	m.poll()
	m.waitForKills()
	require.Empty(t, m.allGrants())
	require.Eventually(t, func() bool { return len(m.keys("kills", nil)) == 1 }, promptly, time.Millisecond)
	record := m.killNamed(m.keys("kills", nil)[0])
	require.Equal(t, []any{"complete", 2 * each, 2 * each}, []any{record["state"], record["grants"], record["revoked"]}, "%v", record["report"])
	for _, ref := range []string{"oauth2/p", "oauth2/q"} {
		require.Contains(t, m.metrics(), fmt.Sprintf(`broker_time_to_death_seconds_count{cause="signal/session-revoked",provider=%q} %d`, ref, each))
	}
}

// Whoever still has a token of a session that has ended cannot exchange it again, on the
// next leader neither; one that was issued since is another session's.
func TestATokenOfASessionThatHasEndedIsNotTaken(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	token := m.trustedToken("a")
	ask := func(token string) error {
		l, err := m.credsBy(call{path: "creds/r", entity: alice, data: map[string]any{"subject_token": token, "scopes": "read"}})
		if err == nil {
			require.NoError(t, m.revoke(l))
		}
		return err
	}
	require.NoError(t, ask(token))
	m.clock.advance(time.Minute)
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	m.poll()
	for range 2 {
		requireCode(t, ask(token), fault.InvalidGrant, "session", "log in again")
		m.start()
	}
	explained := m.must(m.write("roles/r/explain", map[string]any{"entity_id": alice, "subject_token": token, "scopes": "read"}))
	require.Equal(t, false, explained.Data["allowed"])
	_, err := m.tryExchanged(bob, "user-2", "b")
	require.NoError(t, err, "another user's")
	m.clock.advance(time.Second)
	require.NoError(t, ask(m.trustedToken("c")))

	m.clock.advance(25 * time.Hour)
	m.sweep()
	entries, err := m.storage.List(t.Context(), logoffPrefix)
	require.NoError(t, err)
	require.Empty(t, entries, "no token of that session can be there any more")
}

// An account that is disabled gets nothing any more, also one that never had anything; and
// an operator can see who has frozen it, and thaw it.
func TestASecurityEventFreezes(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	l := m.exchanged(alice, "user-1", "a")
	s.Send(transmitter.AccountDisabled(m.user("user-1")))
	s.Send(transmitter.AccountDisabled(m.user("never-seen")))
	m.poll()
	require.Empty(t, s.Pending())
	m.dies(l)
	for _, user := range []string{"user-1", "never-seen"} {
		_, err := m.tryExchanged(bob, user, "after-"+user)
		requireCode(t, err, fault.AccessDenied, "frozen")
		info := m.must(m.list("frozen", nil)).Data["key_info"].(map[string]any)
		about := info[ending.Subject(m.server.URL, user).String()].(map[string]any)
		require.Contains(t, about["by"], "signal s")
		require.Equal(t, user, about["subject"])
		m.must(m.write("revoke/subject", map[string]any{"issuer": "i", "subject": user, "freeze": false}))
		m.clock.advance(time.Second)
		_, err = m.tryExchanged(bob, user, "thawed-"+user)
		require.NoError(t, err)
	}
}

// What an operator says of a kind of event holds.
func TestEventsDoWhatTheOperatorSays(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, map[string]any{"events": map[string]any{"session-revoked": "note", transmitter.CAEP + "device-compliance-change": "kill"}})
	require.Equal(t, []string{transmitter.CAEP + "device-compliance-change", transmitter.CAEP + "session-revoked"}, s.Requested())
	l := m.exchanged(alice, "user-1", "a")
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	s.Send(transmitter.AccountDisabled(m.user("user-1")))
	s.Send(transmitter.Event{Type: transmitter.CAEP + "device-compliance-change", Subject: m.user("user-1"), Members: map[string]any{"current_status": "compliant"}})
	m.poll()
	require.Empty(t, s.Pending())
	require.Empty(t, s.Refused())
	require.True(t, m.server.Active(l.token))
	s.Send(transmitter.Event{
		Type: transmitter.CAEP + "device-compliance-change", Members: map[string]any{"current_status": "not-compliant"},
		Subject: map[string]any{"format": "complex", "user": m.user("user-1"), "device": map[string]any{"format": "opaque", "id": "laptop"}},
	})
	m.poll()
	m.dies(l)

	m.must(m.write("signals/s", map[string]any{"events": "account-purged=freeze"}))
	require.Equal(t, []string{transmitter.RISC + "account-purged"}, s.Requested(), "the stream is asked for what is wanted now")
	require.Equal(t, map[string]string{"account-purged": "freeze"}, m.must(m.read("signals/s")).Data["events"])
	_, err := m.write("signals/s", map[string]any{"events": "session-ended=kill"})
	requireCode(t, err, fault.InvalidRequest, "session-ended", "session-revoked")
}

// A kill that cannot be made durable is not acknowledged: the event comes again, to whoever
// leads then.
func TestAnEventThatCannotBeHeededIsNotAcknowledged(t *testing.T) {
	for name, key := range map[string]string{"the kill": "kill/", "the memory": seenPrefix, "the freeze": ending.FrozenPrefix} {
		t.Run(name, func(t *testing.T) {
			m, s := signalling(t, transmitter.Options{WithoutVerification: true}, nil)
			l := m.exchanged(alice, "user-1", "a")
			id := s.Send(transmitter.AccountDisabled(m.user("user-1")))
			m.storage.on(func(op, at string) error {
				if op == "put" && strings.HasPrefix(at, key) {
					return errStorage
				}
				return nil
			})
			about := m.poll()
			require.Equal(t, "failing", about["health"])
			require.Equal(t, []string{id}, s.Pending())
			require.Contains(t, m.metrics(), `outcome="failed",signal="s"} 1`)
			m.storage.heal()
			m.start()
			require.Equal(t, "ok", m.poll()["health"])
			require.Empty(t, s.Pending())
			m.dies(l)
		})
	}
}

// A leader that dies between the kill and the acknowledgement leaves an event that is
// delivered again, and that the next one knows.
func TestAFailoverBetweenKillAndAcknowledgement(t *testing.T) {
	m, s := signalling(t, transmitter.Options{WithoutVerification: true}, nil)
	l := m.exchanged(alice, "user-1", "a")
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	s.Break(s.Forgetful())
	m.poll()
	m.dies(l)
	m.start()
	m.clock.advance(time.Second)
	again := m.exchanged(alice, "user-1", "b")
	m.poll()
	s.Break(nil)
	m.poll()
	m.poll()
	require.Empty(t, s.Pending())
	require.True(t, m.server.Active(again.token), "it is known, and not heeded a second time")
	require.Contains(t, m.metrics(), `outcome="duplicate",signal="s"}`)

	// The memory ends, and so does how old an event may be.
	m.clock.advance(31 * 24 * time.Hour)
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	m.poll()
	s.Send(transmitter.SessionRevoked(m.user("user-2")))
	m.poll()
	require.Empty(t, s.Refused())
}

// Where both nodes of a failover have fetched an event, it kills twice at worst.
func TestTwoNodesThatPoll(t *testing.T) {
	m, s := signalling(t, transmitter.Options{WithoutVerification: true}, nil)
	l := m.exchanged(alice, "user-1", "a")
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	s.Break(s.Forgetful())
	former := m.b
	m.poll()
	m.dies(l)
	m.start()
	next := m.b
	m.poll()
	s.Break(nil)
	m.b = former
	m.poll()
	m.b = next
	m.poll()
	m.poll()
	require.Empty(t, s.Pending())
	require.Eventually(t, func() bool { return len(m.allGrants()) == 0 }, promptly, time.Millisecond)
}

// A mint in flight that rests on what has ended is not handed out.
func TestAMintInFlightDoesNotOutliveAnEvent(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	worked, release := make(chan struct{}, 1), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	failed := make(chan error, 1)
	token := m.trustedToken("a")
	go func() {
		_, err := m.creds(map[string]any{"subject_token": token})
		failed <- err
	}()
	<-worked
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	m.poll()
	close(release)
	requireCode(t, <-failed, fault.AccessDenied, "frozen meanwhile")
	m.server.Break(authserver.EndpointToken, nil)
	require.Empty(t, s.Pending())
}

// Only the node that may write polls, and none of a mount that goes.
func TestWhoMayListen(t *testing.T) {
	m, _ := signalling(t, transmitter.Options{}, nil)
	require.True(t, m.b.signals.mayListen())
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary, consts.ReplicationPerformanceStandby} {
		m.vault.change(func(v *vaultView) { v.ReplicationStateVal = state })
		m.clock.advance(time.Minute)
		require.False(t, m.b.signals.mayListen())
	}
	m.vault.change(func(v *vaultView) {
		v.ReplicationStateVal = consts.ReplicationPerformanceDisabled | consts.ReplicationDRDisabled
	})
	m.clock.advance(time.Minute)
	m.vault.change(func(v *vaultView) { v.tainted = true })
	require.False(t, m.b.signals.mayListen())
	m.vault.change(func(v *vaultView) { v.tainted = false })
}

// In the background events are fetched without anybody asking, also after a restart, by the
// signal as it is written now; and no more once the engine ends.
func TestEventsAreFetchedInTheBackground(t *testing.T) {
	m, s := signalling(t, transmitter.Options{Hold: time.Second}, nil)
	ends := func(jti string) {
		t.Helper()
		m.clock.advance(time.Second)
		l := m.exchanged(alice, "user-1", jti)
		s.Send(transmitter.SessionRevoked(m.user("user-1")))
		m.dies(l)
		require.Eventually(t, func() bool { return len(s.Pending()) == 0 }, promptly, time.Millisecond)
	}
	m.b.signals.byHand = false
	m.b.signals.drop("s")
	require.NoError(t, m.periodic())
	ends("a")
	m.must(m.write("signals/s", map[string]any{"poll_interval": "1s"}))
	ends("b")
	m.b.Cleanup(t.Context())
	m.start()
	m.b.signals.byHand = false
	require.NoError(t, m.b.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}))
	ends("c")
	m.must(m.write("signals/s", map[string]any{"disabled": true}))
	m.clock.advance(time.Second)
	l := m.exchanged(alice, "user-1", "d")
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	require.NoError(t, m.periodic())
	require.Equal(t, "disabled", m.must(m.read("signals/s")).Data["health"])
	_, err := m.write("signals/s/check", nil)
	requireCode(t, err, fault.InvalidRequest, "disabled=false")
	require.True(t, m.server.Active(l.token))
	m.b.signals.end()
}

// A subject whose issuer is spelled otherwise here is nobody's, and an operator can see it.
func TestASubjectOfAnUnknownIssuer(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	s.Send(transmitter.AccountDisabled(transmitter.IssSub(m.server.URL+"/", "user-1")))
	about := m.poll()
	require.Empty(t, s.Pending())
	require.Equal(t, m.server.URL+"/", about["unknown_issuer"])
	require.Contains(t, m.metrics(), `broker_signal_events_total{event="account-disabled",outcome="unknown_issuer",signal="s"} 1`)
	require.Empty(t, m.keys("frozen", nil))
}

// The token goes where it was written for: a write that would send it elsewhere brings it
// again, whoever decides where.
func TestAStreamsTokenIsNotSentElsewhereUnasked(t *testing.T) {
	m, _ := signalling(t, transmitter.Options{}, nil)
	other := transmitter.New(t, transmitter.Options{Now: m.clock.Now, Tokens: []string{streamToken}})
	for _, fields := range []map[string]any{
		{"issuer": other.URL},
		{"poll_url": other.PollURL(), "audience": transmitter.Audience},
		{"ca_pem": authserver.New(t, authserver.Options{TLS: true}).CAPEM},
	} {
		_, err := m.write("signals/s", fields)
		requireCode(t, err, fault.InvalidRequest, "write token")
	}
	for _, fields := range []map[string]any{
		{"issuer": other.URL, "token_provider": ""}, // an empty value brings nothing
		{"poll_url": other.PollURL(), "audience": transmitter.Audience, "token_provider": "", "token_request": ""},
	} {
		_, err := m.write("signals/s", fields)
		requireCode(t, err, fault.InvalidRequest, "write token")
	}
	require.Empty(t, other.Polls())
	m.must(m.write("signals/s", map[string]any{"issuer": other.URL, "token": streamToken}))
	m.poll()
	require.Len(t, other.Polls(), 2)
	require.NotEmpty(t, m.must(m.read("signals/s")).Data["token_sha256"])
}

// A stream that somebody else has set up: its events are signed by one of the trusted
// issuers, or by whoever the operator names.
func TestAStreamByHand(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	m.must(m.delete("signals/s", nil))
	require.Zero(t, s.Streams(), "the broker had made it")
	for name, fields := range map[string]map[string]any{
		"issuer":   {"issuer": s.URL},
		"jwks_url": {"issuer": s.URL, "jwks_url": s.KeysURL()},
	} {
		t.Run(name, func(t *testing.T) {
			written := map[string]any{"poll_url": s.PollURL(), "audience": transmitter.Audience, "token": streamToken}
			for field, value := range fields {
				written[field] = value
			}
			m.must(m.write("signals/s", written))
			m.clock.advance(time.Second)
			l := m.exchanged(alice, "user-1", name)
			s.Send(transmitter.SessionRevoked(m.user("user-1")))
			m.poll()
			m.dies(l)
			m.must(m.delete("signals/s", nil))
		})
	}
	m.must(m.write("signals/s", map[string]any{"poll_url": s.PollURL(), "audience": transmitter.Audience, "token": streamToken}))
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	m.poll()
	require.Len(t, s.Refused(), 1, "its iss is no trusted issuer's")
	m.must(m.write("issuers/t", map[string]any{"jwks_url": s.KeysURL(), "bound_issuer": s.URL, "bound_audiences": "broker"}))
	killed := `broker_signal_events_total{event="session-revoked",outcome="killed",signal="s"} `
	m.clock.advance(time.Second)
	l := m.exchanged(alice, "user-1", "z")
	foreign := s.Send(transmitter.SessionRevoked(m.user("user-1")))
	m.poll()
	require.Contains(t, s.Refused(), foreign, "an issuer speaks of its own subjects alone where nobody has named it as the transmitter")
	require.True(t, m.server.Active(l.token))
	s.Send(transmitter.SessionRevoked(transmitter.IssSub(s.URL, "user-1")))
	m.poll()
	require.Empty(t, s.Pending())
	require.Contains(t, m.metrics(), killed+"3", "two before, and this one")
	require.True(t, m.server.Active(l.token), "it is another issuer's user-1")
}

// One issuer that is not as it should be holds up nobody else's events.
func TestAnIssuerThatCannotBeOpenedHoldsUpNoEvents(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	m.must(m.write("issuers/a", map[string]any{"jwks_url": s.KeysURL(), "bound_issuer": "https://a.example.com", "bound_audiences": "broker"}))
	m.must(m.write("issuers/t", map[string]any{"jwks_url": s.KeysURL(), "bound_issuer": s.URL, "bound_audiences": "broker"}))
	m.must(m.write("signals/s", map[string]any{"issuer": "", "poll_url": s.PollURL(), "audience": transmitter.Audience, "token": streamToken}))
	entry, err := m.storage.Get(t.Context(), issuerPrefix+"a")
	require.NoError(t, err)
	entry.Value = bytes.Replace(entry.Value, []byte(`"bound_issuer"`), []byte(`"ca_pem":"nonsense","bound_issuer"`), 1)
	require.NoError(t, m.storage.Put(t.Context(), entry))
	m.b.invalidate(t.Context(), issuerPrefix+"a")
	_, err = m.b.issuers.opened(t.Context(), "a")
	require.Error(t, err)
	s.Send(transmitter.SessionRevoked(transmitter.IssSub(s.URL, "user-1")))
	require.Equal(t, signal.StateOK, m.poll()["health"])
	require.Empty(t, s.Pending())
	require.Empty(t, s.Refused())
}

// Two signals do not poll one stream, each getting what the other one does not.
func TestAStreamIsOneSignals(t *testing.T) {
	m, s := signalling(t, transmitter.Options{}, nil)
	requested := s.Requested()
	for _, fields := range []map[string]any{
		{"issuer": s.URL, "token": streamToken, "events": map[string]any{"session-revoked": "note"}},
		{"issuer": s.URL, "poll_url": s.PollURL(), "audience": transmitter.Audience, "token": streamToken},
	} {
		_, err := m.write("signals/other", fields)
		requireCode(t, err, fault.InvalidRequest, "signals/s polls this stream already")
	}
	require.Equal(t, requested, s.Requested(), "the stream is as it was")
	m.must(m.write("signals/s", map[string]any{"disabled": true}))
	m.must(m.write("signals/other", map[string]any{"issuer": s.URL, "token": streamToken}))
	_, err := m.write("signals/s", map[string]any{"disabled": false})
	requireCode(t, err, fault.InvalidRequest, "signals/other polls this stream already")
}

// The token of a stream can be another provider's child, which the broker gets, has renewed
// where it is refused, and kills when the signal goes.
func TestAStreamsTokenIsBorrowed(t *testing.T) {
	m := exchanging(t, nil)
	s := transmitter.New(t, transmitter.Options{Now: m.clock.Now, Accepts: m.server.Active})
	m.must(m.write("signals/s", map[string]any{"issuer": s.URL, "token_provider": "oauth2/p", "token_request": map[string]any{"scopes": []any{"read"}}}))
	l := m.exchanged(alice, "user-1", "a")
	s.Send(transmitter.SessionRevoked(m.user("user-1")))
	require.Equal(t, "ok", m.poll()["health"])
	m.dies(l)
	borrowers, err := m.b.providers.Borrowers(t.Context(), "oauth2/p")
	require.NoError(t, err)
	require.Equal(t, []string{"signals/s"}, borrowers, "so that it is not deleted from under the signal")
	first := s.Polls()[0].Token
	m.hide(first)
	m.server.Kill(first)
	require.Equal(t, "refused", m.poll()["health"])
	require.Equal(t, "ok", m.poll()["health"])
	polls := s.Polls()
	second := polls[len(polls)-1].Token
	m.hide(second)
	require.NotEqual(t, first, second)
	m.must(m.delete("signals/s", nil))
	require.Eventually(t, func() bool { return !m.server.Active(second) }, promptly, time.Millisecond)
	_, err = m.write("signals/t", map[string]any{"issuer": s.URL, "token_provider": "oauth2/none"})
	requireCode(t, err, fault.InvalidRequest, "oauth2/none")
}

// The memory of events is bounded in number and in the size of its entries.
func TestTheMemoryOfEventsIsBounded(t *testing.T) {
	m, s := signalling(t, transmitter.Options{WithoutVerification: true}, nil)
	for range 3 * seenPerPage {
		s.Send(transmitter.SessionRevoked(m.user("user-1")))
	}
	m.poll()
	m.poll()
	require.Empty(t, s.Pending())
	pages, err := m.storage.List(t.Context(), seenPrefix+"s/")
	require.NoError(t, err)
	require.LessOrEqual(t, len(pages), 4)
	require.GreaterOrEqual(t, len(pages), 3)
	m.clock.advance(61 * 24 * time.Hour)
	for range pages {
		s.Send(transmitter.SessionRevoked(m.user("user-1")))
		m.poll()
	}
	pages, err = m.storage.List(t.Context(), seenPrefix+"s/")
	require.NoError(t, err)
	require.Len(t, pages, 1, "what is past its time is forgotten")
	m.must(m.delete("signals/s", nil))
	pages, err = m.storage.List(t.Context(), seenPrefix)
	require.NoError(t, err)
	require.Empty(t, pages)
}

// listens has the mount listen to a transmitter of its own as the signal s.
func (m *mount) listens(o transmitter.Options, fields map[string]any) *transmitter.Server {
	m.t.Helper()
	m.hide(streamToken)
	o.Now, o.Tokens = m.clock.Now, []string{streamToken}
	s := transmitter.New(m.t, o)
	written := map[string]any{"issuer": s.URL, "token": streamToken}
	for name, value := range fields {
		written[name] = value
	}
	m.must(m.write("signals/s", written))
	return s
}

// Where an issuer says how its subjects relate to entities, an event about one of them
// reaches all that is the person's, and nobody else, without asking Vault about anybody.
func TestAnEventReachesThePersonBehindTheSubject(t *testing.T) {
	m := newPeople(t)
	s := m.listens(transmitter.Options{}, nil)
	own, again, agents := m.ownOf(alice), m.ownOf(alice2), m.ownOf(bob)
	onBehalf, others := m.behalf("alice", map[string]any{"employee": "7"}), m.behalf("dave", map[string]any{"employee": "8"})
	m.sweep()
	require.Empty(t, m.vault.whileAsked(func() {
		s.Send(transmitter.SessionRevoked(m.user("alice")))
		m.poll()
	})["EntityInfo"])
	require.Empty(t, s.Pending())
	require.Eventually(t, func() bool { return len(m.allGrants()) == 2 }, promptly, time.Millisecond)
	m.requireAlive(false, own, again, onBehalf)
	m.requireAlive(true, agents, others)
}

// An e-mail address names whoever an operator has said it names: by the alias or the
// metadata that a claim of that name is, only where the token's address was verified; also
// somebody who has nothing yet, if it is frozen.
func TestAnEventAboutAnAddress(t *testing.T) {
	m := newPeople(t)
	m.must(m.write("issuers/idp", map[string]any{"entity_claim": "", "entity_metadata": "", "entity_alias_claim": "email"}))
	m.setEntity(entityWith(carol, nil, loginMount, "carol@acme.example"))
	s := m.listens(transmitter.Options{}, nil)
	address := func(email string) map[string]any { return map[string]any{"format": "email", "email": email} }
	own := m.ownOf(carol)
	verified := m.behalf("c-1", map[string]any{"email": "carol@acme.example", "email_verified": true})
	claimed := m.behalf("m-1", map[string]any{"email": "carol@acme.example", "email_verified": false})
	m.sweep()
	s.Send(transmitter.SessionRevoked(address("carol@acme.example")))
	m.poll()
	require.Empty(t, s.Pending())
	require.Eventually(t, func() bool { return len(m.allGrants()) == 1 }, promptly, time.Millisecond)
	m.requireAlive(false, own, verified)
	m.requireAlive(true, claimed)

	s.Send(transmitter.SessionRevoked(address("nobody@acme.example")))
	s.Send(transmitter.AccountDisabled(address("dave@acme.example")))
	m.poll()
	require.Empty(t, s.Pending())
	require.Empty(t, s.Refused())
	require.Contains(t, m.metrics(), `broker_signal_events_total{event="session-revoked",outcome="nobody",signal="s"} 1`)
	_, err := m.tryBehalf("d-1", map[string]any{"email": "dave@acme.example", "email_verified": true})
	requireCode(t, err, fault.AccessDenied, "frozen")
	m.clock.advance(time.Second)
	thawed := m.person(map[string]any{"alias_name": "dave@acme.example", "alias_mount": loginMount, "freeze": false})
	require.NotContains(t, thawed.Data, "unknown")
	_, err = m.tryBehalf("d-1", map[string]any{"email": "dave@acme.example", "email_verified": true})
	require.NoError(t, err)

	m.must(m.write("issuers/idp", map[string]any{"entity_alias_claim": ""}))
	id := s.Send(transmitter.AccountDisabled(address("dave@acme.example")))
	m.poll()
	require.Contains(t, s.Refused()[id].Description, "email", "nobody has said whom an address names")
}

// Of several names each is enough: that one of them is many people's keeps nobody alive.
func TestAnEventWithANameThatManyShare(t *testing.T) {
	m := newPeople(t)
	m.must(m.write("issuers/idp", map[string]any{"entity_claim": "", "entity_metadata": map[string]any{"team": "email"}}))
	for i := range person.MostIdentities + 1 {
		id := fmt.Sprintf("entity-of-many-%03d", i)
		m.setEntity(entityWith(id, map[string]string{"team": "all@acme.example"}))
		m.ownOf(id)
	}
	s := m.listens(transmitter.Options{}, nil)
	m.behalf("alice", nil)
	m.sweep()
	team := map[string]any{"format": "email", "email": "all@acme.example"}
	only := s.Send(transmitter.SessionRevoked(team))
	s.Send(transmitter.SessionRevoked(map[string]any{"format": "aliases", "identifiers": []any{team, m.user("alice")}}))
	m.poll()
	require.Len(t, s.Refused(), 1)
	require.Contains(t, s.Refused(), only, "it is nobody's alone")
	require.Eventually(t, func() bool { return len(m.allGrants()) == person.MostIdentities+1 }, promptly, time.Millisecond)
	ids := m.keys("kills", nil)
	require.Len(t, ids, 1)
	record := m.must(m.read("kills/" + ids[0])).Data
	require.Contains(t, record["note"], "was left out")
	require.Equal(t, 1, record["grants"])
}

// The end of a session that comes while those that were known are read again is known after
// that.
func TestAnEndedSessionIsKnownWhateverIsReadMeanwhile(t *testing.T) {
	m := newMount(t, setup{})
	l, now := m.b.logoffs, m.clock.Now()
	known, comes := person.Subject("https://idp.example.com", "known"), person.Subject("https://idp.example.com", "comes")
	add := func(tie person.Tie) {
		full, err := l.add(t.Context(), tie, now, now.Add(time.Hour))
		require.NoError(t, err)
		require.False(t, full)
	}
	add(known)
	listed, added, read := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	m.storage.on(func(op, key string) error {
		switch {
		case op == "put" && key == logoffPrefix+logoffKey(comes):
			l.Invalidate(logoffPrefix + logoffKey(known)) // by another node
			go func() { read <- l.load(context.Background()) }()
			<-listed
		case op == "get" && key == logoffPrefix+logoffKey(known):
			close(listed)
			<-added
		}
		return nil
	})
	add(comes)
	close(added)
	require.NoError(t, <-read)
	m.storage.on(nil)
	for _, sub := range []string{"known", "comes"} {
		refusals, err := l.check(t.Context(), &subject.Token{Issuer: "https://idp.example.com", Subject: sub, IssuedAt: now})
		require.NoError(t, err)
		require.Len(t, refusals, 1, sub)
	}
}
