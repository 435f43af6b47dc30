package httpapi_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest/systems"
)

// While pages are read others end: what stood behind them has moved onto a page that was
// read already.
func TestWhatMovesBetweenPagesIsFound(t *testing.T) {
	for _, preset := range []string{"gitea", "cloudflare"} {
		f := newField(t, preset)
		others := f.asks(t)
		for range systems.MostItems {
			others.GrantID += "0"
			_, err := f.Mint(t.Context(), others)
			require.NoError(t, err)
		}
		child, err := f.Mint(t.Context(), f.asks(t))
		require.NoError(t, err)
		f.EndFirstBehindAPage()
		finder := f.Provider.(provider.Finder)
		found, err := finder.Find(t.Context(), provider.Trace{GrantID: grantID})
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.NoError(t, finder.Revoke(t.Context(), found[0].Handle))
		require.False(t, f.Alive(child.Token().Reveal()))

		found, err = finder.Find(t.Context(), provider.Trace{GrantID: grantID})
		require.NoError(t, err)
		require.Empty(t, found)
	}
}
