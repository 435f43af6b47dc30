package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// A user's own token is handed on as it is, once, to who unwraps it.

// forwarding is a scene whose client is also the one that users log in with, and
// which forwards their tokens.
func forwarding(t *testing.T, provider harness.Fields) *scene {
	t.Helper()
	s := newScene(t, harness.HydraClient{
		Grants: []string{"authorization_code", "refresh_token", "client_credentials"}, JWT: true,
		Audiences: []string{apiAudience, vaultAudience},
	}, provider)
	s.Write(t, "issuers/hydra", harness.Fields{"oidc_discovery_url": s.hydra.URL, "bound_audiences": vaultAudience})
	s.role(t, "forward", harness.Fields{
		"mode": "forward", "subject_issuers": "hydra", "ttl": "2h", "max_ttl": "2h",
		"scopes": []string{"repo:read", "offline"}, "audiences": []string{apiAudience, vaultAudience},
	})
	return s
}

func (s *scene) usersToken(t *testing.T, scopes ...string) string {
	t.Helper()
	return confidential("user's token", s.hydra.UserTokens(t, s.client, scopes, []string{apiAudience, vaultAudience}).AccessToken)
}

func TestAUsersTokenIsForwardedOnce(t *testing.T) {
	t.Parallel()
	s := forwarding(t, nil)
	agent := s.agent(t, harness.Agent{Name: "agent"})
	token := s.usersToken(t, "repo:read")
	wrapped, err := s.As(agent).TryWrite(t, "creds/forward", harness.Fields{"subject_token": token})
	require.NoError(t, err)
	require.NotNil(t, wrapped.WrapInfo)
	require.Empty(t, wrapped.Data, "nothing of it is in the open")
	confidential("wrapping token", wrapped.WrapInfo.Token)
	require.LessOrEqual(t, wrapped.WrapInfo.TTL, 300)

	unwrapped, err := s.vault.Client(t).Logical().Unwrap(wrapped.WrapInfo.Token)
	require.NoError(t, err)
	require.Equal(t, token, text(unwrapped, "access_token"))
	require.Equal(t, harness.HydraUser, text(unwrapped, "subject"))
	require.Equal(t, "token", text(unwrapped, "revocation"))
	require.Equal(t, true, unwrapped.Data["self_contained"])
	_, err = s.vault.Client(t).Logical().Unwrap(wrapped.WrapInfo.Token)
	require.Error(t, err, "whoever comes second finds out")

	id := text(unwrapped, "grant_id")
	require.Contains(t, s.List(t, "grants"), id)
	require.Equal(t, harness.HydraUser, text(s.Read(t, "grants/"+id), "subject"))
	s.hydra.MustBeActive(t, token)
	s.Write(t, "revoke/entity/"+agent.EntityID, nil)
	s.hydra.MustBeInactive(t, token)

	_, err = s.As(agent).TryWrite(t, "creds/forward", harness.Fields{"subject_token": token})
	refused(t, err, 400, "invalid_grant", "inactive")
}

func TestWhatIsNotForwarded(t *testing.T) {
	t.Parallel()
	s := forwarding(t, nil)
	wide := s.usersToken(t, "repo:read", "repo:write")
	_, err := s.TryWrite(t, "creds/forward", harness.Fields{"subject_token": wide})
	refused(t, err, 400, "invalid_scope", "repo:write", "mode=exchange")
	s.hydra.MustBeActive(t, wide)
	narrow := s.usersToken(t, "repo:read")
	_, err = s.TryWrite(t, "creds/forward", harness.Fields{"subject_token": narrow, "audiences": apiAudience})
	refused(t, err, 400, "invalid_target", "mode=exchange")
	s.role(t, "short", harness.Fields{
		"mode": "forward", "subject_issuers": "hydra", "ttl": "10m", "max_ttl": "10m",
		"scopes": []string{"repo:read", "offline"}, "audiences": []string{apiAudience, vaultAudience},
	})
	_, err = s.TryWrite(t, "creds/short", harness.Fields{"subject_token": narrow})
	refused(t, err, 400, "invalid_grant", "mode=exchange")
	s.hydra.MustBeActive(t, narrow)

	idp := newSigner(t, "https://idp.example.com")
	idp.trust(t, s.Mount, "idp")
	_, err = s.TryWrite(t, "roles/foreign", harness.Fields{"provider": "oauth2/hydra", "mode": "forward", "scopes": "repo:read", "audiences": apiAudience, "subject_issuers": "idp"})
	refused(t, err, 400, "invalid_request", "the provider's own issuer")
}

// RFC 7009 lets a client kill its own tokens alone; Hydra answers 200 for another's
// and lets it live, which must not pass for a kill.
func TestAnotherClientsTokenIsForwardedAndCannotBeKilled(t *testing.T) {
	t.Parallel()
	s := forwarding(t, nil)
	ours := s.client
	s.client = s.hydra.CreateClient(t, harness.HydraClient{
		Grants: []string{"authorization_code", "refresh_token"}, JWT: true,
		Scopes: []string{"repo:read"}, Audiences: []string{apiAudience, vaultAudience},
	})
	token := s.usersToken(t, "repo:read")
	s.client = ours
	wrapped, err := s.TryWrite(t, "creds/forward", harness.Fields{"subject_token": token})
	require.NoError(t, err)
	confidential("wrapping token", wrapped.WrapInfo.Token)
	unwrapped, err := s.vault.Client(t).Logical().Unwrap(wrapped.WrapInfo.Token)
	require.NoError(t, err)
	require.Equal(t, "expiry", text(unwrapped, "revocation"))

	s.Write(t, "roles/forward", harness.Fields{"require_revocable": true})
	_, err = s.TryWrite(t, "creds/forward", harness.Fields{"subject_token": token})
	refused(t, err, 403, "access_denied", "require_revocable")
	s.hydra.MustBeActive(t, token)
}
