package oauth2

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// killAll ends the children of a check as its caller does.
func (f *fixture) killAll(health provider.Health) {
	f.t.Helper()
	for _, child := range health.Children {
		require.NoError(f.t, f.Revoke(context.Background(), child.Handle))
	}
	require.Empty(f.t, f.server.Live())
}

func TestCheckOfClientCredentials(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
	health, err := f.Check(context.Background())
	require.NoError(t, err)
	require.Len(t, health.Children, 1)
	require.Equal(t, []string{"scope:admin", "scope:read", "scope:write"}, health.Grants)
	require.NotContains(t, health.Detail, "client_secret_next")
	f.killAll(health)

	f.accept(nextSecret)
	health, err = f.Check(context.Background())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "client_secret_next")
	f.killAll(health)

	f.accept("another")
	health, err = f.Check(context.Background())
	requireCode(t, err, fault.ParentRefused, "parent credential")
	require.Empty(t, health.Children)
	f.clean(err)
}

func TestCheckWhereAScopeIsWanted(t *testing.T) {
	for _, code := range []string{"invalid_scope", "invalid_target"} {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"`+code+`"}`))
		health, err := f.Check(context.Background())
		require.NoError(t, err)
		require.Contains(t, health.Detail, "accepts the parent credential")

		f = newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
		f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"`+code+`"}`))
		_, err = f.Rotate(context.Background())
		require.NoError(t, err)
		require.Equal(t, nextSecret, f.store.Parent().Secrets["client_secret"].Reveal())
	}
}

func TestCheckHandsOverWhateverItSaw(t *testing.T) {
	for name, broken := range map[string]authserver.Fault{
		"expires_in -1": authserver.Set("expires_in", -1), "an error too": authserver.Set("error", "x"), "cut": authserver.Cut(-1),
	} {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, broken)
		health, err := f.Check(context.Background())
		require.Error(t, err, name)
		require.Len(t, health.Children, 1, name)
		f.killAll(health)
	}
	f := newFixture(t, authserver.Options{}, with{})
	f.server.Break(authserver.EndpointToken, authserver.Set("access_token", testSecret))
	health, err := f.Check(context.Background())
	requireCode(t, err, fault.ProviderViolation, "parent credential")
	require.Empty(t, health.Children)
}

func TestCheckOfARefreshToken(t *testing.T) {
	t.Run("by introspection", func(t *testing.T) {
		f := rotating(t, nil)
		first := f.stored()
		health, err := f.Check(context.Background())
		require.NoError(t, err)
		require.Empty(t, health.Children)
		require.Contains(t, health.Grants, "scope:read")
		require.Zero(t, f.requests(authserver.EndpointToken))
		require.Equal(t, first, f.stored())
		require.Equal(t, "refresh_token", f.server.LastRequest(authserver.EndpointIntrospect).Form().Get("token_type_hint"))
	})
	t.Run("by a refresh where introspection proves nothing", func(t *testing.T) {
		for _, broken := range []authserver.Fault{
			authserver.Answer(200, "application/json", `{"active":false}`), authserver.HTML(), authserver.Answer(401, "text/plain", ""),
		} {
			f := rotating(t, with{"revocation": "token"})
			f.server.Break(authserver.EndpointIntrospect, broken)
			health, err := f.Check(context.Background())
			require.NoError(t, err)
			require.Len(t, health.Children, 1)
			require.True(t, f.server.Active(f.stored()))
			f.killAll(health)
		}
	})
	t.Run("by a refresh where there is no introspection", func(t *testing.T) {
		f := newFixture(t, authserver.Options{WithoutIntrospection: true, RotateRefresh: true}, with{"grant": "refresh_token"})
		health, err := f.Check(context.Background())
		require.NoError(t, err)
		require.Len(t, health.Children, 1)
		require.True(t, f.server.Active(f.stored()))
	})
	t.Run("dead", func(t *testing.T) {
		f := rotating(t, nil)
		f.server.Kill(f.stored())
		_, err := f.Check(context.Background())
		requireCode(t, err, fault.ParentRefused, "invalid_grant")
		require.NotEmpty(t, f.store.Parent().Refused)
	})
}

func TestRotate(t *testing.T) {
	for name, fields := range map[string]with{
		"client credentials": {},
		"refresh token":      {"grant": "refresh_token", "revocation": "token"},
	} {
		t.Run(name, func(t *testing.T) {
			fields["client_secret_next"] = nextSecret
			f := newFixture(t, authserver.Options{RotateRefresh: true}, fields)
			f.accept(testSecret, nextSecret)
			before := f.mustMint(scopes("read"))

			health, err := f.Rotate(context.Background())
			require.NoError(t, err)
			require.Contains(t, health.Detail, "client_secret_next")
			require.Len(t, health.Children, 1)
			stored := f.store.Parent()
			require.Equal(t, nextSecret, stored.Secrets["client_secret"].Reveal())
			require.NotContains(t, stored.Secrets, "client_secret_next")
			require.EqualValues(t, 1, stored.Serial, "what a provider saves keeps its serial")

			// The former secret is withdrawn, and all goes on with one request each.
			f.accept(nextSecret)
			asked := f.requests(authserver.EndpointToken)
			f.mustMint(scopes("read"))
			require.Equal(t, asked+1, f.requests(authserver.EndpointToken))
			require.NoError(t, f.Revoke(context.Background(), before.Handle))
			require.NoError(t, f.Revoke(context.Background(), health.Children[0].Handle))

			_, err = f.Rotate(context.Background())
			requireCode(t, err, fault.InvalidRequest, "client_secret_next")
		})
	}
}

func TestRotateProvesFirst(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
	health, err := f.Rotate(context.Background())
	requireCode(t, err, fault.ParentRefused, "client_secret stays")
	require.Equal(t, 1, strings.Count(err.Error(), "parent_refused"))
	require.Empty(t, health.Children)
	f.clean(err)
	require.Equal(t, testSecret, f.store.Parent().Secrets["client_secret"].Reveal())
	require.Equal(t, nextSecret, f.store.Parent().Secrets["client_secret_next"].Reveal())
	f.mustMint(scopes("read"))
}

func TestRotateThatCannotBeStored(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
	f.accept(testSecret, nextSecret)
	f.store.FailSaves(errors.New("storage is sealed"))
	health, err := f.Rotate(context.Background())
	requireCode(t, err, fault.TemporarilyUnavailable, "client_secret stays")
	f.killAll(health)
	f.store.FailSaves(nil)
	health, err = f.Rotate(context.Background())
	require.NoError(t, err)
	f.killAll(health)
}

func TestRotateAgainstAnOperatorsWrite(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"client_secret_next": nextSecret})
	f.accept(testSecret, nextSecret)
	f.server.Break(authserver.EndpointToken, f.meanwhile(func() {
		f.store.Write(map[string]string{"client_secret": testSecret, "client_secret_next": "a third"})
	}))
	_, err := f.Rotate(context.Background())
	requireCode(t, err, fault.TemporarilyUnavailable, "changed meanwhile")
	require.Equal(t, "a third", f.store.Parent().Secrets["client_secret_next"].Reveal())
}
