package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// The main job: a token that works at the server until its lease ends.

func TestTokenWorksUntilItsLeaseIsRevoked(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	agent := s.agent(t, harness.Agent{Name: "builder"})

	c := read(t, s.As(agent), "deploy", "scopes=repo:read")
	found := s.hydra.Introspect(t, c.Token)
	require.True(t, found.Active)
	require.Equal(t, "repo:read", found.Scope)
	require.Equal(t, []any{apiAudience}, found.Audience)
	require.Equal(t, []string{"repo:read"}, list(c.Secret, "scopes"))
	require.Equal(t, []string{apiAudience}, list(c.Secret, "audiences"))
	require.Equal(t, "token", text(c.Secret, "revocation"))
	require.Equal(t, false, c.Data["self_contained"])
	require.Equal(t, "bearer", strings.ToLower(text(c.Secret, "token_type")))
	require.NotContains(t, c.Data, "unverified", "introspection has verified all of it")
	require.InDelta(t, 600, c.LeaseDuration, 2)
	require.True(t, c.Renewable)

	require.Equal(t, []string{c.GrantID}, s.List(t, "grants/entity/"+agent.EntityID))
	recorded := s.Read(t, "grants/"+c.GrantID)
	require.Equal(t, agent.EntityID, text(recorded, "entity_id"))
	require.Equal(t, "deploy", text(recorded, "role"))
	require.NotContains(t, recorded.Data, "access_token")

	s.vault.CLI(t, "lease", "revoke", "-sync", c.LeaseID)
	s.hydra.MustBeInactive(t, c.Token)
	require.Nil(t, s.Read(t, "grants/"+c.GrantID))
	require.Empty(t, s.List(t, "grants"))
}

func TestLeaseExpiresAndTheTokenWithIt(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	const life = 5 * time.Second
	s.role(t, "brief", harness.Fields{"ttl": life.String()})

	began := time.Now()
	c := read(t, s.Mount, "brief")
	if found := activeUntil(t, s.hydra, c.Token, began.Add(life)); found.Active {
		require.Greater(t, found.ExpiresAt, time.Now().Add(time.Minute).Unix(), "the server would have let it live")
	}
	soonInactive(t, s.hydra, c.Token)
	harness.Eventually(t, patience, "the grant is forgotten", s.noGrant(t, c.GrantID))
}

func TestRenewalMovesTheEnd(t *testing.T) {
	t.Parallel()
	t.Run("up to the end that the server gave the token", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, harness.HydraClient{TokenTTL: 20 * time.Minute}, nil)
		s.role(t, "long", harness.Fields{"ttl": "5m", "max_ttl": "1h"})
		agent := s.agent(t, harness.Agent{Name: "renewer"})
		c := read(t, s.As(agent), "long")
		require.InDelta(t, 300, c.LeaseDuration, 2)

		renewed, err := agent.Client(t).Sys().Renew(c.LeaseID, 600)
		require.NoError(t, err)
		require.InDelta(t, 600, renewed.LeaseDuration, 2)
		require.Empty(t, renewed.Warnings, "it got what it wanted")
		renewed, err = agent.Client(t).Sys().Renew(c.LeaseID, 3600)
		require.NoError(t, err)
		require.Greater(t, renewed.LeaseDuration, 900)
		require.LessOrEqual(t, renewed.LeaseDuration, 1200)
		ends, err := time.Parse(time.RFC3339, text(c.Secret, "expires_at"))
		require.NoError(t, err)
		require.False(t, time.Now().Add(time.Duration(renewed.LeaseDuration)*time.Second).After(ends.Add(2*time.Second)),
			"the lease outlives the token")
		s.hydra.MustBeActive(t, c.Token)
	})
	t.Run("up to the role's max_ttl", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, harness.HydraClient{}, nil)
		s.role(t, "short", harness.Fields{"ttl": "15s", "max_ttl": "25s"})
		began := time.Now()
		c := read(t, s.Mount, "short")
		renewed, err := s.vault.Client(t).Sys().Renew(c.LeaseID, 3600)
		require.NoError(t, err)
		require.LessOrEqual(t, renewed.LeaseDuration, 25)
		soonInactive(t, s.hydra, c.Token)
		require.Greater(t, time.Since(began), 20*time.Second, "the renewal did not last")
		_, err = s.vault.Client(t).Sys().Renew(c.LeaseID, 3600)
		require.Error(t, err, "a dead token's lease was renewed")
	})
}

func TestRevokeByPrefix(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "fallen", nil)
	s.role(t, "standing", nil)
	var fallen []child
	for range 3 {
		fallen = append(fallen, read(t, s.Mount, "fallen"))
	}
	standing := read(t, s.Mount, "standing")

	s.vault.CLI(t, "lease", "revoke", "-sync", "-prefix", s.At("creds/fallen"))
	for _, c := range fallen {
		s.hydra.MustBeInactive(t, c.Token)
	}
	s.hydra.MustBeActive(t, standing.Token)
	require.Equal(t, []string{standing.GrantID}, s.List(t, "grants"))
}

func TestTokensDieWithTheLoginThatAskedForThem(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	agent := s.agent(t, harness.Agent{Name: "leaving"})
	c := read(t, s.As(agent), "deploy")
	require.NoError(t, agent.Client(t).Auth().Token().RevokeSelf(""))
	soonInactive(t, s.hydra, c.Token)
}

func TestJWTsAreSelfContainedAndVerifiedByTheServersKeys(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{JWT: true}, harness.Fields{"verify": "jwt"})
	s.role(t, "deploy", nil)
	c := read(t, s.Mount, "deploy", "scopes=repo:read")
	require.Equal(t, true, c.Data["self_contained"])
	require.Equal(t, 2, strings.Count(c.Token, "."))
	require.Equal(t, []string{"repo:read"}, list(c.Secret, "scopes"))
	require.Equal(t, []string{apiAudience}, list(c.Secret, "audiences"))
	require.NotContains(t, c.Data, "unverified", "the signed claims have verified all of it")
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	s.hydra.MustBeInactive(t, c.Token)

	opaque := newScene(t, harness.HydraClient{}, harness.Fields{"verify": "jwt"})
	opaque.role(t, "deploy", nil)
	_, err := opaque.TryRead(t, "creds/deploy")
	refused(t, err, 501, "provider_violation", "not a JWT")
	require.Empty(t, opaque.List(t, "grants"), "the token that was seen is dead or recorded")
}

// noGrant objects while the grant is on record.
func (s *scene) noGrant(t *testing.T, id string) func() error {
	return func() error {
		t.Helper()
		if s.Read(t, "grants/"+id) != nil {
			return fmt.Errorf("%s is still there", id)
		}
		return nil
	}
}
