package form

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCanonicalNumber(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0": "0", "0.0": "0", "0e5": "0", "1": "1", "1.0": "1", "10e-1": "1", "1E0": "1", "1e+2": "100",
		"-1.50": "-1.5", "0.001": "0.001", "1e-3": "0.001", "123.456e3": "123456", "12300": "12300",
		"9007199254740993": "9007199254740993", "1e40": "1e40", "1e39": "1" + strings.Repeat("0", 39),
		"12e40": "1.2e41", "1e-50": "1e-50", "100e998": "1e1000",
	} {
		got, ok := CanonicalNumber(in)
		assert.True(t, ok, in)
		assert.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "-", "+1", "01", ".5", "5.", "1e", "1e+", "0x1", "1 ", " 1", "NaN", "Infinity", "1e1234567", "1_0", "1.2.3"} {
		_, ok := CanonicalNumber(in)
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
		x, ok1 := CanonicalNumber(a)
		y, ok2 := CanonicalNumber(b)
		if !ok1 || !ok2 {
			t.Fatalf("%q or %q is no number", a, b)
		}
		p, _ := new(big.Rat).SetString(a)
		q, _ := new(big.Rat).SetString(b)
		if (x == y) != (p.Cmp(q) == 0) {
			t.Fatalf("%s is %s, %s is %s", a, x, b, y)
		}
		if again, ok := CanonicalNumber(x); !ok || again != x {
			t.Fatalf("%s is not its own canonical form but %s", x, again)
		}
		f, err := strconv.ParseFloat(x, 64)
		g, _ := p.Float64()
		if err != nil || f != g {
			t.Fatalf("%s is not %s", x, a)
		}
	})
}

func TestWholeNumbersAreCutOff(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "007": 7, "3599.99999999999999999999": 3599, "3.6e3": 3600, "36000E-1": 3600, "0.99": 0, "-1.5": -1,
		"1e18": 1e18, "1e99999999999999999999": 1e18, "-1e30": -1e18, "1e-99999999999999999999": 0,
	} {
		got, ok := WholeNumber(in)
		assert.True(t, ok, in)
		assert.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "+1", "NaN", "0x10", "1 ", "5.", ".5", "1e"} {
		_, ok := WholeNumber(in)
		assert.False(t, ok, in)
	}
}

func TestNumericDate(t *testing.T) {
	at := time.Unix(1_700_000_000, 0).UTC()
	for _, c := range []struct {
		claim any
		want  time.Time
	}{
		{int64(1_700_000_000), at}, {1_700_000_000, at}, {1.7e9, at}, {1.7000000005e9, at.Add(500 * time.Millisecond)},
		{json.Number("1700000000"), at}, {json.Number("1.7e9"), at}, {json.Number("17000000005E-1"), at.Add(500 * time.Millisecond)},
		{json.Number("1700000000.0000000019"), at.Add(time.Nanosecond)}, {json.Number("0"), time.Unix(0, 0).UTC()},
		{json.Number("-0"), time.Unix(0, 0).UTC()}, {json.Number("1e-3"), time.Unix(0, 1e6).UTC()},
		{json.Number("253402300799.9"), time.Unix(253402300799, 9e8).UTC()},
	} {
		got, ok := NumericDate(c.claim)
		require.True(t, ok, "%v", c.claim)
		require.Equal(t, c.want, got, "%v", c.claim)
	}
	for _, claim := range []any{
		nil, "1700000000", true, []any{1}, -1, int64(-1), -0.5, math.NaN(), math.Inf(1), 1e30, json.Number(""), json.Number("-1"), json.Number("-0.5"),
		json.Number("253402300800"), json.Number("1e999"), json.Number(strings.Repeat("0", maxDate) + ".1"), int64(math.MaxInt64),
	} {
		_, ok := NumericDate(claim)
		require.False(t, ok, "%v", claim)
	}
}

// FuzzNumbers: no number is read as larger than it is, in whatever spelling, and none
// that is one as nothing.
func FuzzNumbers(f *testing.F) {
	for _, seed := range []string{"3600", "3599.48", "3.6e3", "36000E-1", "0.1e1", "-1.5", "59.99999999999999999999", "1e18", "1e19", "1e-400", "00012", "NaN", "1e+5", ".5", "1e400", "-0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, ok := WholeNumber(text)
		var spelled json.Number
		isNumber := json.Unmarshal([]byte(text), &spelled) == nil && strings.TrimSpace(text) == text && !strings.HasPrefix(text, `"`) && text != "null"
		if isNumber && !ok {
			t.Fatalf("%q is a number", text)
		}
		_, exponent, _ := strings.Cut(strings.ToLower(text), "e")
		if !ok || len(text) > 300 || len(exponent) > 4 { // more is slow to make exact
			return
		}
		exact, valid := new(big.Rat).SetString(text)
		if !valid {
			t.Fatalf("%q is no number", text)
		}
		whole := new(big.Int).Quo(exact.Num(), exact.Denom()) // towards zero
		switch most := big.NewInt(largest); {
		case whole.CmpAbs(most) >= 0 && n != largest && n != -largest, whole.CmpAbs(most) < 0 && whole.Cmp(big.NewInt(n)) != 0:
			t.Fatalf("%q is read as %d, and is %s", text, n, whole)
		}
	})
}
