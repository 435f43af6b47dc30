package signal

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const (
	// hold is for how long a transmitter may hold a poll until there is an event.
	hold = 30 * time.Second
	// noSoonerHeld is the least for which a poll was held that ends without an answer.
	noSoonerHeld = 5 * time.Second
	// shortFor is for how long no poll is held any more after one was for too long.
	shortFor = time.Hour
	// maxRounds is how many polls follow each other without a pause, and roundsPause the
	// pause after that: a stream without an end is one stream's, and nobody else's.
	maxRounds   = 40
	roundsPause = time.Second
	// maxBackoff bounds the pause between attempts that fail.
	maxBackoff = 2 * time.Minute
	// heldUp is for how long what a poll brings may be worked upon.
	heldUp = 5 * time.Minute
	// maxLater is how many SETs are remembered that could not be judged yet.
	maxLater = 1000
	// verificationPatience is how long an answer to a verification may take.
	verificationPatience = 5 * time.Minute
)

// What became of a SET, as it is counted.
const (
	OutcomeKilled     = "killed"
	OutcomeFrozen     = "frozen"
	OutcomeNoted      = "noted"
	OutcomeUnknown    = "unknown_issuer" // its subject is of an issuer that is not trusted here
	OutcomeNobody     = "nobody"         // who is meant has no identity here
	OutcomeDuplicate  = "duplicate"
	OutcomeRefused    = "refused"   // it is no SET, or not the transmitter's
	OutcomeUnhandled  = "unhandled" // its subject cannot be told
	OutcomeLater      = "later"     // its signer's keys could not be had yet
	OutcomeFailed     = "failed"    // what it means could not be made durable
	OutcomeStreamSays = "stream"    // a verification, or a change of the stream's status
)

// Handled is one SET that was handled, for the memory.
type Handled struct {
	ID string
	// Until is when the SET could not be taken any more anyway.
	Until time.Time
}

// Memory remembers which SETs were handled, across restarts.
type Memory interface {
	Knows(ctx context.Context, id string) (bool, error)
	// Remember is durable when it returns.
	Remember(ctx context.Context, handled []Handled) error
}

// Deps is what a receiver needs of the rest.
type Deps struct {
	Now func() time.Time
	// Token is the stream's; refused says that the one before was not taken.
	Token func(ctx context.Context, refused bool) (secret.Text, error)
	// Act does what the event means for those whom it is about, durably, and says what
	// that was. A *Refusal is told to the transmitter; on any other error the SET is not
	// acknowledged, and so comes again.
	Act    func(ctx context.Context, e *Event) (outcome string, err error)
	Memory Memory
	// KeysOf are the keys of a trusted issuer, for a stream without one of its own. The
	// error is ErrForeign if there is none of that iss.
	KeysOf func(ctx context.Context, iss string) (*jwks.Set, error)
	// Count counts what became of a SET. kind is one of Kinds, or OtherKind.
	Count func(kind, outcome string)
	// Failed counts a poll that failed; Warn is for the log.
	Failed func(state string)
	Warn   func(message string, args ...any)
}

// Receiver receives one stream. It is safe for concurrent use; only one poll is under way
// at a time.
type Receiver struct {
	config Config
	stream Stream
	deps   Deps
	client *httpclient.Client // for short exchanges
	poller *httpclient.Client // for polls that are held
	keys   *jwks.Set
	trust  Trust
	turn   chan struct{}

	mu      sync.Mutex
	status  Status
	acks    map[string]bool
	errs    map[string]setErr
	later   map[string]time.Time // since when a SET could not be judged
	told    map[string]bool      // of which the transmitter was told that they are not taken
	noted   map[string]bool      // that were handled, and are in no memory because they change nothing
	failing int                  // turns that failed, one after the other
	short   time.Time            // until when no poll is held
	probing bool                 // a held poll was not answered: is the transmitter there?
	refused bool                 // the token was not taken
	asked   verification
	held    context.CancelFunc // of the held poll that is under way, nil if none is
	hurried int                // how many wait for a turn, so that no poll is held
}

// verification is the sign of life that was asked for.
type verification struct {
	state string // "" if none is awaited
	at    time.Time
}

// Status is how a stream is.
type Status struct {
	State string
	// Says is why it is not ok.
	Says string
	// Stream is the status that the transmitter gave the stream, "" if it has not said.
	Stream, StreamReason string
	// LastPoll is when the last poll was answered, LastEvent when the last event came that
	// was new, LastVerified when the last sign of life came that was asked for.
	Began, LastPoll, LastEvent, LastVerified time.Time
	// Verifies reports whether signs of life can be asked for.
	Verifies bool
	// UnknownIssuer is the last issuer of a subject whom nobody here trusts.
	UnknownIssuer string
	// Ahead is by how much the transmitter's clock is ahead of ours, 0 if it is not.
	Ahead time.Duration
}

// Open makes a Receiver. Nothing is fetched before the first Turn. Errors are *fault.Error
// with invalid_request.
func Open(c Config, s Stream, d Deps) (*Receiver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	client, err := c.client(0)
	if err != nil {
		return nil, err
	}
	poller, err := c.client(hold)
	if err != nil {
		return nil, err
	}
	r := &Receiver{
		config: c.WithDefaults(), stream: s, deps: d, turn: make(chan struct{}, 1),
		client: client.To(s.Destinations()), poller: poller.To(s.Destinations()),
		acks: map[string]bool{}, errs: map[string]setErr{}, later: map[string]time.Time{}, told: map[string]bool{}, noted: map[string]bool{},
		status: Status{State: StateUnknown, Began: d.Now(), Verifies: s.VerificationURL != "" && s.ID != ""},
	}
	switch {
	case c.JWKSPEM != "":
		if r.keys, err = jwks.Static([]byte(c.JWKSPEM)); err != nil { // Validate saw it already
			return nil, invalid("jwks_pem: %s", err)
		}
	case s.JWKSURL != "":
		public := client.Public()
		r.keys = jwks.New(func(ctx context.Context) ([]byte, error) { return fetchKeys(ctx, public, s.JWKSURL) }, d.Now)
	}
	r.trust = Trust{Audiences: s.Audiences, KeysOf: r.keysOf}
	return r, nil
}

func (r *Receiver) keysOf(ctx context.Context, iss string) (*jwks.Set, error) {
	switch {
	case r.config.Issuer == "" && iss != "":
		return r.deps.KeysOf(ctx, iss)
	case r.config.Issuer != iss || iss == "":
		return nil, ErrForeign
	}
	return r.keys, nil
}

// KeepFresh begins to fetch keys that have become stale, and waits for nothing.
func (r *Receiver) KeepFresh(ctx context.Context) {
	if r.keys != nil {
		r.keys.KeepFresh(ctx)
	}
}

// Turn polls until the transmitter has nothing more, handles what comes, and says how long
// to wait until the next turn. It returns early if ctx ends; what came of the transmitter
// by then and is not handled comes again. byHand neither holds the poll nor heeds a pause.
func (r *Receiver) Turn(ctx context.Context, byHand bool) (next time.Duration) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return r.config.PollInterval
	}
	r.trust.impatient = false
	r.askForLife(ctx, byHand)
	for range maxRounds {
		pause, more := r.round(ctx, byHand)
		if !more || ctx.Err() != nil {
			return pause
		}
	}
	return roundsPause
}

// PollNow is a turn at once, whatever the loop is about to do: a poll that is held is given
// up, and nothing is lost by it.
func (r *Receiver) PollNow(ctx context.Context) {
	r.mu.Lock()
	held := r.held
	r.hurried++
	r.mu.Unlock()
	if held != nil {
		held()
	}
	r.Turn(ctx, true)
	r.mu.Lock()
	r.hurried--
	r.mu.Unlock()
}

// round is one poll.
func (r *Receiver) round(ctx context.Context, byHand bool) (pause time.Duration, more bool) {
	p := r.outgoing(byHand)
	started := time.Now()
	answer, err := r.poll(ctx, p)
	if err != nil {
		if r.letGo(p, err) {
			return 0, true
		}
		return r.failed(ctx, err, !p.Immediately && time.Since(started) > noSoonerHeld), false
	}
	r.answered(p)
	progress, stuck := r.take(ctx, answer)
	if stuck {
		return r.backOff(0), false
	}
	r.well()
	if progress {
		// What was handled is acknowledged at once, so that it is not sent again.
		return 0, answer.more || answer.cut || r.owes()
	}
	return max(0, r.config.PollInterval-time.Since(started)), false
}

func (r *Receiver) poll(ctx context.Context, p request) (*polled, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !p.Immediately {
		r.mayGiveUp(cancel)
		defer r.mayGiveUp(nil)
	}
	bearer, err := r.token(ctx)
	if err != nil {
		return nil, &pollError{state: StateRefused, says: "there is no token for the stream: " + fault.Public(err), cause: err}
	}
	client := r.client
	if !p.Immediately {
		client = r.poller
	}
	return poll(ctx, client, r.stream.PollURL, bearer, p)
}

// token is the stream's, another one than that which was refused, for which it is asked once.
func (r *Receiver) token(ctx context.Context) (secret.Text, error) {
	r.mu.Lock()
	refused := r.refused
	r.refused = false
	r.mu.Unlock()
	return r.deps.Token(ctx, refused)
}

// mayGiveUp has PollNow give up the poll that is under way.
func (r *Receiver) mayGiveUp(cancel context.CancelFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = cancel
}

// outgoing is the next poll: what was handled is acknowledged by it.
func (r *Receiver) outgoing(byHand bool) request {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := request{Max: maxEvents, Ack: slices.Sorted(maps.Keys(r.acks)), Errors: maps.Clone(r.errs)}
	p.Ack = p.Ack[:min(len(p.Ack), maxTaken)]
	p.Immediately = byHand || r.hurried > 0 || r.probing || r.deps.Now().Before(r.short) || r.failing > 0 || r.status.LastPoll.IsZero()
	return p
}

// letGo reports whether a poll failed that may succeed without some of what it said: the
// transmitter takes no setErrs perhaps, or no acknowledgement of what it knows no more. Else
// it would be sent the same for ever, and deliver nothing. What is refused is acknowledged
// then, and an acknowledgement left out until the SET comes again.
func (r *Receiver) letGo(p request, err error) bool {
	var failed *pollError
	if !errors.As(err, &failed) || !failed.unwanted || len(p.Ack)+len(p.Errors) == 0 {
		return false
	}
	r.deps.Failed(failed.state)
	r.deps.Warn("a transmitter of security events does not take what it was told of those that came: it is told less", "error", failed.says, "acknowledged", len(p.Ack), "refused", len(p.Errors))
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(p.Errors) == 0 {
		for _, id := range p.Ack {
			delete(r.acks, id)
		}
		return true
	}
	for id := range p.Errors {
		delete(r.errs, id)
		r.acks[id] = true
	}
	return true
}

// owes reports whether something is to be acknowledged.
func (r *Receiver) owes() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acks)+len(r.errs) > 0
}

// answered notes that the transmitter has got what the poll said.
func (r *Receiver) answered(p request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range p.Ack {
		delete(r.acks, id)
	}
	for id := range p.Errors {
		delete(r.errs, id)
	}
	if r.probing { // it answers, but holds polls for longer than we do
		r.probing, r.short = false, r.deps.Now().Add(shortFor)
	}
	r.failing = 0
	r.status.LastPoll = r.deps.Now()
}

// well notes that nothing of what came is left.
func (r *Receiver) well() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.State, r.status.Says = StateOK, ""
}

// failed notes why a poll brought nothing, and says when to try again. Where the poll was
// held, perhaps it is only that somebody in between does not wait as long as we do: one
// that is not held tells.
func (r *Receiver) failed(ctx context.Context, err error, held bool) time.Duration {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return r.config.PollInterval // it was given up
	}
	e := &pollError{state: StateUnreachable, says: "the poll failed"}
	errors.As(err, &e)
	r.mu.Lock()
	if held && e.state == StateUnreachable && e.wait == 0 {
		r.probing = true
		r.mu.Unlock()
		return 0
	}
	r.probing, r.refused = false, e.state == StateRefused
	r.status.State, r.status.Says = e.state, e.says
	r.mu.Unlock()
	r.deps.Failed(e.state)
	r.deps.Warn("a stream of security events could not be polled", "state", e.state, "error", e.says, "cause", e.cause)
	return r.backOff(e.wait)
}

// backOff is the pause after a turn that failed, longer with each.
func (r *Receiver) backOff(asked time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := r.config.PollInterval << min(r.failing, 10)
	r.failing++
	return max(min(pause, maxBackoff), asked)
}

// take handles what came. progress reports whether anything of it is done with, stuck
// whether something is not, and comes again.
func (r *Receiver) take(ctx context.Context, answer *polled) (progress, stuck bool) {
	for _, name := range answer.odd {
		progress = r.refuse(name, OtherKind, refuse(codeRequest, "the SET is no text")) || progress
	}
	events, news, stuck := r.judge(ctx, answer)
	progress = progress || news
	var handled []Handled
	var done []string
	for _, e := range events {
		outcome, err := r.act(ctx, e)
		var refusal *Refusal
		switch {
		case errors.As(err, &refusal):
			progress = r.refuse(e.ID, e.kind(), refusal) || progress
			continue
		case err != nil:
			stuck = true
			r.stuckOn(e, err)
			continue
		}
		r.deps.Count(e.kind(), outcome)
		if outcome == OutcomeKilled || outcome == OutcomeFrozen {
			handled = append(handled, Handled{ID: e.ID, Until: latest(e.IssuedAt, r.deps.Now()).Add(MaxAge)})
		} else {
			r.note(e.ID)
		}
		done = append(done, e.ID)
	}
	if len(handled) > 0 {
		if err := r.deps.Memory.Remember(ctx, handled); err != nil {
			r.stuckOn(events[len(events)-1], err)
			return false, true
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range done {
		r.acks[id] = true
		delete(r.later, kept(id))
	}
	return progress || len(done) > 0, stuck
}

// judge finds out which of what came are events that are new, in the order in which they
// were made. What cannot be judged yet is stuck; news is what is refused for the first time.
func (r *Receiver) judge(ctx context.Context, answer *polled) (events []*Event, news, stuck bool) {
	for _, name := range slices.Sorted(maps.Keys(answer.sets)) {
		known, err := r.knows(ctx, name)
		if err != nil {
			r.stuckOn(&Event{ID: name}, err)
			return nil, false, true
		}
		if known {
			r.deps.Count(OtherKind, OutcomeDuplicate)
			r.mu.Lock()
			r.acks[name] = true
			r.mu.Unlock()
			continue
		}
		e, err := r.trust.Verify(ctx, name, answer.sets[name], r.deps.Now())
		var refusal *Refusal
		switch {
		case err == nil:
			events = append(events, e)
		case errors.As(err, &refusal) && r.mayWait(name, refusal):
			stuck = true
		case refusal != nil:
			news = r.refuse(name, OtherKind, refusal) || news
		}
	}
	slices.SortFunc(events, func(a, b *Event) int { return cmp.Or(a.IssuedAt.Compare(b.IssuedAt), cmp.Compare(a.ID, b.ID)) })
	return events, news, stuck
}

// knows reports whether a SET was handled before.
func (r *Receiver) knows(ctx context.Context, id string) (bool, error) {
	r.mu.Lock()
	noted := r.noted[id]
	r.mu.Unlock()
	if noted {
		return true, nil
	}
	return r.deps.Memory.Knows(ctx, id)
}

// note remembers for a while, in this process alone, what has changed nothing: it would do
// no harm a second time, but would keep a transmitter busy that sends it for ever.
func (r *Receiver) note(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.noted) >= maxLater {
		clear(r.noted)
	}
	r.noted[id] = true
}

// mayWait reports whether a SET that cannot be judged yet is waited for.
func (r *Receiver) mayWait(id string, why *Refusal) bool {
	if !why.Later {
		return false
	}
	now := r.deps.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	id = kept(id)
	since, known := r.later[id]
	if !known {
		if len(r.later) >= maxLater {
			clear(r.later)
		}
		r.later[id], since = now, now
	}
	if why.Last > 0 && now.Sub(since) >= why.Last {
		delete(r.later, id)
		return false
	}
	r.status.State, r.status.Says = StateFailing, "events wait: "+why.Description
	r.deps.Count(OtherKind, OutcomeLater)
	return true
}

// refuse tells the transmitter with the next poll that a SET is not taken. It reports
// whether that is new: one that sends it again all the same is told again, at its pace.
func (r *Receiver) refuse(id, kind string, why *Refusal) bool {
	r.mu.Lock()
	again := r.told[kept(id)]
	if len(r.told) >= maxLater {
		clear(r.told)
	}
	r.told[kept(id)], r.errs[id] = true, setErr{Code: why.Code, Description: why.Description}
	r.mu.Unlock()
	if again {
		return false
	}
	outcome := OutcomeRefused
	if kind != OtherKind {
		outcome = OutcomeUnhandled
	}
	r.deps.Count(kind, outcome)
	r.deps.Warn("a security event was not taken", "jti", bounded(id), "event", kind, "code", why.Code, "error", why.Description)
	return true
}

// stuckOn notes that what an event means could not be made durable.
func (r *Receiver) stuckOn(e *Event, err error) {
	r.deps.Count(e.kind(), OutcomeFailed)
	r.deps.Warn("a security event could not be handled, and is not acknowledged: it comes again", "jti", bounded(e.ID), "event", e.URI, "error", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.State, r.status.Says = StateFailing, "events cannot be handled now, and are not acknowledged"
}

// act does what an event means.
func (r *Receiver) act(ctx context.Context, e *Event) (string, error) {
	switch e.URI {
	case eventVerification:
		r.lives(e)
		return OutcomeStreamSays, nil
	case eventStreamUpdated:
		r.updated(e)
		return OutcomeStreamSays, nil
	}
	now := r.deps.Now()
	r.mu.Lock()
	r.status.LastEvent = now
	r.status.Ahead = max(0, e.IssuedAt.Sub(now))
	r.mu.Unlock()
	if e.Kind == "" || ActionOn(r.config.Events, e) == Note {
		return OutcomeNoted, nil
	}
	if e.Unreadable != nil {
		return "", Unhandled("%s", e.Unreadable)
	}
	if len(e.Subject.Names) == 0 {
		return "", Unhandled("%s", e.Subject.Other)
	}
	return r.deps.Act(ctx, e)
}

func (e *Event) kind() string { return cmp.Or(e.Kind, OtherKind) }

// Status is how the stream is now.
func (r *Receiver) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	switch {
	case r.config.Disabled:
		s.State, s.Says = StateDisabled, ""
	case s.State != StateOK:
	case r.overdueLocked():
		s.State, s.Says = StateFailing, "no poll has ended for longer than one may take, and none has failed: something holds it up, such as Vault's storage"
	case s.Stream != "" && s.Stream != "enabled":
		s.State, s.Says = StatePaused, "the transmitter has paused or disabled the stream"
	case r.silentLocked():
		s.State, s.Says = StateSilent, "no verification event came: the transmitter answers polls, and delivers nothing"
	}
	return s
}

// overdueLocked reports whether the next poll should long have been answered or have failed.
// The caller holds mu.
func (r *Receiver) overdueLocked() bool {
	return r.deps.Now().Sub(r.status.LastPoll) > r.config.PollInterval+hold+r.config.Timeout+heldUp
}

// NoteUnknownIssuer is for Act: the subject is of an issuer who is not trusted here.
func (r *Receiver) NoteUnknownIssuer(iss string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.UnknownIssuer = bounded(iss)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// kept is the name of a SET as it is remembered: it may be long, and is somebody else's text.
func kept(name string) string {
	if len(name) <= 64 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return string(sum[:])
}

// bounded is somebody else's text for a log or a read.
func bounded(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
