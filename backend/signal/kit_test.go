package signal_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

const streamToken = "STREAM-canary-7c6b5a4f3e2d"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a receiver and its transmitter, with a clock that only tests move.
type world struct {
	t      *testing.T
	server *transmitter.Server
	r      *signal.Receiver
	config signal.Config
	stream *signal.Stream

	mu      sync.Mutex
	clock   time.Time
	acted   []string // "<kind> <sub> <jti>"
	broken  error    // what acting fails with
	memory  map[string]time.Time
	forgets bool // the memory's storage fails
	counted map[string]int
	tokens  int // how often a token was asked for because one was refused
	token   string
}

func newWorld(t *testing.T, o transmitter.Options, change func(*signal.Config)) *world {
	t.Helper()
	w := &world{t: t, clock: noon, memory: map[string]time.Time{}, counted: map[string]int{}, token: streamToken}
	o.Now, o.Tokens = w.now, append(o.Tokens, streamToken)
	w.server = transmitter.New(t, o)
	w.config = signal.Config{Issuer: w.server.URL, Token: streamToken, AllowHTTP: true}
	if change != nil {
		change(&w.config)
	}
	w.setUp()
	return w
}

// setUp writes the signal anew.
func (w *world) setUp() {
	w.t.Helper()
	stream, err := w.config.SetUp(context.Background(), w.stream, true, func(ctx context.Context) (secret.Text, error) { return w.Token(ctx, false) })
	require.NoError(w.t, err)
	w.stream = stream
	w.restart()
}

// restart opens the same signal in another process.
func (w *world) restart() {
	w.t.Helper()
	r, err := signal.Open(w.config, *w.stream, signal.Deps{
		Now: w.now, Token: w.Token, Act: w.act, Memory: w,
		KeysOf: func(context.Context, string) (*jwks.Set, error) { return nil, signal.ErrForeign },
		Count:  func(kind, outcome string) { w.count(kind + " " + outcome) }, Failed: func(state string) { w.count("failed " + state) },
		Warn: func(message string, args ...any) { w.t.Log(append([]any{message}, args...)...) },
	})
	require.NoError(w.t, err)
	w.r = r
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counted[what]++
}

func (w *world) counts(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counted[what]
}

// Token is the stream's token.
func (w *world) Token(_ context.Context, refused bool) (secret.Text, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if refused {
		w.tokens++
	}
	if w.token == "" {
		return secret.Text{}, errors.New("no token")
	}
	return secret.New(w.token), nil
}

func (w *world) act(_ context.Context, e *signal.Event) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return "", w.broken
	}
	for _, name := range e.Subject.Names {
		w.acted = append(w.acted, e.Kind+" "+name.Subject+name.Value)
	}
	return signal.OutcomeKilled, nil
}

// Knows implements signal.Memory.
func (w *world) Knows(_ context.Context, id string) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, known := w.memory[id]
	return known, nil
}

// Remember implements signal.Memory.
func (w *world) Remember(_ context.Context, handled []signal.Handled) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.forgets {
		return errors.New("the storage fails")
	}
	for _, h := range handled {
		w.memory[h.ID] = h.Until
	}
	return nil
}

// turn is one turn that does not hold the poll.
func (w *world) turn() time.Duration { return w.r.Turn(context.Background(), true) }

func (w *world) effects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.acted...)
}

var user = transmitter.IssSub("https://idp.example.com", "user-1")

type (
	transmitterWriter  = http.ResponseWriter
	transmitterRequest = http.Request
)

func writeJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func (w *world) tokenOnly(ctx context.Context) (secret.Text, error) { return w.Token(ctx, false) }

// restful is a turn that asks for no sign of life.
func (w *world) restful() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.r.Turn(ctx, false)
}
