// Package jwks verifies signed tokens (JWS, RFC 7515, in compact form) with the
// keys of one issuer (JWK sets, RFC 7517, or PEM). It judges signatures and
// nothing else: claims, their times and their audience are the caller's.
//
// What it defends against: "none" and HMAC with a public key (RFC 8725 2.1, 3.1),
// keys that travel inside the token, a token that names the algorithm of another
// key, tokens and key sets of absurd size, and floods of unknown key ids, each of
// which would otherwise cost the issuer a request.
package jwks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// The bounds that hold for every Set.
const (
	// MaxToken is the longest token that is looked at, in bytes.
	MaxToken = 16 << 10
	// MaxDocument is the largest key set that is read, in bytes.
	MaxDocument = 512 << 10
	// MaxKeys is how many keys of a set are used; more is an error.
	MaxKeys = 100
	// RefreshEvery bounds what unknown keys cost the issuer: one fetch in this time.
	RefreshEvery = time.Minute
	// RetryAfterFailure is the same while no keys are known at all.
	RetryAfterFailure = 5 * time.Second
	// PatientEvery is the same for VerifyPatiently, whose tokens no stranger chooses.
	PatientEvery = time.Second
	// StaleAfter is when keys are fetched again although they still serve: nobody
	// waits for that.
	StaleAfter = time.Hour
	// DeadAfter is when keys are no longer trusted, because for that long the
	// issuer could not be asked whether it has withdrawn them.
	DeadAfter = 24 * time.Hour

	fetchTimeout = 30 * time.Second
)

// The ways in which Verify fails.
var (
	// ErrInvalid: the token is no signed token, or its signature is not the issuer's.
	ErrInvalid = errors.New("the token is not validly signed")
	// ErrUnknownKey: the token names a key that the issuer did not publish when
	// it was last asked. It is also an ErrInvalid.
	ErrUnknownKey = fmt.Errorf("%w: unknown key", ErrInvalid)
	// ErrUnavailable: the issuer's keys could not be had, so nothing is known of
	// the token.
	ErrUnavailable = errors.New("the issuer's keys are not available")
	// ErrTooSoon: none of the keys fits that the issuer published a moment ago, and it
	// is not asked again yet. It may have rotated since, so this proves nothing. It is
	// also an ErrUnavailable.
	ErrTooSoon = fmt.Errorf("%w: they were fetched a moment ago, and are not fetched again yet", ErrUnavailable)
)

// Set is the keys of one issuer, safe for concurrent use.
type Set struct {
	fetch func(context.Context) ([]byte, error)
	now   func() time.Time
	pause func(context.Context, time.Duration) error // waits; tests put another in

	mu        sync.Mutex // guards what follows; never held across a fetch
	keys      []key
	flight    chan struct{} // the fetch under way, closed when it has ended; nil if none is
	fetched   time.Time     // when keys was had; zero before the first success
	attempted time.Time     // when a fetch last ended
	ended     int           // how many fetches have ended
	lastErr   error         // of the last fetch; nil after a success
}

// New makes a Set whose document fetch returns: a JSON Web Key Set or PEM public
// keys. Nothing is fetched before the first Verify. fetch's errors must hold no
// secret.
func New(fetch func(context.Context) ([]byte, error), now func() time.Time) *Set {
	return &Set{fetch: fetch, now: now, pause: pause}
}

// Static makes a Set of a document that never changes: a JSON Web Key Set or one
// or more PEM public keys or certificates.
func Static(document []byte) (*Set, error) {
	keys, err := parseDocument(document, true)
	if err != nil {
		return nil, err
	}
	return &Set{keys: keys}, nil
}

// Verify checks the signature of compact with a key of the set and one of the
// allowed algorithms, and returns the signed payload. Its errors wrap ErrInvalid,
// ErrUnknownKey, ErrUnavailable or ErrTooSoon, or are ctx's.
func (s *Set) Verify(ctx context.Context, compact string, allowed []jwa.SignatureAlgorithm) ([]byte, Header, error) {
	return verified(compact, func(t *Token) error { return s.VerifyToken(ctx, t, allowed) })
}

// VerifyToken is Verify for a token that has been taken apart already.
func (s *Set) VerifyToken(ctx context.Context, t *Token, allowed []jwa.SignatureAlgorithm) error {
	return s.verify(ctx, t, allowed, s.renewed)
}

// VerifyPatiently is Verify for a token that came from the issuer itself and will die
// if it cannot be verified: if no key fits, the keys are fetched once more, for which it
// waits up to PatientEvery. It never answers ErrTooSoon.
func (s *Set) VerifyPatiently(ctx context.Context, compact string, allowed []jwa.SignatureAlgorithm) ([]byte, Header, error) {
	return verified(compact, func(t *Token) error { return s.VerifyTokenPatiently(ctx, t, allowed) })
}

// VerifyTokenPatiently is VerifyPatiently for a token that has been taken apart already.
func (s *Set) VerifyTokenPatiently(ctx context.Context, t *Token, allowed []jwa.SignatureAlgorithm) error {
	return s.verify(ctx, t, allowed, s.renewedPatiently)
}

// verified is what compact holds, if it is a token that verify has nothing against.
func verified(compact string, verify func(*Token) error) ([]byte, Header, error) {
	t, err := Parse(compact)
	if err == nil {
		err = verify(t)
	}
	if err != nil {
		return nil, Header{}, err
	}
	return t.Payload, t.Header, nil
}

func (s *Set) verify(ctx context.Context, t *Token, allowed []jwa.SignatureAlgorithm, renew func(context.Context, error) ([]key, error)) error {
	if !slices.Contains(algorithms, t.Header.Algorithm) || !slices.Contains(allowed, t.Header.Algorithm) {
		return malformed("the token's algorithm (alg) is not allowed")
	}
	keys, fresh, err := s.current(ctx)
	if err != nil {
		return err
	}
	verifyErr := t.verifyWith(keys)
	if verifyErr == nil || s.fetch == nil || fresh {
		return verifyErr
	}
	// The issuer may have new keys, also under an old id or none.
	keys, err = renew(ctx, verifyErr)
	if err != nil {
		return err
	}
	return t.verifyWith(keys)
}

// current returns the keys, fetched first if there are none that are trusted. Stale
// ones serve while they are fetched anew: an issuer that hangs must not hold up tokens
// whose keys it has published before.
func (s *Set) current(ctx context.Context) (keys []key, fresh bool, err error) {
	if s.fetch == nil {
		return s.keys, false, nil
	}
	s.KeepFresh(ctx)
	if keys, trusted := s.trusted(); trusted {
		return keys, false, nil
	}
	fetchErr := s.refresh(ctx)
	keys, trusted := s.trusted()
	if trusted {
		return keys, fetchErr == nil, nil
	}
	if fetchErr == nil || errors.Is(fetchErr, ErrTooSoon) {
		fetchErr = s.lastError()
	}
	return nil, false, unavailable(fetchErr)
}

// KeepFresh begins to fetch stale keys, for which nobody waits: at most one fetch is
// under way, and it is bounded. Called about once a minute, it keeps the keys of an
// issuer that answers from being much older than StaleAfter, asked for or not.
func (s *Set) KeepFresh(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetch != nil && !s.fetched.IsZero() && s.now().Sub(s.fetched) >= StaleAfter {
		s.beginLocked(ctx, RefreshEvery)
	}
}

// Fetched is when the keys were last had of the issuer; zero if they never were, or were
// written.
func (s *Set) Fetched() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched
}

// trusted returns the keys, and whether they may still serve.
func (s *Set) trusted() ([]key, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys, !s.fetched.IsZero() && s.now().Sub(s.fetched) < DeadAfter
}

func (s *Set) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastErr
}

// renewed returns the keys after a fetch, if the bound allows one. If the last
// fetch failed nobody knows whether the issuer has the key that was not found, and
// our own bound is no proof against the token either. Only a signature that is not that
// of the very key that the token names is wrong whatever the issuer has published since.
func (s *Set) renewed(ctx context.Context, verifyErr error) ([]key, error) {
	err := s.refresh(ctx)
	if errors.Is(err, ErrTooSoon) {
		if last := s.lastError(); last != nil {
			return nil, unavailable(last)
		}
		if errors.Is(verifyErr, errNotThatKeys) || errors.Is(verifyErr, errOtherKind) {
			return nil, verifyErr
		}
		return nil, ErrTooSoon
	}
	if err != nil {
		return nil, unavailable(err)
	}
	keys, _ := s.trusted()
	return keys, nil
}

// renewedPatiently is renewed, but that it waits for a fetch where it is too soon for
// another one, whatever came of the last: for one that begins now or, if one has just
// ended, in a moment.
func (s *Set) renewedPatiently(ctx context.Context, _ error) ([]key, error) {
	err := s.refresh(ctx)
	if err == nil {
		keys, _ := s.trusted()
		return keys, nil
	}
	if !errors.Is(err, ErrTooSoon) {
		return nil, unavailable(err)
	}
	s.mu.Lock()
	before, flight := s.ended, s.beginLocked(ctx, PatientEvery)
	s.mu.Unlock()
	if flight == nil {
		if err := s.pause(ctx, PatientEvery); err != nil {
			return nil, unavailable(err)
		}
		s.mu.Lock()
		if s.ended == before { // else somebody else has had them fetched meanwhile
			flight = s.beginLocked(ctx, 0)
		}
		s.mu.Unlock()
	}
	if flight != nil {
		err = s.await(ctx, flight)
	} else {
		err = s.lastError()
	}
	if err != nil {
		return nil, unavailable(err)
	}
	keys, _ := s.trusted()
	return keys, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refresh fetches the keys unless that was done too recently. Concurrent callers
// share one fetch; it outlives a caller who gives up.
func (s *Set) refresh(ctx context.Context) error {
	s.mu.Lock()
	wait := RefreshEvery
	if s.fetched.IsZero() {
		wait = RetryAfterFailure
	}
	flight := s.beginLocked(ctx, wait)
	s.mu.Unlock()
	if flight == nil {
		return ErrTooSoon
	}
	return s.await(ctx, flight)
}

// await waits for a fetch to end, and says how it did.
func (s *Set) await(ctx context.Context, flight <-chan struct{}) error {
	select {
	case <-flight:
		return s.lastError()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beginLocked returns the fetch under way, which it begins if none is; nil if the last
// one ended less than wait ago. The caller holds mu.
func (s *Set) beginLocked(ctx context.Context, wait time.Duration) <-chan struct{} {
	if s.flight != nil || (!s.attempted.IsZero() && s.now().Sub(s.attempted) < wait) {
		return s.flight
	}
	s.flight = make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		s.load(ctx)
	}()
	return s.flight
}

// load fetches and parses once. What it cannot use leaves the old keys standing, but for
// a key set without keys: the issuer has withdrawn them.
func (s *Set) load(ctx context.Context) {
	document, err := s.fetch(ctx)
	var keys []key
	if err == nil {
		keys, err = parseDocument(document, false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempted, s.lastErr = s.now(), err
	s.ended++
	if err == nil || errors.Is(err, errNoKeys) && !s.fetched.IsZero() {
		s.keys, s.fetched = keys, s.attempted
	}
	close(s.flight)
	s.flight = nil
}

func unavailable(cause error) error {
	switch {
	case cause == nil:
		return ErrUnavailable
	case errors.Is(cause, context.Canceled), errors.Is(cause, ErrUnavailable):
		return cause
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}

// These are certain whatever the issuer has published since: it has a key of the id that
// the token names, and that one has not signed it, or could not have.
var (
	errNotThatKeys = fmt.Errorf("%w: the signature is not that of the key that it names", ErrInvalid)
	errOtherKind   = fmt.Errorf("%w: the key that it names is of another kind", ErrUnknownKey)
)

// errUnsupported is of an algorithm for which there is no verifier.
var errUnsupported = fmt.Errorf("%w: its algorithm is not supported", ErrInvalid)

// verify is nil if k has signed t, once k serves.
func (k key) verify(t *Token) error {
	seen := t.digest()
	if k.good.has(seen) {
		return nil
	}
	verifier, err := jws.NewVerifier(t.Header.Algorithm)
	if err != nil {
		return fmt.Errorf("%w: %s", errUnsupported, t.Header.Algorithm)
	}
	if err := verifier.Verify(t.signed, t.signature, k.public); err != nil {
		return err
	}
	k.good.add(seen)
	return nil
}

// verifyWith tries the keys that t may be signed with: those of its key id, and
// those without one.
func (t *Token) verifyWith(keys []key) error {
	found, named := false, false
	for _, k := range keys {
		named = named || k.id != "" && k.id == t.Header.KeyID
		if !k.serves(t.Header) {
			continue
		}
		found = true
		err := k.verify(t)
		if err == nil || errors.Is(err, errUnsupported) {
			return err
		}
	}
	switch {
	case !found && named:
		return errOtherKind
	case !found:
		return ErrUnknownKey
	case named:
		return errNotThatKeys
	}
	return ErrInvalid
}
