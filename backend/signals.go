package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const signalPrefix = "signal/"

var signalForm = form.Kind{Name: "signal"}

// storedSignal is a signal with what was found when it was written.
type storedSignal struct {
	signal.Config
	Stream signal.Stream `json:"stream"`
}

// signals are the transmitters of security events: as they are stored, and listened to.
// Events are fetched in the background, by the active node alone: a loop for each signal,
// so that none waits for another. After a change of leader the next node fetches again what
// was not acknowledged, and knows from storage what was handled.
type signals struct {
	*stored.Keeper[storedSignal]
	b    *broker
	seen *seenEvents
	// byHand keeps the loops from running: a test polls by itself.
	byHand bool

	mu        sync.Mutex
	listeners map[string]*listener
	ended     bool
}

// listener is a receiver and the loop in which it polls.
type listener struct {
	receiver *signal.Receiver
	cancel   context.CancelFunc
	wake     chan struct{} // has the loop poll now
}

func newSignals(storage logical.Storage, b *broker) *signals {
	s := &signals{
		Keeper: stored.NewKeeper(storage, signalPrefix, stored.KindOf[storedSignal](signalForm)),
		b:      b, seen: newSeenEvents(storage, b.now), listeners: map[string]*listener{},
	}
	s.OnChange(s.drop)
	return s
}

// Invalidate drops what is in memory of a signal that another node has written, or of its
// memory of events.
func (s *signals) Invalidate(key string) bool {
	return s.Keeper.Invalidate(key) || s.seen.Invalidate(key)
}

// loan is what the signal borrows for its token, nil for nothing.
func (e *storedSignal) loan() *provider.Loan {
	if e.TokenProvider == "" {
		return nil
	}
	return &provider.Loan{Provider: e.TokenProvider, Request: e.TokenRequest}
}

// borrower is the signal's name among all that may borrow.
func borrowerSignal(name string) string { return "signals/" + name }

// loans are what the signals borrow.
func (s *signals) loans(ctx context.Context) (map[string]downstream.Borrowing, error) {
	names, err := s.List(ctx, "")
	if err != nil {
		return nil, err
	}
	loans := map[string]downstream.Borrowing{}
	for _, name := range names {
		entry, err := s.Get(ctx, name)
		if errors.Is(err, stored.ErrAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if loan := entry.loan(); loan != nil {
			loans[borrowerSignal(name)] = downstream.Borrowing{Loan: *loan, Idle: entry.Disabled}
		}
	}
	return loans, nil
}

// token has the stream's token at hand: the stored one, or the one that is borrowed, which
// is got anew once it was refused.
func (s *signals) token(name string, entry *storedSignal) func(ctx context.Context, refused bool) (secret.Text, error) {
	loan := entry.loan()
	if loan == nil {
		stored := secret.New(entry.Token)
		return func(context.Context, bool) (secret.Text, error) { return stored, nil }
	}
	var mu sync.Mutex
	var last secret.Text
	return func(ctx context.Context, refused bool) (secret.Text, error) {
		var not secret.Text
		mu.Lock()
		if refused {
			not = last
		}
		mu.Unlock()
		token, err := s.b.lender.lend(ctx, borrowerSignal(name), *loan, not)
		if err == nil {
			mu.Lock()
			last = token
			mu.Unlock()
		}
		return token, err
	}
}

// listener returns the one of a signal, and begins its loop if there is none yet. The error
// is stored.ErrAbsent if there is no such signal.
func (s *signals) listener(ctx context.Context, name string) (*listener, error) {
	s.mu.Lock()
	l := s.listeners[name]
	s.mu.Unlock()
	if l != nil {
		return l, nil
	}
	entry, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	var receiver *signal.Receiver
	receiver, err = signal.Open(entry.Config, entry.Stream, signal.Deps{
		Now: s.b.now, Token: s.token(name, entry), Memory: s.seen.of(name), KeysOf: s.keysOf,
		Act: func(ctx context.Context, e *signal.Event) (string, error) {
			return s.b.heed(ctx, name, entry, receiver, e)
		},
		Count:  func(kind, outcome string) { s.b.meters.signalEvents.WithLabelValues(name, kind, outcome).Inc() },
		Failed: func(state string) { s.b.meters.signalFailures.WithLabelValues(name, state).Inc() },
		Warn: func(message string, args ...any) {
			s.b.Logger().Warn(message, append([]any{"signal", name}, args...)...)
		},
	})
	if err != nil {
		return nil, err
	}
	return s.begin(name, entry, receiver), nil
}

// begin has the loop run, unless somebody else has begun it meanwhile.
func (s *signals) begin(name string, entry *storedSignal, receiver *signal.Receiver) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[name]; l != nil {
		return l
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{receiver: receiver, cancel: cancel, wake: make(chan struct{}, 1)}
	s.listeners[name] = l
	if entry.Disabled || s.byHand || s.ended {
		cancel()
		return l
	}
	go s.listen(ctx, l)
	return l
}

// idlePause is how long a loop waits that may not poll.
const idlePause = 5 * time.Second

// listen polls until the signal is written anew or the engine ends.
func (s *signals) listen(ctx context.Context, l *listener) {
	for ctx.Err() == nil {
		pause := idlePause
		if s.mayListen() {
			pause = l.receiver.Turn(ctx, false)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// mayListen reports whether this node may act upon events: it can write, and the mount
// stays.
func (s *signals) mayListen() bool {
	return s.b.WriteSafeReplicationState() && !s.b.System().Tainted()
}

// tend begins to listen to what nobody listens to, and looks after keys. It is called about
// once a minute on the active node, and whenever a signal was written.
func (s *signals) tend(ctx context.Context) {
	names, err := s.List(ctx, "")
	if err != nil {
		s.b.Logger().Warn("the signals could not be read: their events wait", "error", err)
		return
	}
	for _, name := range names {
		l, err := s.listener(ctx, name)
		switch {
		case errors.Is(err, stored.ErrAbsent):
		case err != nil:
			s.b.Logger().Warn("a signal cannot be listened to", "signal", name, "error", err)
		default:
			l.receiver.KeepFresh(ctx)
		}
	}
}

// drop ends the loop of a signal that has changed.
func (s *signals) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[name]; l != nil {
		l.cancel()
		delete(s.listeners, name)
	}
}

// end ends all loops for good.
func (s *signals) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, l := range s.listeners {
		l.cancel()
	}
}

// keysOf are the keys of a trusted issuer, by its iss.
func (s *signals) keysOf(ctx context.Context, iss string) (*jwks.Set, error) {
	names, err := s.b.issuers.List(ctx, "")
	if err != nil {
		return nil, err
	}
	foreign := signal.ErrForeign
	for _, name := range names {
		i, err := s.b.issuers.opened(ctx, name)
		switch {
		case errors.Is(err, stored.ErrAbsent):
		case err != nil:
			foreign = err // it may be this one, but holds up nobody else's events
		case i.URL() == iss:
			return i.Keys(), nil
		}
	}
	return nil, foreign
}

// replace judges what was made of a signal, has its stream set up, and stores it unless
// somebody has changed it meanwhile. brought says that the token was written with it.
func (s *signals) replace(ctx context.Context, name string, before, after *storedSignal, brought, setUp bool) error {
	if err := downstream.CheckCAPEM(after.CAPEM); err != nil {
		return err
	}
	if err := after.Validate(); err != nil {
		return err
	}
	if after.JWKSPEM != "" {
		if err := subject.CheckKeys(after.JWKSPEM); err != nil {
			return err
		}
	}
	loan := after.loan()
	if loan != nil && (before == nil || !loan.Same(before.loan())) {
		if err := s.b.providers.MayBorrow(ctx, borrowerSignal(name), *loan); err != nil {
			return err
		}
	}
	if err := s.mayPoll(ctx, name, after); err != nil {
		return err
	}
	if setUp {
		var stream *signal.Stream
		if before != nil {
			stream = &before.Stream
		}
		token := s.token(name, after)
		found, err := after.SetUp(ctx, stream, brought, func(ctx context.Context) (secret.Text, error) { return token(ctx, false) })
		if err != nil {
			return err
		}
		after.Stream = *found
		if err := s.mayPoll(ctx, name, after); err != nil {
			return err
		}
	}
	store := func() error { return s.Replace(ctx, name, before, after) }
	if loan == nil {
		return store()
	}
	return s.b.providers.Borrow(ctx, borrowerSignal(name), *loan, store)
}

// mayPoll refuses a stream that another signal polls: each event would come to one of the
// two alone, and be lost to the other.
func (s *signals) mayPoll(ctx context.Context, name string, entry *storedSignal) error {
	names, err := s.List(ctx, "")
	if err != nil || entry.Disabled {
		return err
	}
	for _, other := range names {
		if other == name {
			continue
		}
		polls, err := s.Get(ctx, other)
		switch {
		case errors.Is(err, stored.ErrAbsent), stored.Unreadable(err):
		case err != nil:
			return err
		case !polls.Disabled && polls.hasStreamOf(entry):
			return fault.New(fault.InvalidRequest, "signals/%s polls this stream already, and each event comes to one of the two alone: delete or disable that one, or bring a token, and so a stream, of this one's own", other)
		}
	}
	return nil
}

// hasStreamOf reports whether two signals are the same receiver at the same place, or poll
// the same stream.
func (e *storedSignal) hasStreamOf(other *storedSignal) bool {
	same := e.Token == other.Token && e.loan().Same(other.loan())
	switch {
	case same && e.Issuer == other.Issuer && e.PollURL == other.PollURL:
		return true
	case e.Stream.PollURL == "" || e.Stream.PollURL != other.Stream.PollURL:
		return false
	}
	return same || e.Stream.ID != "" && e.Stream.ID == other.Stream.ID
}
