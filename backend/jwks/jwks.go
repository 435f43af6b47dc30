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
)

// Set is the keys of one issuer, safe for concurrent use.
type Set struct {
	fetch func(context.Context) ([]byte, error)
	now   func() time.Time

	mu        sync.Mutex // guards what follows; never held across a fetch
	keys      []key
	flight    chan struct{} // the fetch under way, closed when it has ended; nil if none is
	fetched   time.Time     // when keys was had; zero before the first success
	attempted time.Time     // when a fetch last ended
	lastErr   error         // of the last fetch; nil after a success
}

// New makes a Set whose document fetch returns: a JSON Web Key Set or PEM public
// keys. Nothing is fetched before the first Verify. fetch's errors must hold no
// secret.
func New(fetch func(context.Context) ([]byte, error), now func() time.Time) *Set {
	return &Set{fetch: fetch, now: now}
}

// Static makes a Set of a document that never changes: a JSON Web Key Set or one
// or more PEM public keys or certificates.
func Static(document []byte) (*Set, error) {
	keys, err := parseDocument(document)
	if err != nil {
		return nil, err
	}
	return &Set{keys: keys}, nil
}

// Verify checks the signature of compact with a key of the set and one of the
// allowed algorithms, and returns the signed payload. Its errors wrap ErrInvalid,
// ErrUnknownKey or ErrUnavailable, or are ctx's.
func (s *Set) Verify(ctx context.Context, compact string, allowed []jwa.SignatureAlgorithm) ([]byte, Header, error) {
	t, err := parseToken(compact, allowed)
	if err != nil {
		return nil, Header{}, err
	}
	keys, fresh, err := s.current(ctx)
	if err != nil {
		return nil, Header{}, err
	}
	verifyErr := t.verifyWith(keys)
	if verifyErr == nil {
		return t.payload, t.header, nil
	}
	if s.fetch == nil || fresh {
		return nil, Header{}, verifyErr
	}
	// The issuer may have new keys, also under an old id or none.
	keys, err = s.renewed(ctx)
	if err != nil {
		return nil, Header{}, err
	}
	if err := t.verifyWith(keys); err != nil {
		return nil, Header{}, err
	}
	return t.payload, t.header, nil
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
	if fetchErr == nil || errors.Is(fetchErr, errTooSoon) {
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
		s.beginLocked(ctx)
	}
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
// fetch failed nobody knows whether the issuer has the key that was not found.
func (s *Set) renewed(ctx context.Context) ([]key, error) {
	if err := s.refresh(ctx); err != nil && !errors.Is(err, errTooSoon) {
		return nil, unavailable(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastErr != nil {
		return nil, unavailable(s.lastErr)
	}
	return s.keys, nil
}

var errTooSoon = errors.New("the keys were fetched a moment ago")

// refresh fetches the keys unless that was done too recently. Concurrent callers
// share one fetch; it outlives a caller who gives up.
func (s *Set) refresh(ctx context.Context) error {
	s.mu.Lock()
	flight := s.beginLocked(ctx)
	s.mu.Unlock()
	if flight == nil {
		return errTooSoon
	}
	select {
	case <-flight:
		return s.lastError()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beginLocked returns the fetch under way, which it begins if none is; nil if the last
// one ended too recently. The caller holds mu.
func (s *Set) beginLocked(ctx context.Context) <-chan struct{} {
	wait := RefreshEvery
	if s.fetched.IsZero() {
		wait = RetryAfterFailure
	}
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

// load fetches and parses once; what it cannot use leaves the old keys standing.
func (s *Set) load(ctx context.Context) {
	document, err := s.fetch(ctx)
	var keys []key
	if err == nil {
		keys, err = parseDocument(document)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempted, s.lastErr = s.now(), err
	if err == nil {
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

// verifyWith tries the keys that t may be signed with: those of its key id, and
// those without one.
func (t *token) verifyWith(keys []key) error {
	found := false
	for _, k := range keys {
		if !k.serves(t.header) {
			continue
		}
		found = true
		verifier, err := jws.NewVerifier(t.header.Algorithm)
		if err != nil {
			return fmt.Errorf("%w: %s is not supported", ErrInvalid, t.header.Algorithm)
		}
		if verifier.Verify(t.signed, t.signature, k.public) == nil {
			return nil
		}
	}
	if !found {
		return ErrUnknownKey
	}
	return ErrInvalid
}
