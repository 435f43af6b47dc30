package access

import (
	"hash/maphash"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSumsAreAsEqualAsAccesses(t *testing.T) {
	seed := maphash.MakeSeed()
	lists := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", "c"}), 0, 3)
	draw := func(t *rapid.T) Access {
		return Access{
			Scopes: Exactly(lists.Draw(t, "scopes")...), Audiences: Exactly(lists.Draw(t, "audiences")...),
			Resources: Exactly(lists.Draw(t, "resources")...),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t), draw(t)
		require.Equal(t, a.Equal(b), a.Sum(seed) == b.Sum(seed))
	})
	require.NotEqual(t, Everything().Sum(seed), Access{}.Sum(seed))
}
