package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/require"
)

// The key under the set is exchanged behind its back: what passes then has not been verified
// again.
func TestASignatureIsVerifiedOnce(t *testing.T) {
	s := static(t, public(t, p256(), nil))
	verify := func(token string, allowed ...jwa.SignatureAlgorithm) error {
		_, _, err := s.Verify(t.Context(), token, allowed)
		return err
	}
	seen, unseen := sign(t, jwa.ES256, p256(), nil), sign(t, jwa.ES256, p256(), map[string]any{"typ": "JWT"})
	require.NoError(t, verify(seen, jwa.ES256))
	s.keys[0].public = otherKey(t).Public()
	require.NoError(t, verify(seen, jwa.ES256), "known to be good")
	require.ErrorIs(t, verify(unseen, jwa.ES256), ErrInvalid, "and that of no other token")

	head, signature := seen[:strings.LastIndex(seen, ".")], seen[strings.LastIndex(seen, "."):]
	_, other := unseen[:strings.LastIndex(unseen, ".")], unseen[strings.LastIndex(unseen, "."):]
	require.ErrorIs(t, verify(head+other, jwa.ES256), ErrInvalid, "another signature")
	require.ErrorIs(t, verify(unseen[:strings.LastIndex(unseen, ".")]+signature, jwa.ES256), ErrInvalid, "another token")
	require.ErrorIs(t, verify(seen, jwa.EdDSA), ErrInvalid, "an algorithm that is not allowed any more")
	s.keys[0].id = "2"
	require.NoError(t, verify(seen, jwa.ES256))
	s.keys[0].alg = jwa.ES384
	require.ErrorIs(t, verify(seen, jwa.ES256), ErrUnknownKey, "a key that serves no more")
}

// What was good under a key that is not published any more is good no more.
func TestAWithdrawnKeyVouchesForNothingItHasSigned(t *testing.T) {
	now := time.Now()
	published := document(t, public(t, p256(), map[string]any{"kid": "1"}))
	s := New(func(context.Context) ([]byte, error) { return published, nil }, func() time.Time { return now })
	token := sign(t, jwa.ES256, p256(), map[string]any{"kid": "1"})
	for range 2 {
		_, _, err := s.Verify(t.Context(), token, everything)
		require.NoError(t, err)
	}
	published = document(t, public(t, otherKey(t), map[string]any{"kid": "1"}))
	now = now.Add(StaleAfter)
	require.NoError(t, s.refresh(t.Context()))
	_, _, err := s.Verify(t.Context(), token, everything)
	require.ErrorIs(t, err, ErrInvalid)
}

func otherKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func TestOnlySoManySignaturesAreRemembered(t *testing.T) {
	g := &good{}
	of := func(n int) digest { return (&Token{signed: []byte("a.b"), signature: fmt.Append(nil, n)}).digest() }
	g.add(of(0))
	for n := range 5 * maxGood {
		g.add(of(n + 1))
		require.True(t, g.has(of(0)), "what is asked for stays")
		require.LessOrEqual(t, len(g.recent)+len(g.older), 2*maxGood)
	}
	require.False(t, g.has(of(1)))
	require.True(t, g.has(of(5*maxGood)))
}
