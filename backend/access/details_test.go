package access

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDetailsLattice(t *testing.T) { checkLattice(t, details(), UnboundedDetails(), Details{}) }

// allows is the contract's sentence: the element is within one of d's.
func (d Details) allows(e element) bool {
	if d.unbounded {
		return true
	}
	for _, f := range d.elements {
		if e.within(f) {
			return true
		}
	}
	return false
}

func TestDetailsMeanTheirElements(t *testing.T) {
	elements := allElements()
	rapid.Check(t, func(t *rapid.T) {
		a, b := details().Draw(t, "a"), details().Draw(t, "b")
		ab, within := a.Meet(b), a.Within(b)
		for _, e := range elements {
			must(t, ab.allows(e) == (a.allows(e) && b.allows(e)), "the meet allows what both allow: "+e.canon)
			must(t, !(within && a.allows(e)) || b.allows(e), "within means subset: "+e.canon)
		}
		must(t, (len(a.Excess(b)) == 0) == within, "excess is empty if and only if within")
		must(t, (len(a.excessTypes(b)) == 0) == within, "and so are its types")
		must(t, a.Equal(b) == (within && b.Within(a)), "antisymmetric")
		if !a.IsUnbounded() && !a.IsNothing() {
			again, err := ParseDetails(a.JSON())
			must(t, err == nil && again.Equal(a), "JSON reads as itself")
		}
	})
}

func TestElementWithin(t *testing.T) {
	for _, c := range []struct {
		name, element, ceiling string
		want                   bool
	}{
		{"equal", `{"type":"a","x":1}`, `{"x":1,"type":"a"}`, true},
		{"fewer actions", `{"type":"a","actions":["r"]}`, `{"type":"a","actions":["r","w"]}`, true},
		{"more actions", `{"type":"a","actions":["r","x"]}`, `{"type":"a","actions":["r","w"]}`, false},
		{"order and duplicates", `{"type":"a","actions":["w","r","w"]}`, `{"type":"a","actions":["r","w"]}`, true},
		{"no actions may mean all", `{"type":"a"}`, `{"type":"a","actions":["r"]}`, false},
		{"and so may empty ones", `{"type":"a","actions":[]}`, `{"type":"a","actions":["r"]}`, false},
		{"actions where none were", `{"type":"a","actions":["r"]}`, `{"type":"a"}`, false},
		{"empty equals empty", `{"type":"a","actions":[]}`, `{"type":"a","actions":[]}`, true},
		{"all four arrays", `{"type":"a","actions":["r"],"locations":["l"],"datatypes":["d"],"privileges":["p"]}`,
			`{"type":"a","actions":["r","w"],"locations":["l","m"],"datatypes":["d"],"privileges":["p","q"]}`, true},
		{"one of them too many", `{"type":"a","actions":["r"],"locations":["n"]}`, `{"type":"a","actions":["r","w"],"locations":["l","m"]}`, false},
		{"another type", `{"type":"b","actions":["r"]}`, `{"type":"a","actions":["r","w"]}`, false},
		{"another member", `{"type":"a","actions":["r"],"amount":"2"}`, `{"type":"a","actions":["r","w"],"amount":"1"}`, false},
		{"one member more", `{"type":"a","x":1}`, `{"type":"a"}`, false},
		{"one member less", `{"type":"a"}`, `{"type":"a","x":1}`, false},
		{"other arrays are not sets", `{"type":"a","x":["r"]}`, `{"type":"a","x":["r","w"]}`, false},
		{"their order matters", `{"type":"a","x":["w","r"]}`, `{"type":"a","x":["r","w"]}`, false},
		{"nested standard names are not standard", `{"type":"a","x":{"actions":["r"]}}`, `{"type":"a","x":{"actions":["r","w"]}}`, false},
		{"a number is no string", `{"type":"a","x":1}`, `{"type":"a","x":"1"}`, false},
		{"escapes are spelling", `{"type":"a","x":"\u0041<"}`, `{"type":"a","x":"A\u003c"}`, true},
		{"large numbers are exact", `{"type":"a","x":9007199254740993}`, `{"type":"a","x":9007199254740992}`, false},
		{"case matters", `{"type":"a","Actions":["r"]}`, `{"type":"a","actions":["r"]}`, false},
	} {
		require.Equal(t, c.want, parse(t, c.element).Within(parse(t, c.ceiling)), c.name)
	}
}

func TestDetails(t *testing.T) {
	ceiling := parse(t, `[{"type":"payment","actions":["initiate","status"],"locations":["https://bank"]},{"type":"account"}]`)
	asked := parse(t, `[{"type":"payment","actions":["initiate","cancel"],"locations":["https://bank"]}]`)
	require.JSONEq(t, `[{"type":"payment","actions":["initiate"],"locations":["https://bank"]}]`, string(asked.Meet(ceiling).JSON()))
	require.Equal(t, []string{`payment {"actions":["cancel","initiate"],"locations":["https://bank"],"type":"payment"}`}, asked.Excess(ceiling))
	require.Equal(t, []string{"account", "payment"}, ceiling.Types())
	require.Equal(t, []string{"*"}, UnboundedDetails().Excess(ceiling))
	require.Empty(t, UnboundedDetails().Excess(UnboundedDetails()))
	require.Empty(t, ceiling.Excess(UnboundedDetails()))

	require.Equal(t, `[{"actions":["r"],"type":"a"}]`, string(parse(t, ` { "type" : "a", "actions" : ["r","r"] } `).JSON()))
	require.Equal(t, `[{"type":"a","x":"<&>é"}]`, string(parse(t, `{"type":"a","x":"<&>\u00e9"}`).JSON()))
	require.Len(t, parse(t, `[{"type":"a"},{"type":"a"}]`).elements, 1)
	require.Len(t, parse(t, `[{"type":"a","actions":["r"]},{"type":"a","actions":["r","w"]}]`).elements, 1)

	require.True(t, Details{}.IsNothing())
	require.True(t, parse(t, `[]`).Equal(Details{}), "an empty list is nothing")
	require.False(t, UnboundedDetails().IsNothing())
	require.Nil(t, Details{}.JSON())
	require.Nil(t, UnboundedDetails().JSON())

	long := parse(t, `{"type":"a","x":"`+strings.Repeat("é", 200)+`"}`).Excess(Details{})
	require.Less(t, len(long[0]), summaryBytes+10)
	require.True(t, json.Valid(ceiling.JSON()))
}

func TestParseDetailsRefuses(t *testing.T) {
	nested := strings.Repeat(`{"x":`, maxDetailsDepth) + "1" + strings.Repeat("}", maxDetailsDepth)
	for name, raw := range map[string]string{
		"empty":                "",
		"not JSON":             `{"type":"a"`,
		"null":                 `null`,
		"string":               `"a"`,
		"element no object":    `["a"]`,
		"nested list":          `[[{"type":"a"}]]`,
		"no type":              `[{"x":1}]`,
		"type no string":       `[{"type":1}]`,
		"empty type":           `[{"type":""}]`,
		"space in type":        `[{"type":"a b"}]`,
		"control in type":      `[{"type":"a\u0000"}]`,
		"same name twice":      `[{"type":"a","type":"b"}]`,
		"twice by escape":      `[{"type":"a","\u0074ype":"b"}]`,
		"twice below":          `[{"type":"a","x":{"y":1,"y":2}}]`,
		"actions no array":     `[{"type":"a","actions":"r"}]`,
		"actions null":         `[{"type":"a","actions":null}]`,
		"action no string":     `[{"type":"a","actions":[1]}]`,
		"something follows":    `[{"type":"a"}] x`,
		"another follows":      `[{"type":"a"}][]`,
		"bracket follows":      `[{"type":"a"}]]`,
		"trailing comma":       `[{"type":"a"},]`,
		"not UTF-8":            "[{\"type\":\"a\",\"x\":\"\xff\"}]",
		"deep":                 `[{"type":"a","x":` + nested + `}]`,
		"very deep":            strings.Repeat("[", 60000),
		"long":                 `[{"type":"a","x":"` + strings.Repeat("x", MaxDetailsBytes) + `"}]`,
		"many":                 "[" + strings.TrimSuffix(strings.Repeat(`{"type":"a"},`, MaxDetails+1), ",") + "]",
		"many array members":   `{"type":"a","actions":[` + strings.TrimSuffix(strings.Repeat(`"r",`, maxArray+1), ",") + `]}`,
		"mismatched delimiter": `[{"type":"a"]}`,
	} {
		_, err := ParseDetails([]byte(raw))
		require.Error(t, err, name)
		require.Less(t, len(err.Error()), 200, name)
	}
}

// The worst that two operators' and a caller's lists can do together is bounded.
func TestDetailsMeetIsBounded(t *testing.T) {
	list := func(skip int) Details {
		var elements []string
		for i := range MaxDetails {
			var actions []string
			for j := range 64 {
				if (j*7+i*skip)%5 > 0 {
					actions = append(actions, fmt.Sprintf(`"%d"`, j))
				}
			}
			elements = append(elements, `{"type":"a","actions":[`+strings.Join(actions, ",")+`]}`)
		}
		return parse(t, "["+strings.Join(elements, ",")+"]")
	}
	got := list(1).Meet(list(2)).Meet(list(3))
	require.False(t, got.IsUnbounded())
}

func parse(t testing.TB, raw string) Details {
	t.Helper()
	d, err := ParseDetails([]byte(raw))
	require.NoError(t, err, raw)
	return d
}
