package access

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPermissionsLattice(t *testing.T) {
	t.Run("same levels", func(t *testing.T) {
		checkLattice(t, permissionsOf(DefaultLevels()), UnboundedPermissions(), Permissions{})
	})
	t.Run("any levels", func(t *testing.T) {
		checkLattice(t, permissionsOf(ladders...), UnboundedPermissions(), Permissions{})
	})
}

// With the same levels, the meet is the lower level of each common name.
func TestPermissionsMeetIsTheLowerLevel(t *testing.T) {
	rank := map[string]int{"read": 1, "write": 2, "admin": 3}
	rapid.Check(t, func(t *rapid.T) {
		a, b := permissionsOf(DefaultLevels()).Draw(t, "a"), permissionsOf(DefaultLevels()).Draw(t, "b")
		if a.IsUnbounded() || b.IsUnbounded() {
			return
		}
		am, bm, got := a.Map(), b.Map(), a.Meet(b).Map()
		subset := true
		for name, level := range am {
			subset = subset && rank[level] <= rank[bm[name]]
			must(t, rank[got[name]] == min(rank[level], rank[bm[name]]), "the lower level of "+name)
		}
		for name := range got {
			must(t, am[name] != "" && bm[name] != "", "only common names")
		}
		must(t, a.Within(b) == subset, "within is lower in every name")
		must(t, a.Equal(b) == (fmt.Sprint(am) == fmt.Sprint(bm)), "equal is the same map")
	})
}

// What the meet shows can be read again without ever allowing more.
func TestPermissionsRoundTripNeverWidens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := permissionsOf(ladders...).Draw(t, "a"), permissionsOf(ladders...).Draw(t, "b")
		must(t, (len(a.Excess(b)) == 0) == a.Within(b), "excess is empty if and only if within")
		must(t, fmt.Sprint(a.Meet(b).Map()) == fmt.Sprint(b.Meet(a).Map()), "what is shown does not depend on the side")
		for name, level := range a.Meet(b).Map() {
			for _, p := range []Permissions{a, b} {
				if e, ok := p.find(name); !p.IsUnbounded() && ok {
					must(t, strings.Contains(" "+strings.Join(e.levels, " ")+" ", " "+level+" "), "both sides allow "+level)
				}
			}
		}
	})
}

func TestPermissions(t *testing.T) {
	perms := func(levels Levels, pairs ...string) Permissions {
		m := map[string]string{}
		for _, p := range pairs {
			name, level, _ := strings.Cut(p, "=")
			m[name] = level
		}
		p, err := NewPermissions(levels, m)
		require.NoError(t, err)
		return p
	}
	role := perms(nil, "contents=write", "issues=read")
	asked := perms(nil, "contents=read", "issues=admin", "actions=read")
	require.Equal(t, map[string]string{"contents": "read", "issues": "read"}, asked.Meet(role).Map())
	require.Equal(t, []string{"actions=read", "issues=admin"}, asked.Excess(role))
	require.Equal(t, []string{"contents=write", "issues=read"}, role.List())
	require.Equal(t, []string{"*"}, UnboundedPermissions().Excess(role))
	require.Empty(t, UnboundedPermissions().Excess(UnboundedPermissions()))

	// A provider's next version has one more level; what was granted still stands.
	next := perms(ladders[1], "contents=write", "issues=triage")
	require.True(t, role.Within(next))
	require.Equal(t, map[string]string{"contents": "write", "issues": "read"}, role.Meet(next).Map())
	// A level that the other side does not know is not granted.
	require.Equal(t, map[string]string{"contents": "write"}, perms(ladders[2], "contents=write", "issues=use").Meet(role).Map())

	require.True(t, Permissions{}.IsNothing())
	require.False(t, Permissions{}.IsUnbounded())
	require.False(t, UnboundedPermissions().IsNothing())
	require.True(t, perms(nil).Equal(Permissions{}))
	require.NotNil(t, Permissions{}.Map())

	m := role.Map()
	m["contents"] = "admin"
	require.Equal(t, "write", role.Map()["contents"], "the map is a copy")
}

func TestNewPermissionsRefuses(t *testing.T) {
	many := map[string]string{}
	for i := range MaxPermissions + 1 {
		many[fmt.Sprint(i)] = "read"
	}
	for name, c := range map[string]struct {
		levels Levels
		m      map[string]string
	}{
		"unknown level":  {nil, map[string]string{"a": "owner"}},
		"empty level":    {nil, map[string]string{"a": ""}},
		"upper case":     {nil, map[string]string{"a": "Read"}},
		"empty name":     {nil, map[string]string{"": "read"}},
		"equals sign":    {nil, map[string]string{"a=b": "read"}},
		"space":          {nil, map[string]string{"a b": "read"}},
		"newline":        {nil, map[string]string{"a\n": "read"}},
		"long":           {nil, map[string]string{strings.Repeat("a", maxName+1): "read"}},
		"many":           {nil, many},
		"level twice":    {Levels{"read", "read"}, nil},
		"strange level":  {Levels{"a=b"}, nil},
		"too many level": {make(Levels, MaxLevels+1), nil},
	} {
		_, err := NewPermissions(c.levels, c.m)
		require.Error(t, err, name)
	}
	_, err := NewPermissions(nil, map[string]string{"a": "owner"})
	require.ErrorContains(t, err, "read, write, admin", "it says what would be right")
}
