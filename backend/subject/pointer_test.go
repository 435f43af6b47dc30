package subject

import (
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestPointerRFC6901 is the table of RFC 6901 5, but for the pointer to the
// whole document, which is no claim.
func TestPointerRFC6901(t *testing.T) {
	document, err := decodeObject([]byte(`{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}`))
	require.NoError(t, err)
	for at, want := range map[string]any{
		"/foo": []any{"bar", "baz"}, "/foo/0": "bar", "/": json.Number("0"), "/a~1b": json.Number("1"),
		"/c%d": json.Number("2"), "/e^f": json.Number("3"), "/g|h": json.Number("4"), `/i\j`: json.Number("5"),
		`/k"l`: json.Number("6"), "/ ": json.Number("7"), "/m~0n": json.Number("8"),
		"a/b": json.Number("1"), "m~n": json.Number("8"), // a name needs no escape
	} {
		p, err := parsePointer(at)
		require.NoError(t, err, at)
		got, found := p.find(document)
		assert.True(t, found, at)
		assert.Equal(t, want, got, at)
	}
	for _, at := range []string{"/foo/-", "/foo/2", "/foo/00", "/foo/01", "/foo/+1", "/foo/-1", "/foo/1e0", "/foo/",
		"/foo/99999999999999999999", "/foo/0/0", "/a/b", "/m~01n", "/FOO", "foo/0"} {
		p, err := parsePointer(at)
		require.NoError(t, err, at)
		_, found := p.find(document)
		assert.False(t, found, at)
	}
}

func TestPointerEscapes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.StringMatching(`[~/01a]{0,4}`), 1, maxPointerDepth).Draw(t, "tokens")
		var text strings.Builder
		for _, token := range tokens {
			text.WriteString("/" + strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1"))
		}
		p, err := parsePointer(text.String())
		if err != nil {
			t.Fatal(err)
		}
		var document any = "leaf"
		for i := len(tokens) - 1; i >= 0; i-- {
			document = map[string]any{tokens[i]: document}
		}
		if got, found := p.find(document.(map[string]any)); !found || got != "leaf" {
			t.Fatalf("%q does not lead to the leaf", text.String())
		}
	})
}

func TestCanonicalNumber(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0": "0", "0.0": "0", "0e5": "0", "1": "1", "1.0": "1", "10e-1": "1", "1E0": "1", "1e+2": "100",
		"-1.50": "-1.5", "0.001": "0.001", "1e-3": "0.001", "123.456e3": "123456", "12300": "12300",
		"9007199254740993": "9007199254740993", "1e40": "1e40", "1e39": "1" + strings.Repeat("0", 39),
		"12e40": "1.2e41", "1e-50": "1e-50", "100e998": "1e1000",
	} {
		got, ok := canonicalNumber(in)
		assert.True(t, ok, in)
		assert.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "-", "+1", "01", ".5", "5.", "1e", "1e+", "0x1", "1 ", " 1", "NaN", "Infinity", "1e1234567", "1_0", "1.2.3"} {
		_, ok := canonicalNumber(in)
		assert.False(t, ok, in)
	}
}

// TestCanonicalNumberIsItsValue compares with exact rational arithmetic: two
// spellings have the same canonical form if and only if they are the same number.
func TestCanonicalNumberIsItsValue(t *testing.T) {
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		if rapid.Bool().Draw(t, "same") { // the same number by another exponent
			if !strings.ContainsAny(a, "eE.") && strings.Trim(a, "-0") != "" {
				b = a + "0e-1"
			}
		}
		x, ok1 := canonicalNumber(a)
		y, ok2 := canonicalNumber(b)
		if !ok1 || !ok2 {
			t.Fatalf("%q or %q is no number", a, b)
		}
		p, _ := new(big.Rat).SetString(a)
		q, _ := new(big.Rat).SetString(b)
		if (x == y) != (p.Cmp(q) == 0) {
			t.Fatalf("%s is %s, %s is %s", a, x, b, y)
		}
		if again, ok := canonicalNumber(x); !ok || again != x {
			t.Fatalf("%s is not its own canonical form but %s", x, again)
		}
		f, err := strconv.ParseFloat(x, 64)
		g, _ := p.Float64()
		if err != nil || f != g {
			t.Fatalf("%s is not %s", x, a)
		}
	})
}
