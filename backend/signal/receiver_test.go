package signal_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

// An event is acted upon once, and acknowledged with the next poll.
func TestAnEventIsActedUponAndAcknowledged(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	id := w.server.Send(transmitter.SessionRevoked(user))
	w.turn()
	require.Equal(t, []string{"session-revoked user-1"}, w.effects())
	require.Empty(t, w.server.Pending())
	require.Contains(t, w.server.Acknowledged(), id)
	require.Empty(t, w.server.Refused())
	require.Equal(t, signal.StateOK, w.r.Status().State)
	require.Equal(t, 1, w.counts("session-revoked killed"))
}

// The stream is made when the signal is written: for the events that the operator wants,
// at an issuer with a path, too, wherever its metadata are.
func TestAStreamIsSetUp(t *testing.T) {
	for name, o := range map[string]transmitter.Options{
		"plain": {}, "path": {Path: "/realms/acme"}, "appended": {Path: "/realms/acme", Appended: true}, "there already": {Exists: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, o, func(c *signal.Config) {
				c.Events = map[string]string{"session-revoked": "kill", "account-disabled": "freeze"}
			})
			require.Equal(t, []string{transmitter.RISC + "account-disabled", transmitter.CAEP + "session-revoked"}, w.server.Requested())
			require.Equal(t, []string{transmitter.Audience}, w.stream.Audiences)
			require.Equal(t, !o.Exists, w.stream.Created, "one that was there is not ours to delete")
			w.setUp()
			require.Equal(t, !o.Exists, w.stream.Created, "written again it is the same one")
			require.NoError(t, w.config.TearDown(context.Background(), w.stream, w.tokenOnly))
			require.Equal(t, o.Exists, w.server.Streams() == 1)
		})
	}
}

// A SET that comes again is acknowledged again and acted upon once, in another process too;
// and a transmitter that takes no acknowledgement is not asked without a pause.
func TestAcknowledgementsThatNeverArrive(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	w.server.Send(transmitter.SessionRevoked(user))
	w.server.Break(w.server.Forgetful())
	for range 3 {
		require.GreaterOrEqual(t, w.turn(), time.Second)
		w.restart()
	}
	require.Len(t, w.effects(), 1)
	require.Less(t, len(w.server.Polls()), 20)
	w.server.Break(nil)
	w.turn()
	w.turn()
	require.Empty(t, w.server.Pending())
	require.Len(t, w.effects(), 1)
}

// What cannot be made durable is not acknowledged, and comes again.
func TestWhatFailsIsNotAcknowledged(t *testing.T) {
	for name, fail := range map[string]func(w *world, is bool){
		"the kill": func(w *world, is bool) {
			w.broken = nil
			if is {
				w.broken = errors.New("Vault's storage fails")
			}
		},
		"the memory": func(w *world, is bool) { w.forgets = is },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, transmitter.Options{WithoutVerification: true}, nil)
			id := w.server.Send(transmitter.SessionRevoked(user))
			fail(w, true)
			require.GreaterOrEqual(t, w.turn(), time.Second)
			w.turn()
			require.Equal(t, []string{id}, w.server.Pending())
			require.Equal(t, signal.StateFailing, w.r.Status().State)
			fail(w, false)
			w.turn()
			require.Empty(t, w.server.Pending())
			require.NotEmpty(t, w.effects())
			require.Equal(t, signal.StateOK, w.r.Status().State)
		})
	}
}

// What is none of the transmitter's SETs is refused by name, acts on nothing, and does not
// keep what comes with it from being acted upon.
func TestWhatIsNoEventIsRefused(t *testing.T) {
	claims := func(name string, value any) func(w *world) string {
		return func(w *world) string {
			e := transmitter.SessionRevoked(user)
			e.Claims = map[string]any{name: value}
			return w.server.Send(e)
		}
	}
	typed := func(typ string) func(w *world) string {
		return func(w *world) string {
			id, c := w.server.Claims(transmitter.SessionRevoked(user))
			w.server.Deliver(id, w.server.Sign(typ, c))
			return id
		}
	}
	raw := func(compact string) func(w *world) string {
		return func(w *world) string { w.server.Deliver("odd", compact); return "odd" }
	}
	event := transmitter.CAEP + "session-revoked"
	for name, test := range map[string]struct {
		send func(w *world) string
		code string
	}{
		"another audience":     {claims("aud", "https://other.example.com"), "invalid_audience"},
		"no audience":          {claims("aud", nil), "invalid_audience"},
		"another issuer":       {claims("iss", "https://evil.example.com"), "invalid_issuer"},
		"no issuer":            {claims("iss", nil), "invalid_issuer"},
		"an end":               {claims("exp", noon.Add(time.Hour).Unix()), "invalid_request"},
		"a sub":                {claims("sub", "user-1"), "invalid_request"},
		"no iat":               {claims("iat", nil), "invalid_request"},
		"stale":                {claims("iat", noon.Add(-31*24*time.Hour).Unix()), "invalid_request"},
		"of another year":      {claims("iat", noon.Add(365*24*time.Hour).Unix()), "invalid_request"},
		"another jti":          {claims("jti", "not-the-key"), "invalid_request"},
		"no events":            {claims("events", nil), "invalid_request"},
		"two events":           {claims("events", map[string]any{event: map[string]any{}, transmitter.RISC + "account-purged": map[string]any{}}), "invalid_request"},
		"an event of no shape": {claims("events", map[string]any{event: "yes"}), "invalid_request"},
		"no subject":           {claims("sub_id", nil), "invalid_request"},
		"a subject of a phone": {claims("sub_id", map[string]any{"format": "phone_number", "phone_number": "+1"}), "invalid_request"},
		"a subject in excess":  {claims("sub_id", map[string]any{"format": "iss_sub", "iss": "i", "sub": "s", "email": "e"}), "invalid_request"},
		"two subjects":         {claims("events", map[string]any{event: map[string]any{"subject": transmitter.IssSub("https://idp.example.com", "another")}}), "invalid_request"},
		"a session of nobody":  {claims("sub_id", map[string]any{"format": "complex", "session": map[string]any{"format": "opaque", "id": "s"}}), "invalid_request"},
		"an access token":      {typed("at+jwt"), "invalid_request"},
		"no type":              {typed(""), "invalid_request"},
		"a logout token":       {typed("logout+jwt"), "invalid_request"},
		"no text":              {raw("eyJhbGciOiJub25lIn0.e30."), "invalid_request"},
		"alg none":             {raw("eyJhbGciOiJub25lIiwidHlwIjoic2VjZXZlbnQrand0In0.e30.AA"), "authentication_failed"},
		"HMAC":                 {raw("eyJhbGciOiJIUzI1NiIsInR5cCI6InNlY2V2ZW50K2p3dCJ9.e30.AA"), "authentication_failed"},
		"too large":            {raw(strings.Repeat("a", 17<<10)), "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, transmitter.Options{}, nil)
			id := test.send(w)
			w.server.Send(transmitter.SessionRevoked(transmitter.IssSub("https://idp.example.com", "the next")))
			w.turn()
			require.Equal(t, []string{"session-revoked the next"}, w.effects())
			require.Equal(t, test.code, w.server.Refused()[id].Code)
			require.Empty(t, w.server.Pending())
			require.Equal(t, signal.StateOK, w.r.Status().State)
		})
	}
}

// A signature of another key under the same name is no signature.
func TestAForgedEventIsRefused(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	evil := transmitter.New(t, transmitter.Options{Now: w.now})
	evil.Rotate() // so that its key is called as the other's
	w.server.Rotate()
	id, claims := w.server.Claims(transmitter.SessionRevoked(user))
	w.server.Deliver(id, evil.Sign("secevent+jwt", claims))
	w.turn()
	require.Empty(t, w.effects())
	require.Equal(t, "authentication_failed", w.server.Refused()[id].Code)
}

// Whoever rotates may publish the new key a little later: no event is lost over that, and a
// key that never comes is not waited for without an end.
func TestAKeyThatIsNotPublishedYet(t *testing.T) {
	w := newWorld(t, transmitter.Options{WithoutVerification: true}, nil)
	w.server.Send(transmitter.SessionRevoked(user))
	w.turn()
	w.server.Rotate()
	w.server.Unpublish()
	second := w.server.Send(transmitter.SessionRevoked(transmitter.IssSub("https://idp.example.com", "user-2")))
	require.GreaterOrEqual(t, w.turn(), time.Second)
	require.Equal(t, []string{second}, w.server.Pending(), "neither acknowledged nor refused")
	require.Equal(t, signal.StateFailing, w.r.Status().State)
	w.server.Publish()
	w.pass(time.Minute)
	w.turn()
	require.Empty(t, w.server.Pending())
	require.Len(t, w.effects(), 2)

	w.server.Rotate()
	w.server.Unpublish()
	third := w.server.Send(transmitter.SessionRevoked(user))
	w.turn()
	w.pass(11 * time.Minute)
	w.turn()
	require.Equal(t, "invalid_key", w.server.Refused()[third].Code)
	require.Len(t, w.effects(), 2)
}

// A key that is published is found at once.
func TestARotationAtTheTransmitterHoldsUpNothing(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	w.server.Send(transmitter.SessionRevoked(user))
	w.turn()
	w.server.Rotate()
	w.server.Send(transmitter.SessionRevoked(user))
	w.turn()
	require.Len(t, w.effects(), 2)
}

// What is no answer of a poll is believed in nothing, and asked for again after a pause.
func TestNonsenseIsNoAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		fault transmitter.Fault
		state string
	}{
		"a page":           {transmitter.Answer(200, "text/html", "<!doctype html><title>Sign in</title>"), signal.StateInvalid},
		"nothing":          {transmitter.Answer(200, "application/json", ""), signal.StateInvalid},
		"no sets":          {transmitter.Answer(200, "application/json", `{"moreAvailable":true}`), signal.StateInvalid},
		"sets of no shape": {transmitter.Answer(200, "application/json", `{"sets":["a"]}`), signal.StateInvalid},
		"a set twice":      {transmitter.Answer(200, "application/json", `{"sets":{"a":"b","a":"c"}}`), signal.StateInvalid},
		"more of no shape": {transmitter.Answer(200, "application/json", `{"sets":{},"moreAvailable":"perhaps"}`), signal.StateInvalid},
		"a redirect":       {transmitter.Answer(302, "text/html", ""), signal.StateInvalid},
		"a refusal":        {transmitter.Answer(401, "application/json", "{}"), signal.StateRefused},
		"no right":         {transmitter.Answer(403, "application/json", "{}"), signal.StateRefused},
		"no stream":        {transmitter.Answer(404, "application/json", "{}"), signal.StateGone},
		"a failure":        {transmitter.Answer(503, "text/plain", "no"), signal.StateUnreachable},
		"no answer":        {transmitter.Lost(), signal.StateUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, transmitter.Options{}, nil)
			w.server.Break(test.fault)
			w.server.Send(transmitter.SessionRevoked(user))
			require.GreaterOrEqual(t, w.turn(), time.Second)
			require.Equal(t, test.state, w.r.Status().State)
			require.NotEmpty(t, w.r.Status().Says)
			require.Empty(t, w.effects())
			w.server.Break(nil)
			w.turn()
			require.Len(t, w.effects(), 1, "no event is lost over it")
			require.Equal(t, signal.StateOK, w.r.Status().State)
		})
	}
}

// An answer without anything is also one that says so in fewer words than RFC 8936 has.
func TestNothingIsAnAnswer(t *testing.T) {
	for name, fault := range map[string]transmitter.Fault{
		"no content": func(w transmitterWriter, _ *transmitterRequest, _ *transmitter.Poll, _ func() map[string]any) {
			w.WriteHeader(http.StatusNoContent)
		},
		"null": transmitter.Answer(200, "application/json", `{"sets":null,"moreAvailable":false}`),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, transmitter.Options{}, nil)
			w.server.Break(fault)
			w.turn()
			require.Equal(t, signal.StateOK, w.r.Status().State)
			w.server.Send(transmitter.SessionRevoked(user))
			w.server.Break(nil)
			w.turn()
			require.Len(t, w.effects(), 1)
		})
	}
}

// A transmitter that takes no setErrs, or no acknowledgement of what it has forgotten, is
// not told the same for ever: it delivers all the same, and that is counted.
func TestATransmitterThatDoesNotTakeWhatItIsTold(t *testing.T) {
	refusing := func(does func(p *transmitter.Poll) bool) transmitter.Fault {
		return func(w transmitterWriter, _ *transmitterRequest, p *transmitter.Poll, act func() map[string]any) {
			if does(p) {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			writeJSON(w, act())
		}
	}
	t.Run("setErrs", func(t *testing.T) {
		w := newWorld(t, transmitter.Options{}, nil)
		w.server.Break(refusing(func(p *transmitter.Poll) bool { return len(p.SetErrs) > 0 }))
		w.server.Deliver("nonsense", "no SET")
		w.turn()
		w.server.Send(transmitter.SessionRevoked(user))
		w.turn()
		require.Len(t, w.effects(), 1)
		require.Empty(t, w.server.Pending())
		require.Contains(t, w.server.Acknowledged(), "nonsense")
		require.Equal(t, signal.StateOK, w.r.Status().State)
		require.Equal(t, 1, w.counts("failed invalid"))
	})
	t.Run("acknowledgements", func(t *testing.T) {
		w := newWorld(t, transmitter.Options{}, nil)
		first := w.server.Send(transmitter.SessionRevoked(user))
		w.server.Break(func(rw transmitterWriter, _ *transmitterRequest, p *transmitter.Poll, act func() map[string]any) {
			switch {
			case !slices.Contains(p.Ack, first):
				writeJSON(rw, act())
			case slices.Contains(w.server.Acknowledged(), first):
				rw.WriteHeader(http.StatusBadRequest) // it knows of none such
			default:
				act() // and the answer does not arrive
				rw.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		w.turn()
		require.Equal(t, 1, w.counts("failed unreachable"))
		w.server.Send(transmitter.SessionRevoked(user))
		w.turn()
		require.Len(t, w.effects(), 2)
		require.Empty(t, w.server.Pending())
		require.Equal(t, signal.StateOK, w.r.Status().State)
	})
	t.Run("anything", func(t *testing.T) {
		w := newWorld(t, transmitter.Options{}, nil)
		w.server.Break(refusing(func(*transmitter.Poll) bool { return true }))
		w.turn()
		require.Equal(t, signal.StateInvalid, w.r.Status().State)
		require.Equal(t, 1, w.counts("failed invalid"))
	})
}

// A transmitter that is busy is left alone for as long as it asks, and no longer than an hour.
func TestABusyTransmitterIsLeftAlone(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	w.server.Break(transmitter.Busy(10 * time.Minute))
	require.Equal(t, 10*time.Minute, w.turn())
	w.server.Break(transmitter.Busy(1000 * time.Hour))
	require.Equal(t, time.Hour, w.turn())
}

// Failures come further and further apart.
func TestFailuresBackOff(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, func(c *signal.Config) { c.PollInterval = 10 * time.Second })
	w.server.Break(transmitter.Answer(500, "", ""))
	var pauses []time.Duration
	for range 6 {
		pauses = append(pauses, w.turn())
	}
	require.Equal(t, []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 2 * time.Minute, 2 * time.Minute}, pauses)
}

// A stream that always says that there is more is asked at its pace once nothing comes.
func TestMoreWithoutAnEnd(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	w.server.Break(transmitter.Endless())
	w.server.Send(transmitter.SessionRevoked(user))
	require.GreaterOrEqual(t, w.turn(), time.Second)
	require.Len(t, w.effects(), 1)
	require.Less(t, len(w.server.Polls()), 6)
}

// A stream that brings new SETs without an end gets a turn's polls, and then somebody else.
func TestEventsWithoutAnEnd(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	w.server.Tolerate()
	n := 0
	w.server.Break(func(rw transmitterWriter, _ *transmitterRequest, _ *transmitter.Poll, act func() map[string]any) {
		n++
		w.server.Deliver(fmt.Sprintf("bad-%d", n), "no SET")
		body := act()
		body["moreAvailable"] = true
		writeJSON(rw, body)
	})
	require.Equal(t, time.Second, w.turn())
	require.Less(t, len(w.server.Polls()), 60)
}

// Ten thousand events in one answer, whatever was asked for: more than is read of any
// answer. What has come whole is taken, so that each answer brings it further.
func TestAFloodIsTakenPieceByPiece(t *testing.T) {
	w := newWorld(t, transmitter.Options{WithoutVerification: true}, nil)
	w.server.Break(transmitter.Flood())
	const all = 4000
	for i := range all {
		w.server.Send(transmitter.SessionRevoked(transmitter.IssSub("https://idp.example.com", fmt.Sprintf("user-%d", i))))
	}
	for range 10 {
		if w.turn(); len(w.server.Pending()) == 0 {
			break
		}
	}
	require.Empty(t, w.server.Pending())
	require.Len(t, w.effects(), all)
}

// A token that is refused is asked for anew, once for each refusal.
func TestARefusedTokenIsAskedForAnew(t *testing.T) {
	w := newWorld(t, transmitter.Options{WithoutVerification: true}, nil)
	w.turn()
	w.server.Forbid(streamToken)
	w.server.Allow("another-token")
	w.turn()
	require.Equal(t, signal.StateRefused, w.r.Status().State)
	require.Zero(t, w.tokens)
	w.token = "another-token"
	w.turn()
	require.Equal(t, 1, w.tokens)
	require.Equal(t, signal.StateOK, w.r.Status().State)
	w.turn()
	require.Equal(t, 1, w.tokens)
}

// A transmitter that answers polls and delivers nothing is found out: no sign of life comes.
func TestSilenceIsLoud(t *testing.T) {
	w := newWorld(t, transmitter.Options{}, nil)
	w.r.Turn(context.Background(), true)
	require.False(t, w.r.Status().LastVerified.IsZero())
	w.server.Silence(true)
	w.pass(31 * time.Minute)
	w.turn()
	require.Equal(t, signal.StateOK, w.r.Status().State, "it may take a while")
	w.pass(6 * time.Minute)
	w.restful()
	require.Equal(t, signal.StateSilent, w.r.Status().State)
	w.server.Silence(false)
	w.pass(30 * time.Minute)
	w.turn()
	require.Equal(t, signal.StateOK, w.r.Status().State)
}

// A stream that the transmitter has paused says so, by an event or when it is asked.
func TestAPausedStreamIsLoud(t *testing.T) {
	for _, tells := range []bool{true, false} {
		t.Run(fmt.Sprintf("tells=%t", tells), func(t *testing.T) {
			w := newWorld(t, transmitter.Options{}, nil)
			w.turn()
			w.server.SetStatus("paused", "maintenance", tells)
			w.turn()
			require.Equal(t, signal.StatePaused, w.r.Status().State)
			w.server.SetStatus("enabled", "", tells)
			w.turn()
			require.Equal(t, signal.StateOK, w.r.Status().State)
		})
	}
}

// Where the clocks differ, no event is lost over it.
func TestTheClocksDiffer(t *testing.T) {
	for name, by := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, transmitter.Options{}, nil)
			e := transmitter.SessionRevoked(user)
			e.IssuedAt = noon.Add(by)
			w.server.Send(e)
			w.turn()
			require.Len(t, w.effects(), 1)
			require.Equal(t, max(0, by), w.r.Status().Ahead)
		})
	}
}

// A poll is held by the transmitter until there is an event.
func TestAPollIsHeld(t *testing.T) {
	w := newWorld(t, transmitter.Options{Hold: time.Minute, WithoutVerification: true}, nil)
	w.turn()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			w.r.Turn(ctx, false)
		}
	}()
	require.Eventually(t, func() bool { polls := w.server.Polls(); return !polls[len(polls)-1].ReturnImmediately }, time.Minute, time.Millisecond)
	w.server.Send(transmitter.SessionRevoked(user))
	require.Eventually(t, func() bool { return len(w.effects()) == 1 }, time.Minute, time.Millisecond)
	held := func() bool { polls := w.server.Polls(); return !polls[len(polls)-1].ReturnImmediately }
	require.Eventually(t, held, time.Minute, time.Millisecond)
	began := time.Now()
	w.r.PollNow(ctx)
	require.Less(t, time.Since(began), 25*time.Second, "nobody waits for what is held")
	require.Zero(t, w.counts("failed unreachable"))
	cancel()
	<-done
	require.Equal(t, signal.StateOK, w.r.Status().State, "a poll that we give up has not failed")
}

// A stream that nobody polls any more, because something holds up the loop, is not well, nor
// one without signs of life.
func TestAStreamThatIsHeldUpIsLoud(t *testing.T) {
	w := newWorld(t, transmitter.Options{WithoutVerification: true}, nil)
	w.turn()
	w.pass(5 * time.Minute)
	require.Equal(t, signal.StateOK, w.r.Status().State)
	w.pass(time.Minute)
	require.Equal(t, signal.StateFailing, w.r.Status().State)
	require.Contains(t, w.r.Status().Says, "holds it up")
	w.turn()
	require.Equal(t, signal.StateOK, w.r.Status().State)
}
