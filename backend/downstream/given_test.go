package downstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

func child(values ...string) map[string]secret.Text {
	secrets := map[string]secret.Text{}
	for i, v := range values {
		secrets[fmt.Sprint(i)] = secret.New(v)
	}
	return secrets
}

func TestGivenSecretsAreFound(t *testing.T) {
	r, now := newGiven(), time.Unix(1e9, 0)
	require.False(t, r.add(child("a", "b"), now.Add(time.Minute), now))
	require.True(t, r.add(child("a", "b"), now.Add(time.Minute), now))
	require.True(t, r.add(child("c", "b"), now.Add(time.Minute), now), "one part is enough")
	require.False(t, r.add(child("c"), now.Add(time.Minute), now), "what repeats another is not remembered itself")
	require.False(t, r.add(child("d", ""), time.Time{}, now))
	require.False(t, r.add(child("e", ""), time.Time{}, now), "nothing is no secret")
	require.True(t, r.add(child("d"), time.Time{}, now.Add(time.Hour)), "without an end that is known")
	require.False(t, r.add(child("a"), now.Add(2*time.Hour), now.Add(time.Hour)), "the former one is over")
	require.True(t, r.add(child("a"), now.Add(2*time.Hour), now.Add(time.Hour)))
}

func TestGivenSecretsAreBounded(t *testing.T) {
	r, now := newGiven(), time.Unix(1e9, 0)
	for i := range maxGiven + 10 {
		require.False(t, r.add(child(fmt.Sprint("token ", i)), now.Add(time.Hour), now))
	}
	require.Len(t, r.seen, maxGiven)
	require.False(t, r.add(child("token 0"), now.Add(time.Hour), now), "the oldest are forgotten first")
	require.True(t, r.add(child(fmt.Sprint("token ", maxGiven)), now.Add(time.Hour), now))
}
