package form

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestPointerRFC6901 is the table of RFC 6901 5, but for the pointer to the
// whole document, which nobody needs.
func TestPointerRFC6901(t *testing.T) {
	document, err := Value([]byte(`{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}`), 4)
	require.NoError(t, err)
	for at, want := range map[string]any{
		"/foo": []any{"bar", "baz"}, "/foo/0": "bar", "/": json.Number("0"), "/a~1b": json.Number("1"),
		"/c%d": json.Number("2"), "/e^f": json.Number("3"), "/g|h": json.Number("4"), `/i\j`: json.Number("5"),
		`/k"l`: json.Number("6"), "/ ": json.Number("7"), "/m~0n": json.Number("8"),
	} {
		p, err := ParsePointer(at)
		require.NoError(t, err, at)
		got, found := p.Find(document)
		assert.True(t, found, at)
		assert.Equal(t, want, got, at)
	}
	for _, at := range []string{"/foo/-", "/foo/2", "/foo/00", "/foo/01", "/foo/+1", "/foo/-1", "/foo/1e0", "/foo/",
		"/foo/99999999999999999999", "/foo/0/0", "/a/b", "/m~01n", "/FOO"} {
		p, err := ParsePointer(at)
		require.NoError(t, err, at)
		_, found := p.Find(document)
		assert.False(t, found, at)
	}
}

func TestPointerEscapes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.StringMatching(`[~/01a]{0,4}`), 1, MaxPointerDepth).Draw(t, "tokens")
		var text strings.Builder
		for _, token := range tokens {
			text.WriteString("/" + strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1"))
		}
		p, err := ParsePointer(text.String())
		if err != nil {
			t.Fatal(err)
		}
		var document any = "leaf"
		for i := len(tokens) - 1; i >= 0; i-- {
			document = map[string]any{tokens[i]: document}
		}
		if got, found := p.Find(document.(map[string]any)); !found || got != "leaf" {
			t.Fatalf("%q does not lead to the leaf", text.String())
		}
	})
}

// FuzzPointer: no panic, and a pointer that is accepted leads somewhere or nowhere.
func FuzzPointer(f *testing.F) {
	for _, s := range []string{"a", "/", "/a~1b/m~0n", "/~", "//", "/0/01/-", "~", "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q"} {
		f.Add(s, `{"a":{"b":[0]},"":{"":1}}`)
	}
	f.Fuzz(func(t *testing.T, s, document string) {
		p, err := ParsePointer(s)
		if err != nil {
			return
		}
		if len(p) == 0 || len(p) > MaxPointerDepth {
			t.Fatalf("%d levels", len(p))
		}
		if v, err := Value([]byte(document), 8); err == nil {
			p.Find(v)
		}
	})
}
