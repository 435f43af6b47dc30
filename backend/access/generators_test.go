package access

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The generators draw from so few characters and names that operands overlap
// nearly always; of random operands, nearly every meet would be nothing.

// alphabet has a separator of each kind, and the star as a character of values.
const alphabet = "ab/:*"

// universe is every value over the alphabet up to four bytes, the empty one
// excepted: what a set means is checked against all of it.
var universe = func() []string {
	var all []string
	level := []string{""}
	for range 4 {
		var next []string
		for _, v := range level {
			for _, c := range alphabet {
				next = append(next, v+string(c))
			}
		}
		all = append(all, next...)
		level = next
	}
	return all
}()

func values() *rapid.Generator[[]string] {
	return rapid.SliceOfN(rapid.StringOfN(rapid.RuneFrom([]rune(alphabet)), 1, 3, -1), 0, 4)
}

func patterns() *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "/", ":", "*", "**"}), 1, 5),
		func(parts []string) string { return strings.Join(parts, "") })
}

func sets() *rapid.Generator[Set] {
	return rapid.Custom(func(t *rapid.T) Set {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			return Unbounded()
		case 1:
			return Set{}
		case 2, 3, 4:
			return Exactly(values().Draw(t, "values")...)
		case 5, 6, 7:
			return ceiling(t)
		default:
			return ceiling(t).Meet(ceiling(t))
		}
	})
}

func ceiling(t *rapid.T) Set {
	s, err := Ceiling(rapid.SliceOfN(patterns(), 1, 3).Draw(t, "patterns")...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ladders are Levels of several providers, and two versions of one; the last
// contradicts the first.
var ladders = []Levels{
	{"read", "write", "admin"},
	{"read", "triage", "write", "admin"},
	{"use", "write"},
	{"admin", "write", "read"},
}

func permissionsOf(levels ...Levels) *rapid.Generator[Permissions] {
	return rapid.Custom(func(t *rapid.T) Permissions {
		if rapid.IntRange(0, 9).Draw(t, "unbounded") == 0 {
			return UnboundedPermissions()
		}
		ladder := rapid.SampledFrom(levels).Draw(t, "levels")
		m := rapid.MapOfN(rapid.SampledFrom([]string{"contents", "issues", "s3:Get"}), rapid.SampledFrom(ladder), 0, 3).Draw(t, "map")
		p, err := NewPermissions(ladder, m)
		if err != nil {
			t.Fatal(err)
		}
		return p
	})
}

func details() *rapid.Generator[Details] {
	return rapid.Custom(func(t *rapid.T) Details {
		if rapid.IntRange(0, 9).Draw(t, "unbounded") == 0 {
			return UnboundedDetails()
		}
		raw, err := json.Marshal(rapid.SliceOfN(rapid.Custom(drawElement), 0, 3).Draw(t, "elements"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := ParseDetails(raw)
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

func drawElement(t *rapid.T) map[string]any {
	e := map[string]any{"type": rapid.SampledFrom([]string{"pay", "read"}).Draw(t, "type")}
	for _, name := range []string{"actions", "locations"} {
		if rapid.IntRange(0, 3).Draw(t, name) > 0 {
			e[name] = rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "z"}), 0, 3).Draw(t, name)
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "amount") == 0 {
		e["amount"] = rapid.SampledFrom([]any{"1", 1, map[string]any{"b": 1, "a": []any{nil}}}).Draw(t, "amount")
	}
	return e
}

// allElements is every element over the two actions and locations that matters
// for telling details apart.
func allElements() []element {
	var all []element
	subsets := [][]any{nil, {}, {"x"}, {"y"}, {"z"}, {"x", "y"}, {"x", "z"}, {"y", "z"}, {"x", "y", "z"}}
	for _, typ := range []string{"pay", "read"} {
		for _, actions := range subsets {
			for _, locations := range subsets {
				for _, amount := range []any{nil, "1", json.Number("1")} {
					members := map[string]any{"type": typ}
					if actions != nil {
						members["actions"] = slices.Clone(actions)
					}
					if locations != nil {
						members["locations"] = slices.Clone(locations)
					}
					if amount != nil {
						members["amount"] = amount
					}
					e, err := newElement(maps.Clone(members))
					if err != nil {
						panic(err)
					}
					all = append(all, e)
				}
			}
		}
	}
	return all
}

func accesses() *rapid.Generator[Access] {
	return rapid.Custom(func(t *rapid.T) Access {
		return Access{
			Scopes:      sets().Draw(t, "scopes"),
			Audiences:   sets().Draw(t, "audiences"),
			Resources:   sets().Draw(t, "resources"),
			Permissions: permissionsOf(ladders...).Draw(t, "permissions"),
			Details:     details().Draw(t, "details"),
		}
	})
}

// lattice is what every kind of access has.
type lattice[T any] interface {
	Meet(T) T
	Within(T) bool
	Equal(T) bool
}

// checkLattice proves the laws of the meet for a kind of access: it is
// commutative, associative and idempotent, the greatest thing below both
// operands, with top as its neutral and bottom as its absorbing element; and
// Within is the order that belongs to it.
func checkLattice[T lattice[T]](t *testing.T, gen *rapid.Generator[T], top, bottom T) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := gen.Draw(t, "a"), gen.Draw(t, "b"), gen.Draw(t, "c")
		ab := a.Meet(b)
		must(t, ab.Equal(b.Meet(a)), "commutative")
		must(t, ab.Meet(c).Equal(a.Meet(b.Meet(c))), "associative")
		must(t, a.Meet(a).Equal(a), "idempotent")
		must(t, ab.Meet(b).Equal(ab) && a.Meet(ab).Equal(ab), "narrowing again changes nothing")
		must(t, a.Meet(top).Equal(a) && top.Meet(a).Equal(a), "top is neutral")
		must(t, a.Meet(bottom).Equal(bottom) && bottom.Meet(a).Equal(bottom), "bottom absorbs")

		must(t, ab.Within(a) && ab.Within(b), "the meet is below both")
		must(t, !(c.Within(a) && c.Within(b)) || c.Within(ab), "and the greatest that is")
		must(t, a.Within(a) && a.Within(top) && bottom.Within(a), "reflexive and bounded")
		must(t, !(a.Within(b) && b.Within(c)) || a.Within(c), "transitive")
		must(t, !a.Equal(b) || a.Within(b) && b.Within(a), "equals are within each other")
		// Narrowing in another order, with repetitions, as renewals do.
		must(t, c.Meet(b).Meet(a).Meet(b).Meet(c).Equal(ab.Meet(c)), "order and repetition do not matter")
	})
}

func must(t *rapid.T, ok bool, law string) {
	if !ok {
		t.Fatalf("violated: %s", law)
	}
}
