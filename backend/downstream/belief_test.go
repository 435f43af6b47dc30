package downstream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

func TestABeliefIsOfWhoHasMetIt(t *testing.T) {
	now, why := time.Unix(1e9, 0), errors.New("endless")
	kind := func(role, holder string, asked uint64) Kind {
		return Kind{Mode: provider.ModeMint, Role: role, Holder: holder, Asked: asked}
	}
	var b belief
	meet := func(k Kind) { b.learn(k, fewMoot, why, now, now.Add(time.Hour)) }
	meet(kind("a", "alice", 1))
	require.True(t, b.holds(kind("a", "alice", 1), now))
	require.False(t, b.holds(kind("a", "alice", 2), now))
	meet(kind("b", grant.NoHolder, 2)) // the same person, who has logged out
	require.False(t, b.holds(kind("r", "bob", 3), now), "two names are not everybody")
	require.False(t, b.holds(kind("a", "bob", 1), now))

	meet(kind("a", "carol", 1))
	require.True(t, b.holds(kind("a", "bob", 1), now), "a role whose callers meet it is one that meets it")
	require.False(t, b.holds(kind("r", "bob", 1), now))
	meet(kind("c", "dora", 1))
	meet(kind("d", "dora", 7))
	require.True(t, b.holds(kind("e", "dora", 9), now), "so is a caller")

	for i := 0; len(b.of) > 1; i++ {
		require.LessOrEqual(t, i, fewMoot)
		require.False(t, b.holds(kind("r", "bob", 3), now))
		meet(kind(fmt.Sprint("role ", i), fmt.Sprint("caller ", i), uint64(i)))
	}
	require.True(t, b.holds(kind("r", "bob", 3), now), "many callers in many roles are everybody")
	require.False(t, b.holds(kind("r", "bob", 3), now.Add(time.Hour)), "for a while")
	meet(kind("r", "bob", 3))
	require.True(t, b.holds(kind("a", "alice", 1), now))
}
