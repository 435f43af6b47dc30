package oauth2

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A server chooses how many texts it sends and how long its tokens are: what is too
// short to have one inside costs no more than a look at its length.
func TestShortTextsAreComparedWithLongTokensForNothing(t *testing.T) {
	long := strings.Repeat("a", 100<<10)
	require.Zero(t, testing.AllocsPerRun(10, func() { holds("a", long) }))
	for text, holding := range map[string]bool{"abcd": true, "abc": true, "ab": false, "xabcdex": true, "YWJjZGU": true, "x": false} {
		require.Equal(t, holding, holds(text, "abcde"), text)
	}
}
