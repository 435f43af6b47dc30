package person

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func alias(mount, name string) Tie   { return Tie{Kind: KindAlias, At: mount, Value: name} }
func metadata(key, value string) Tie { return Tie{Kind: KindMetadata, At: key, Value: value} }

// TestWhatTiesNobody: an employee number that is empty must never match everybody.
func TestWhatTiesNobody(t *testing.T) {
	m := Mapping{Mounts: [][]string{{"auth_a_1", "auth_b_2"}}, Keys: []string{"number", "absent"}}
	for _, nothing := range []string{"", " ", "\t", "a\x00b", strings.Repeat("x", MaxValue+1), "\xff"} {
		require.Empty(t, m.OfEntity([]Alias{{"auth_a_1", nothing}}, map[string]string{"number": nothing}), "%q", nothing)
	}
	require.Empty(t, m.OfEntity([]Alias{{"auth_c_3", "alice"}}, map[string]string{"team": "red"}), "a mount and a key that nobody has named")
	require.Equal(t, []Tie{alias("auth_a_1", "alice"), alias("auth_b_2", "alice"), metadata("number", "7")},
		m.OfEntity([]Alias{{"auth_b_2", "alice"}}, map[string]string{"number": "7"}), "a name is one person's at each mount of a group")
}

// TestANameOfAnAliasHasNoCase, as Vault has it; a value of metadata and a sub have.
func TestANameOfAnAliasHasNoCase(t *testing.T) {
	m := Mapping{Mounts: [][]string{{"auth_a_1"}}, Keys: []string{"number"}}
	require.Equal(t, []Tie{alias("auth_a_1", "ålice@b.c"), metadata("number", "X7")}, m.OfEntity([]Alias{{"auth_a_1", "Ålice@B.c"}}, map[string]string{"number": "X7"}))
	require.Equal(t, AtEach([]string{"auth_a_1"}, "alice"), AtEach([]string{"auth_a_1"}, "ALICE"))
	require.Equal(t, []Tie{alias("auth_a_1", "alice"), Subject("idp", "Alice")}, Clean([]Tie{alias("auth_a_1", "Alice"), Subject("idp", "Alice"), alias("auth_a_1", "aLice")}))
}

func TestTwoTiesAreNeverOneKey(t *testing.T) {
	keys := map[[16]byte]Tie{}
	for _, tie := range []Tie{alias("a", "bc"), alias("ab", "c"), metadata("a", "bc"), Subject("a", "bc"), Entity("abc"), Entity("bc"), {Kind: "entitya", Value: "bc"}} {
		require.NotContains(t, keys, tie.Key(), "%v and %v", tie, keys[tie.Key()])
		keys[tie.Key()] = tie
	}
}

// world knows what it is told.
type world map[Tie][]Tie

func (w world) TiesOf(identity Tie) ([]Tie, error) { return w[identity], nil }

func (w world) Sharing(tie Tie, limit int) (out []Tie, err error) {
	for identity, ties := range w {
		if (identity == tie || slices.Contains(ties, tie)) && len(out) < limit {
			out = append(out, identity)
		}
	}
	return out, nil
}

func (p Person) names() (names []string) {
	for _, i := range p.Identities {
		names = append(names, i.Tie.Value)
	}
	return names
}

func TestWhoIsOnePerson(t *testing.T) {
	w := world{
		Entity("e1"):                 {alias("ldap", "alice"), metadata("number", "7")},
		Entity("e2"):                 {alias("oidc", "a.smith"), metadata("number", "7")},
		Entity("stranger"):           {alias("other", "alice"), metadata("number", "8")},
		Entity("empty"):              {metadata("number", "")},
		Entity("empty too"):          {metadata("number", "")},
		Subject("idp", "a.smith"):    {alias("oidc", "a.smith")},
		Subject("idp", "by id"):      {Entity("e1")},
		Subject("other", "a.smith"):  {},
		Subject("idp", "of two"):     {Entity("e3"), alias("ldap", "bob")},
		Entity("e4"):                 {alias("ldap", "bob")},
		Subject("idp", "not known"):  {Entity("e5")},
		Subject("idp", "not known2"): {Entity("e5")},
	}
	for begin, want := range map[Tie][]string{
		Entity("e1"):                  {"e1", "by id", "e2", "a.smith"},
		Subject("idp", "a.smith"):     {"a.smith", "e2", "e1", "by id"},
		metadata("number", "7"):       {"e1", "e2", "by id", "a.smith"},
		alias("other", "alice"):       {"stranger"},
		metadata("number", ""):        nil,
		Entity("empty"):               {"empty"},
		Subject("other", "a.smith"):   {"a.smith"},
		Entity("e4"):                  {"e4", "of two", "e3"},
		Subject("idp", "not known"):   {"not known", "e5", "not known2"},
		Entity("whom nobody has met"): {"whom nobody has met"},
		alias("ldap", "nobody"):       nil,
	} {
		p, err := Close([]Tie{begin}, w)
		require.NoError(t, err)
		require.Equal(t, want, p.names(), "%s", begin)
		require.False(t, p.Cut)
		require.Empty(t, p.Common)
	}
	p, err := Close([]Tie{Entity("e1")}, w)
	require.NoError(t, err)
	require.Equal(t, Identity{Tie: Entity("e1"), Why: Entity("e1")}, p.Identities[0])
	require.Equal(t, Identity{Tie: Entity("e2"), Why: metadata("number", "7"), From: Entity("e1")}, p.Identities[2])
}

// TestATieOfManyIsNobodys: closure is bounded, and says what it did not follow.
func TestATieOfManyIsNobodys(t *testing.T) {
	zero := metadata("number", "0")
	w := world{}
	for i := range MostSharing + 1 {
		w[Entity(fmt.Sprint("e", i))] = []Tie{zero}
	}
	p, err := Close([]Tie{Entity("e3")}, w)
	require.NoError(t, err)
	require.Equal(t, []string{"e3"}, p.names())
	require.Equal(t, []Tie{zero}, p.Common)
	require.NotContains(t, p.Ties, zero, "nobody is frozen by it")

	p, err = Close([]Tie{zero}, w)
	require.NoError(t, err)
	require.Len(t, p.Identities, MostSharing+1, "it was asked for")

	for i := range MostIdentities + 1 {
		w[Entity(fmt.Sprint("e", i))] = []Tie{zero}
	}
	p, err = Close([]Tie{zero}, w)
	require.NoError(t, err)
	require.Empty(t, p.Identities)
	require.Equal(t, []Tie{zero}, p.Common)

	chain := world{}
	for i := range 3 * MostIdentities {
		chain[Entity(fmt.Sprint("c", i))] = []Tie{metadata("next", fmt.Sprint(i)), metadata("next", fmt.Sprint(i+1))}
	}
	p, err = Close([]Tie{Entity("c0")}, chain)
	require.NoError(t, err)
	require.True(t, p.Cut)
	require.Len(t, p.Identities, MostIdentities)
	require.Equal(t, "c0", p.Identities[0].Tie.Value, "the nearest first")
	require.Equal(t, fmt.Sprint("c", MostIdentities-1), p.Identities[MostIdentities-1].Tie.Value)
}
