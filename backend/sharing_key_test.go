package backend

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Two requests that differ anywhere must not have the same key, however their words are cut.
func TestWordsOfAKeyAreToldApart(t *testing.T) {
	lists := rapid.SliceOfN(rapid.SliceOfN(rapid.StringMatching(`[ab\x00\x01]{0,3}`), 0, 3), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) (string, [][]string) {
			var w words
			all := lists.Draw(t, name)
			for _, list := range all {
				w.add(list...)
			}
			return string(w), all
		}
		one, ofOne := text("one")
		other, ofOther := text("other")
		same := slices.EqualFunc(ofOne, ofOther, slices.Equal)
		require.Equal(t, same, one == other, "%q and %q", ofOne, ofOther)
	})
}
