package access

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSetLattice(t *testing.T) { checkLattice(t, sets(), Unbounded(), Set{}) }

// What a set says about itself agrees with which values it contains.
func TestSetMeansItsMembers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := sets().Draw(t, "a"), sets().Draw(t, "b")
		ab, within := a.Meet(b), a.Within(b)
		for _, v := range universe {
			must(t, ab.Contains(v) == (a.Contains(v) && b.Contains(v)), "the meet has what both have: "+v)
			must(t, !(within && a.Contains(v)) || b.Contains(v), "within means subset: "+v)
			must(t, !a.IsNothing() || !a.Contains(v), "nothing is empty")
			must(t, !a.IsUnbounded() || a.Contains(v), "unbounded is all")
		}
		must(t, !a.Contains("") || a.IsUnbounded(), "the empty string is no member")
		must(t, (len(a.Excess(b)) == 0) == within, "excess is empty if and only if within")
		for _, v := range a.Literals() {
			must(t, a.Contains(v), "a literal is a member: "+v)
		}
	})
}

// Listed sets are exact: nothing about them is conservative.
func TestListedSetsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := Exactly(values().Draw(t, "a")...), sets().Draw(t, "b")
		members, ok := a.Values()
		must(t, ok && slices.IsSorted(members), "listed")
		must(t, slices.Equal(members, a.Literals()), "all literals")
		subset := !slices.ContainsFunc(members, func(v string) bool { return !b.Contains(v) })
		must(t, a.Within(b) == subset, "within is subset")
		must(t, a.Meet(b).Equal(a) == subset, "and so is a meet that changes nothing")

		// What is stripped and what is left make up what was asked for.
		left, ok := a.Meet(b).Values()
		must(t, ok, "a meet with a listed set is listed")
		together := slices.Sorted(slices.Values(append(left, a.Excess(b)...)))
		must(t, slices.Equal(together, members), "strip and refuse agree on what is excess")
		if other, ok := b.Values(); ok {
			must(t, a.Equal(b) == (a.Within(b) && b.Within(a)), "antisymmetric")
			must(t, a.Equal(b) == slices.Equal(members, other), "equal")
		}
	})
}

func TestSet(t *testing.T) {
	repo := mustCeiling("repo:*", "user")
	require.Equal(t, []string{"user"}, repo.Literals())
	require.True(t, repo.Contains("repo:read"))
	require.False(t, repo.Contains("repo:read:all"))
	require.False(t, repo.Contains("xrepo:read"))

	got := Exactly("repo:read", "user", "admin", "user", "").Meet(repo)
	require.True(t, got.Equal(Exactly("user", "repo:read")))
	require.Equal(t, []string{"admin"}, Exactly("repo:read", "admin").Excess(repo))

	// A star that was asked for is a character; the pattern of that name is not
	// what it stands for.
	require.False(t, Exactly("*").Contains("x"))
	require.Equal(t, []string{"*"}, Exactly("*").Meet(mustCeiling("*")).Literals())
	require.Empty(t, Exactly("repo:*:x").Meet(repo).Literals())

	// Two ceilings with globs stay a conjunction.
	both := mustCeiling("repo:**").Meet(mustCeiling("**:read", "repo:x"))
	require.True(t, both.Contains("repo:a/b:read"))
	require.True(t, both.Contains("repo:x"))
	require.False(t, both.Contains("user:read"))
	require.Equal(t, []string{"repo:x"}, both.Literals())
	_, ok := both.Values()
	require.False(t, ok)

	require.Equal(t, []string{"*"}, Unbounded().Excess(repo))
	require.Empty(t, Unbounded().Excess(Unbounded()))
	require.Equal(t, []string{"**"}, mustCeiling("**", "user").Excess(repo))
	_, ok = Unbounded().Values()
	require.False(t, ok)
}

// Unbounded, nothing, an empty list and the pattern for all are four things.
func TestSetsKeptApart(t *testing.T) {
	all := mustCeiling("**")
	require.True(t, Set{}.IsNothing())
	require.False(t, Set{}.IsUnbounded())
	require.True(t, Exactly().Equal(Set{}), "an empty list is nothing")
	require.True(t, mustCeiling().Equal(Set{}))
	require.False(t, Unbounded().IsNothing())
	require.False(t, all.IsUnbounded(), "a ceiling of all patterns is still a ceiling")
	require.True(t, all.Within(Unbounded()))
	require.False(t, Unbounded().Within(all))
	require.False(t, Unbounded().Equal(Set{}))
	require.True(t, Exactly("a").Meet(Exactly("b")).IsNothing())
}

func TestCeilingRefuses(t *testing.T) {
	for name, patterns := range map[string][]string{
		"empty":     {"a", ""},
		"space":     {"a b"},
		"control":   {"a\n"},
		"long":      {strings.Repeat("a", MaxTarget+1)},
		"long glob": {strings.Repeat("a", MaxGlob) + "*"},
		"stars":     {strings.Repeat("*a", MaxStars+1)},
		"many":      make([]string, MaxPatterns+1),
	} {
		_, err := Ceiling(patterns...)
		require.Error(t, err, name)
	}
	long := "https://" + strings.Repeat("a", MaxGlob)
	require.True(t, mustCeiling(long).Contains(long), "a literal may be longer than a glob")
}

// Sets share what they hold; nobody may write to it through them.
func TestSetsAreImmutable(t *testing.T) {
	in := []string{"b", "a"}
	s := Exactly(in...)
	in[0] = "x"
	v, _ := s.Values()
	v[0] = "y"
	s.Literals()[1] = "z"
	require.True(t, s.Equal(Exactly("a", "b")))

	big := Exactly("a", "b", "c", "d")
	left := big.Meet(Exactly("a", "b", "d"))
	require.True(t, big.Meet(Exactly("a", "c")).Equal(Exactly("a", "c")))
	require.True(t, left.Equal(Exactly("a", "b", "d")))
	require.True(t, big.Equal(Exactly("a", "b", "c", "d")))
}

func mustCeiling(patterns ...string) Set {
	s, err := Ceiling(patterns...)
	if err != nil {
		panic(err)
	}
	return s
}

func BenchmarkSetMeet(b *testing.B) {
	var scopes []string
	for i := range 10 {
		scopes = append(scopes, fmt.Sprintf("repo:%d", i))
	}
	listed, globs, asked := Exactly(scopes...), mustCeiling("repo:*", "user:**"), Exactly(scopes[:3]...)
	for name, role := range map[string]Set{"listed": listed, "globs": globs} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if role.Meet(asked).IsNothing() {
					b.Fatal("nothing")
				}
			}
		})
	}
}
