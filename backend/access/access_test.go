package access

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAccessLattice(t *testing.T) { checkLattice(t, accesses(), Everything(), Access{}) }

func TestAccessByDimension(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := accesses().Draw(t, "a"), accesses().Draw(t, "b")
		must(t, (len(a.Excess(b)) == 0) == a.Within(b), "excess is empty if and only if within")
		var rebuilt Access
		within := true
		for _, d := range AllDimensions() {
			only, meet := a.Only(d), a.Meet(b).Only(d)
			within = within && only.Within(b)
			must(t, (len(a.ExcessIn(d, b)) == 0) == only.Within(b), "excess in "+string(d))
			must(t, only.Meet(b).Equal(meet), "each dimension for itself")
			must(t, only.IsNothing(d) == a.IsNothing(d) && only.IsUnbounded(d) == a.IsUnbounded(d), "only "+string(d))
			must(t, !(a.IsNothing(d) && a.IsUnbounded(d)), "nothing is not unbounded")
			must(t, a.Enumerable(d) || !a.IsNothing(d), "nothing can be listed")
			must(t, b.With(d, a).Only(d).Equal(only), "with "+string(d))
			rebuilt = rebuilt.With(d, a)
		}
		must(t, within == a.Within(b), "within is within in every dimension")
		must(t, rebuilt.Equal(a), "the dimensions are all there is")
	})
}

func TestAccess(t *testing.T) {
	perms, err := NewPermissions(nil, map[string]string{"contents": "write"})
	require.NoError(t, err)
	a := Access{
		Scopes:      Exactly("b", "a"),
		Audiences:   Exactly("https://api"),
		Resources:   mustCeiling("https://api/*", "https://api/v1"),
		Permissions: perms,
		Details:     parse(t, `[{"type":"payment","x":1},{"type":"payment","x":2}]`),
	}
	flat := []string{
		"scope:a", "scope:b", "audience:https://api", "resource:https://api/v1",
		"permission:contents=write", "authorization_details:payment",
	}
	require.Equal(t, flat, a.Flat())
	require.Equal(t, append(flat[:3:3], "resource:https://api/*", "resource:https://api/v1", "permission:contents=write", "authorization_details:payment"), a.Excess(Access{}))
	require.Equal(t, []string{"scope:*", "audience:*", "resource:*", "permission:*", "authorization_details:*"}, Everything().Excess(a))
	require.Empty(t, Everything().Flat())
	require.Empty(t, a.Excess(Everything()))
	require.True(t, a.Enumerable(DimScopes))
	require.False(t, a.Enumerable(DimResources))
	require.False(t, Everything().Enumerable(DimDetails))

	require.True(t, a.Only().Equal(Access{}))
	require.True(t, a.Only(AllDimensions()...).Equal(a))
	unknown := Dimension("owner")
	require.True(t, a.IsNothing(unknown))
	require.False(t, Everything().IsUnbounded(unknown))
	require.True(t, a.With(unknown, Everything()).Equal(a))
	require.Empty(t, Everything().ExcessIn(unknown, Access{}))
}
