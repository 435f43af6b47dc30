package jwks

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/require"
)

var errDown = errors.New("the issuer is down")

// issuer is a JWKS server whose answers and clock the test moves.
type issuer struct {
	mu      sync.Mutex
	now     time.Time
	body    []byte
	err     error
	fetches int
	block   chan struct{}
}

func newIssuer(body []byte) *issuer {
	return &issuer{now: time.Unix(1_700_000_000, 0), body: body}
}

func (i *issuer) fetch(ctx context.Context) ([]byte, error) {
	i.mu.Lock()
	i.fetches++
	block := i.block
	i.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.body, i.err
}

func (i *issuer) clock() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.now
}

func (i *issuer) set(body []byte, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.body, i.err = body, err
}

func (i *issuer) pass(d time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.now = i.now.Add(d)
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

func TestKeysAreFetchedOnceAndRenewed(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "old"})))
	s := New(i.fetch, i.clock)
	old, rotated := sign(t, jwa.ES256, p256(), m{"kid": "old"}), sign(t, jwa.ES384, p384(), m{"kid": "new"})
	verify := func(token string) error {
		_, _, err := s.Verify(context.Background(), token, everything)
		return err
	}
	require.Zero(t, i.count())
	for range 10 {
		require.NoError(t, verify(old))
	}
	require.Equal(t, 1, i.count())

	i.set(document(t, public(t, p384(), m{"kid": "new"})), nil)
	tooSoon := verify(rotated)
	require.ErrorIs(t, tooSoon, ErrTooSoon, "the keys were fetched a moment ago, which proves nothing")
	require.ErrorIs(t, tooSoon, ErrUnavailable)
	require.NotErrorIs(t, tooSoon, ErrInvalid)
	forged := sign(t, jwa.ES256, freshEC(t), m{"kid": "old"})
	require.ErrorIs(t, verify(forged), ErrInvalid, "it names a key that has not signed it")
	i.pass(RefreshEvery)
	require.NoError(t, verify(rotated))
	require.Equal(t, 2, i.count())
	require.ErrorIs(t, verify(old), ErrTooSoon, "it serves no more")

	i.pass(StaleAfter)
	require.NoError(t, verify(rotated))
	s.land()
	require.Equal(t, 3, i.count())
}

// land waits for the fetch under way.
func (s *Set) land() {
	s.mu.Lock()
	flight := s.flight
	s.mu.Unlock()
	if flight != nil {
		<-flight
	}
}

// Keys that are older than an hour serve on while they are fetched anew, however long
// that takes, and are fetched once at a time.
func TestNobodyWaitsForKeysThatAreStillTrusted(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "old"})))
	s := New(i.fetch, i.clock)
	old, rotated := sign(t, jwa.ES256, p256(), m{"kid": "old"}), sign(t, jwa.ES384, p384(), m{"kid": "new"})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	verify := func(token string) error {
		_, _, err := s.Verify(ctx, token, everything)
		return err
	}
	require.NoError(t, verify(old))
	i.block = make(chan struct{})
	i.set(document(t, public(t, p384(), m{"kid": "new"})), nil)
	for _, age := range []time.Duration{StaleAfter, RefreshEvery, DeadAfter - StaleAfter - RefreshEvery - 1} {
		i.pass(age)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := verify(old); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.NoError(t, ctx.Err(), "nobody waited")
	}
	require.LessOrEqual(t, i.count(), 2, "one fetch at a time")
	i.pass(1)
	dead, hangUp := context.WithCancel(ctx)
	hangUp()
	_, _, err := s.Verify(dead, old, everything)
	require.ErrorIs(t, err, context.Canceled, "after a day they are trusted no more, and there is something to wait for")
	close(i.block)
	require.NoError(t, verify(rotated))
	require.ErrorIs(t, verify(old), ErrTooSoon, "it serves no more")
	require.Equal(t, 2, i.count())
}

// What nobody asks for is kept fresh too, so that a withdrawn key is not good once more.
func TestKeysAreKeptFresh(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "a"})))
	s := New(i.fetch, i.clock)
	s.KeepFresh(context.Background())
	s.land()
	require.Zero(t, i.count(), "nobody has asked for any yet")
	token := sign(t, jwa.ES256, p256(), m{"kid": "a"})
	_, _, err := s.Verify(context.Background(), token, everything)
	require.NoError(t, err)
	i.set(document(t, public(t, p384(), m{"kid": "b"})), nil)
	for range 3 {
		s.KeepFresh(context.Background())
		s.land()
		i.pass(StaleAfter / 2)
	}
	require.Equal(t, 2, i.count())
	_, _, err = s.Verify(context.Background(), token, everything)
	require.ErrorIs(t, err, ErrUnknownKey, "it was withdrawn")
	static, err := Static(document(t, public(t, p256(), m{"kid": "a"})))
	require.NoError(t, err)
	static.KeepFresh(context.Background())
}

func TestAFloodOfUnknownKeysCostsOneFetchAMinute(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "a"})))
	s := New(i.fetch, i.clock)
	flood := func() {
		var wg sync.WaitGroup
		for n := range 200 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				token := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"ES256","kid":"%d"}`, n)) + ".e30.c2ln"
				_, _, err := s.Verify(context.Background(), token, everything)
				if !errors.Is(err, ErrUnknownKey) && !errors.Is(err, ErrTooSoon) {
					t.Errorf("want ErrUnknownKey or ErrTooSoon, got %v", err)
				}
			}()
		}
		wg.Wait()
	}
	flood()
	require.Equal(t, 1, i.count())
	for minute := range 3 {
		i.pass(RefreshEvery)
		flood()
		require.Equal(t, 2+minute, i.count())
	}
}

func TestOldKeysServeWhileTheIssuerIsDown(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "a"})))
	s := New(i.fetch, i.clock)
	token := sign(t, jwa.ES256, p256(), m{"kid": "a"})
	verify := func(token string) error {
		_, _, err := s.Verify(context.Background(), token, everything)
		return err
	}
	require.NoError(t, verify(token))
	for name, bad := range map[string][]byte{"down": nil, "HTML": []byte("<html>"), "an error": []byte(`{"error":"maintenance"}`)} {
		if name == "down" {
			i.set(nil, errDown)
		} else {
			i.set(bad, nil)
		}
		i.pass(StaleAfter)
		require.NoError(t, verify(token), name)
		unknown := verify(sign(t, jwa.ES384, p384(), m{"kid": "b"}))
		require.ErrorIs(t, unknown, ErrUnavailable, "whether the issuer has that key cannot be told")
		require.NotErrorIs(t, unknown, ErrInvalid)
	}
	i.set(nil, errDown)
	i.pass(RefreshEvery)
	require.ErrorIs(t, verify(sign(t, jwa.ES384, p384(), m{"kid": "b"})), errDown)
	i.pass(DeadAfter)
	require.ErrorIs(t, verify(token), ErrUnavailable, "a withdrawn key must not serve for ever")
	i.set(document(t, public(t, p256(), m{"kid": "a"})), nil)
	i.pass(RefreshEvery)
	require.NoError(t, verify(token))
}

// An issuer that answers without a key has withdrawn those of before, and is not taken
// for one that is down.
func TestKeysAreWithdrawnByASetWithoutAny(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "a"})))
	s := New(i.fetch, i.clock)
	token := sign(t, jwa.ES256, p256(), m{"kid": "a"})
	verify := func() error {
		_, _, err := s.Verify(context.Background(), token, everything)
		return err
	}
	for _, none := range []string{`{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`} {
		i.set(document(t, public(t, p256(), m{"kid": "a"})), nil)
		i.pass(StaleAfter)
		require.Eventually(t, func() bool { return verify() == nil }, 10*time.Second, time.Millisecond)
		i.set([]byte(none), nil)
		i.pass(StaleAfter)
		s.KeepFresh(context.Background())
		require.Eventually(t, func() bool { return errors.Is(verify(), ErrUnavailable) }, 10*time.Second, time.Millisecond, none)
	}
}

func TestTheFirstFetchIsRetriedSoon(t *testing.T) {
	i := newIssuer(nil)
	i.set(nil, errDown)
	s := New(i.fetch, i.clock)
	token := sign(t, jwa.ES256, p256(), m{"kid": "a"})
	for range 20 {
		_, _, err := s.Verify(context.Background(), token, everything)
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, errDown)
	}
	require.Equal(t, 1, i.count())
	i.set(document(t, public(t, p256(), m{"kid": "a"})), nil)
	i.pass(RetryAfterFailure)
	_, _, err := s.Verify(context.Background(), token, everything)
	require.NoError(t, err)
}

func TestASlowIssuerBlocksNobodyForLong(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "a"})))
	i.block = make(chan struct{})
	s := New(i.fetch, i.clock)
	token := sign(t, jwa.ES256, p256(), m{"kid": "a"})

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, _, err := s.Verify(ctx, token, everything)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	// A caller who gave up does not spoil the flight for the others.
	done := make(chan error, 10)
	for range cap(done) {
		go func() {
			_, _, err := s.Verify(context.Background(), token, everything)
			done <- err
		}()
	}
	time.Sleep(10 * time.Millisecond)
	close(i.block)
	for range cap(done) {
		require.NoError(t, <-done)
	}
	require.Equal(t, 1, i.count())
}

// A token that the issuer has just given out is signed by a key of its own: if it was
// rotated a moment after the last fetch, one more fetch tells.
func TestPatienceWaitsForOneMoreFetch(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "old"})))
	s := New(i.fetch, i.clock)
	waited := 0
	s.pause = func(ctx context.Context, d time.Duration) error {
		waited++
		require.Equal(t, PatientEvery, d)
		return ctx.Err()
	}
	verify := func(ctx context.Context, token string) error {
		_, _, err := s.VerifyPatiently(ctx, token, everything)
		return err
	}
	ctx := context.Background()
	require.NoError(t, verify(ctx, sign(t, jwa.ES256, p256(), m{"kid": "old"})))
	i.set(document(t, public(t, p384(), m{"kid": "new"})), nil)
	rotated := sign(t, jwa.ES384, p384(), m{"kid": "new"})
	dead, hangUp := context.WithCancel(ctx)
	hangUp()
	require.ErrorIs(t, verify(dead, rotated), context.Canceled)
	require.NoError(t, verify(ctx, rotated))
	require.Equal(t, 2, i.count())
	require.Equal(t, 2, waited)

	unknown := sign(t, jwa.ES256, p256(), m{"kid": "nobody's"})
	i.pass(PatientEvery)
	require.ErrorIs(t, verify(ctx, unknown), ErrUnknownKey, "asked once more, the issuer does not know it")
	require.Equal(t, 3, i.count())
	require.Equal(t, 2, waited, "nobody waits longer than is needed")
	i.set(nil, errDown)
	require.ErrorIs(t, verify(ctx, unknown), ErrUnavailable)
	require.NotErrorIs(t, verify(ctx, unknown), ErrInvalid)
}

// However many wait, the issuer is asked once for all of them.
func TestThePatientShareOneFetch(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "old"})))
	s := New(i.fetch, i.clock)
	both := make(chan struct{})
	arrived := make(chan struct{}, 20)
	s.pause = func(context.Context, time.Duration) error {
		arrived <- struct{}{}
		<-both
		return nil
	}
	_, _, err := s.VerifyPatiently(context.Background(), sign(t, jwa.ES256, p256(), m{"kid": "old"}), everything)
	require.NoError(t, err)
	i.set(document(t, public(t, p384(), m{"kid": "new"})), nil)
	rotated := sign(t, jwa.ES384, p384(), m{"kid": "new"})
	var all sync.WaitGroup
	for range cap(arrived) {
		all.Go(func() {
			if _, _, err := s.VerifyPatiently(context.Background(), rotated, everything); err != nil {
				t.Error(err)
			}
		})
	}
	for range cap(arrived) {
		<-arrived
	}
	close(both)
	all.Wait()
	require.Equal(t, 2, i.count())
}

func TestPatienceAsksAgainAfterAFailedFetch(t *testing.T) {
	i := newIssuer(document(t, public(t, p256(), m{"kid": "old"})))
	s := New(i.fetch, i.clock)
	s.pause = func(context.Context, time.Duration) error { return nil }
	verify := func(token string) error {
		_, _, err := s.VerifyPatiently(context.Background(), token, everything)
		return err
	}
	require.NoError(t, verify(sign(t, jwa.ES256, p256(), m{"kid": "old"})))
	i.pass(RefreshEvery)
	i.set(nil, errDown)
	rotated := sign(t, jwa.ES384, p384(), m{"kid": "new"})
	require.ErrorIs(t, verify(rotated), errDown)
	i.set(document(t, public(t, p384(), m{"kid": "new"})), nil)
	i.pass(10 * PatientEvery)
	require.NoError(t, verify(rotated), "the issuer answers again")
}
