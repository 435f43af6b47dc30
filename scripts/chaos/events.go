package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

const (
	idpIssuer   = "https://idp.chaos.test"
	idpAudience = "https://vault.chaos.test"
	idpToken    = "the-token-of-the-stream-of-the-fault-run"
)

// idp is an identity provider: it says who users are, and by a transmitter of security
// events that their sessions are over.
type idp struct {
	*transmitter.Server
	key *ecdsa.PrivateKey

	mu   sync.Mutex
	sent map[string]kill // by jti
}

func newIDP(t harness.TB) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("the identity provider's key: %v", err)
	}
	return &idp{Server: transmitter.New(t, transmitter.Options{Tokens: []string{idpToken}, Hold: 20 * time.Second}), key: key, sent: map[string]kill{}}
}

// connect has the broker trust and listen.
func (i *idp) connect(t harness.TB, broker *harness.Mount) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatalf("the identity provider's key: %v", err)
	}
	broker.Write(t, "issuers/idp", harness.Fields{
		"jwks_pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "bound_issuer": idpIssuer, "bound_audiences": idpAudience,
	})
	broker.Write(t, "signals/idp", harness.Fields{"issuer": i.URL, "token": idpToken, "events": harness.Fields{"session-revoked": "kill"}, "poll_interval": "1s", "timeout": "3s"})
}

// login is a token about a user.
func (i *idp) login(user string) string {
	token := jwt.New()
	now := time.Now()
	for name, value := range map[string]any{"iss": idpIssuer, "aud": idpAudience, "sub": user, "iat": now.Unix(), "exp": now.Add(12 * time.Hour).Unix()} {
		_ = token.Set(name, value)
	}
	signed, err := jwt.Sign(token, jwt.WithKey(jwa.ES256, i.key))
	if err != nil {
		panic(err)
	}
	return string(signed)
}

// signal sends events, and spoils their delivery, until ctx ends.
func (w *world) signal(ctx context.Context) error {
	faults := map[Kind]transmitter.Fault{
		EventsForgotten: w.idp.Forgetful(), EventsLost: transmitter.Lost(), EventsBusy: transmitter.Busy(time.Second), EventsWithoutEnd: transmitter.Endless(),
		EventsNonsense: transmitter.Answer(http.StatusOK, "text/html", "<!doctype html><title>Sign in</title>"),
	}
	for step := range sequence(w.options.Seed, "events", eventSteps, eventTempo) {
		if pause(ctx, step.Pause); ctx.Err() != nil {
			return nil
		}
		if step.Kind == SessionRevoked {
			user := "user-of-" + w.clients[int(step.Pick)%len(w.clients)].name
			w.history.begin(step.Kind, "", user)()
			w.idp.revoke(user)
			continue
		}
		end := w.history.begin(step.Kind, "events", "")
		w.idp.Break(faults[step.Kind])
		pause(ctx, step.For)
		w.idp.Break(nil)
		end()
	}
	return nil
}

// revoke says that a user's session is over.
func (i *idp) revoke(user string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	began := time.Now()
	id := i.Send(transmitter.SessionRevoked(transmitter.IssSub(idpIssuer, user)))
	i.sent[id] = kill{Kind: SessionRevoked, Subject: user, Began: began}
}

// awaitEvents waits until every event was acknowledged: none may be lost.
func (w *world) awaitEvents(t harness.TB) {
	t.Helper()
	harness.Eventually(t, settleTimeout, "every security event is acknowledged", func() error {
		if pending := w.idp.Pending(); len(pending) > 0 {
			return fmt.Errorf("%d are not", len(pending))
		}
		return nil
	})
	for id, why := range w.idp.Refused() {
		w.problem("the event %s was refused: %s", id, why.Description)
	}
}

// kills are what the events were to end, each done when it was acknowledged.
func (i *idp) kills() []kill {
	i.mu.Lock()
	defer i.mu.Unlock()
	var all []kill
	for id, k := range i.sent {
		k.Answered = i.AcknowledgedAt(id)
		all = append(all, k)
	}
	return all
}
