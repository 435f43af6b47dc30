package ending

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
)

// A build of before read forms up to the first, and took an order of a kind that it did not
// know for a provider's: it killed nothing and deleted the order. What such a build does with
// a form that it does not read, TestWhatANewerBuildStoredIsLeftAlone shows.
func TestABuildOfBeforeLeavesAloneWhatItWouldMisread(t *testing.T) {
	before := form.Kind{Name: "of before"}
	idp := Subject("https://idp.example", "alice")
	for _, test := range []struct {
		what  Thing
		reads bool
	}{
		{Thing{KindEntity, "alice"}, true}, {Thing{KindRole, "r"}, true}, {Thing{KindProvider, "jwt/p"}, true}, {Thing{KindIssuer, "idp"}, true},
		{idp, false}, {Thing{KindPerson, "x"}, false},
	} {
		t.Run(test.what.Kind, func(t *testing.T) {
			w := newWorld(t)
			o := &order{Kind: test.what.Kind, Name: test.what.Name, Until: dawn}
			given, err := w.give(t.Context(), o, kills.Asked{})
			require.NoError(t, err)
			given.Leave()
			if test.what.Kind == KindPerson {
				require.NoError(t, w.freezer.FreezePerson(t.Context(), "x", "test", FrozenPerson{}))
			} else {
				require.NoError(t, w.freezer.Freeze(t.Context(), test.what, "test"))
			}
			for key, kind := range map[string]form.Kind{OrderPrefix + given.id: orderForm, FrozenPrefix + keyOf(test.what.String()): frozenForm} {
				entry, err := w.storage.Get(t.Context(), key)
				require.NoError(t, err)
				require.NoError(t, kind.Check(entry.Value))
				if test.reads {
					require.NoError(t, before.Check(entry.Value), key)
				} else {
					require.ErrorIs(t, before.Check(entry.Value), form.ErrNewer, key)
				}
			}
		})
	}
}

// An order of a kind that is not known is not executed, and not done.
func TestAnOrderOfAnUnknownKindIsLeftAlone(t *testing.T) {
	for _, o := range []*order{{Kind: "planet", Name: "x"}, {Name: "x"}, {Kind: KindPerson, Name: "x", Of: []part{{Kind: "planet", Name: "y"}}}} {
		w := newWorld(t)
		require.NoError(t, w.orders.kept.Replace(t.Context(), "id", nil, o))
		require.ErrorContains(t, w.resumeOrders(t.Context()), "left to the version that gave it")
		ids, err := w.orders.kept.List(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, []string{"id"}, ids)
		orders, _ := w.UnderWay()
		require.Zero(t, orders)
	}
}
