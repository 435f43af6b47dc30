package acceptance

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// keyedScene is a scene whose parent is a key that the broker made: Hydra is told
// what a read of the provider shows, and nothing else.
func keyedScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{vault: sharedVault(t), hydra: sharedHydra(t)}
	s.Mount = s.vault.Enable(t, "")
	s.client.ID = "keyed-" + s.Path
	s.Write(t, "providers/oauth2/hydra", s.provider(harness.Fields{
		"client_secret": nil, "auth_method": "private_key_jwt",
		// Hydra (fosite) takes no other audience: not its issuer, which is the default.
		"assertion_audience": s.hydra.URL + "/oauth2/token",
	}))
	s.hydra.CreateClient(t, harness.HydraClient{
		ID: s.client.ID, AuthMethod: "private_key_jwt", Scopes: []string{"repo:read", "repo:write"}, Audiences: []string{apiAudience},
		Extra: map[string]any{"jwks": s.clientJWKS(t), "token_endpoint_auth_signing_alg": "ES256"},
	})
	s.role(t, "deploy", nil)
	return s
}

func (s *scene) clientJWKS(t *testing.T) map[string]any {
	t.Helper()
	jwks, ok := s.Read(t, "providers/oauth2/hydra").Data["client_jwks"].(map[string]any)
	require.True(t, ok, "a read shows no client_jwks")
	require.NotEmpty(t, jwks["keys"])
	for _, key := range jwks["keys"].([]any) {
		require.NotContains(t, key, "d", "a private key is shown")
	}
	return jwks
}

func TestHydraTakesTheBrokersKey(t *testing.T) {
	t.Parallel()
	s := keyedScene(t)
	c := read(t, s.Mount, "deploy")
	s.hydra.MustBeActive(t, c.Token)
	require.Equal(t, s.client.ID, s.hydra.Introspect(t, c.Token).ClientID)
	require.Equal(t, true, s.Write(t, "providers/oauth2/hydra/check", nil).Data["healthy"])
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	s.hydra.MustBeInactive(t, c.Token)

	shown := s.Read(t, "providers/oauth2/hydra")
	require.NotContains(t, shown.Data, "private_key")
	require.Len(t, text(shown, "private_key_sha256"), 64)
	// What the key is good for cannot be changed without bringing it.
	for _, move := range []harness.Fields{
		{"token_url": "https://elsewhere.example.com/token"},
		{"assertion_audience": "https://elsewhere.example.com"},
	} {
		_, err := s.TryWrite(t, "providers/oauth2/hydra", move)
		refused(t, err, 400, "invalid_request", "write private_key again")
	}
	// An empty one is a new one, which is registered nowhere yet.
	s.Write(t, "providers/oauth2/hydra", harness.Fields{"private_key": ""})
	require.NotEqual(t, text(shown, "private_key_sha256"), text(s.Read(t, "providers/oauth2/hydra"), "private_key_sha256"))
	_, err := s.TryRead(t, "creds/deploy")
	// RFC 7521 4.2.1 wants invalid_client; Hydra does not know the kid.
	refused(t, err, 400, "invalid_request", "client_jwks")
	s.hydra.SetJWKS(t, s.client.ID, s.clientJWKS(t))
	s.hydra.MustBeActive(t, read(t, s.Mount, "deploy").Token)
}

// The key is rotated at Hydra while agents go on reading.
func TestClientKeyRotatesWithoutDowntime(t *testing.T) {
	t.Parallel()
	s := keyedScene(t)
	stop := make(chan struct{})
	var agents sync.WaitGroup
	var issued []child
	agents.Go(func() {
		for {
			secret, err := s.TryRead(t, "creds/deploy")
			if err != nil {
				t.Errorf("an agent was refused: %v", err)
				return
			}
			issued = append(issued, given(t, secret))
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	first := s.clientJWKS(t)["keys"].([]any)
	require.Len(t, first, 1)
	health := s.Write(t, "providers/oauth2/hydra/rotate", nil)
	require.Contains(t, health.Data["detail"], "client_jwks")
	both := s.clientJWKS(t)["keys"].([]any)
	require.Len(t, both, 2)
	require.Equal(t, first[0], both[0])
	// Announced, not yet registered: rotating now must not lock the broker out.
	_, err := s.TryWrite(t, "providers/oauth2/hydra/rotate", nil)
	refused(t, err, 501, "parent_refused", "private_key stays")
	s.hydra.SetJWKS(t, s.client.ID, map[string]any{"keys": both})
	s.Write(t, "providers/oauth2/hydra/rotate", nil)
	require.Equal(t, []any{both[1]}, s.clientJWKS(t)["keys"])
	s.hydra.SetJWKS(t, s.client.ID, map[string]any{"keys": both[1:]})
	after := read(t, s.Mount, "deploy")
	close(stop)
	agents.Wait()
	require.NotEmpty(t, issued)
	for _, c := range append(issued, after) {
		s.hydra.MustBeActive(t, c.Token)
		require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
		s.hydra.MustBeInactive(t, c.Token)
	}
}
