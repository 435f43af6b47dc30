package oauth2

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestMintAndRevoke(t *testing.T) {
	for _, method := range []string{authBasic, authPost} {
		t.Run(method, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"auth_method": method})
			child := f.mustMint(scopes("read"))

			require.True(t, f.server.Active(child.Token().Reveal()))
			require.Equal(t, "Bearer", child.TokenType)
			require.WithinDuration(t, time.Now().Add(time.Hour), child.ExpiresAt, 10*time.Second)
			require.False(t, child.SelfContained)
			require.True(t, child.Granted.Equal(scopes("read")))
			require.True(t, child.Confirmed[access.DimScopes])
			require.False(t, child.Confirmed[access.DimAudiences])

			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			require.False(t, f.server.Active(child.Token().Reveal()))
			require.NoError(t, f.Revoke(context.Background(), child.Handle), "gone is success")
			require.Equal(t, 1, f.server.Counts().Minted)
		})
	}
}

func TestVerifyLearnsWhatWasGranted(t *testing.T) {
	asked := access.Access{
		Scopes:    access.Exactly("read", "write"),
		Audiences: access.Exactly("https://api.test/"),
		Resources: access.Exactly("https://files.test/"),
	}
	for _, verify := range []string{verifyIntrospect, verifyJWT} {
		t.Run(verify, func(t *testing.T) {
			f := newFixture(t, authserver.Options{JWT: verify == verifyJWT}, with{
				"verify": verify, "audience_parameter": "resource", "confirm_revocation": true,
			})
			child := f.mustMint(asked)
			require.True(t, child.Granted.Equal(asked), "%v", child.Granted.Flat())
			for _, d := range []access.Dimension{access.DimScopes, access.DimAudiences, access.DimResources} {
				require.True(t, child.Confirmed[d], d)
			}
			require.Equal(t, verify == verifyJWT, child.SelfContained)
			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			require.Empty(t, f.server.Live())
		})
	}
}

func TestRefreshRotates(t *testing.T) {
	f := newFixture(t, authserver.Options{RotateRefresh: true}, with{"grant": "refresh_token"})
	first := f.store.Parent().Secrets["refresh_token"]
	for range 3 {
		child := f.mustMint(scopes("read"))
		require.True(t, child.Handle.Empty(), "a child of a refresh token is not revoked unless the operator says so")
	}
	require.False(t, f.store.Parent().Secrets["refresh_token"].Equal(first))
	require.Equal(t, 3, f.store.Saves())
	require.True(t, f.server.Active(f.store.Parent().Secrets["refresh_token"].Reveal()))
}
