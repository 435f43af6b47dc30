package acceptance

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Children of a refresh token: the parent is used up and replaced by every read,
// and many servers kill it together with a child.

// newFamily is a scene whose parent is a refresh token of Hydra.
func newFamily(t *testing.T, vault *harness.Vault, hydra *harness.Hydra, provider harness.Fields) (s *scene, parent string) {
	t.Helper()
	s = &scene{Mount: vault.Enable(t, ""), vault: vault, hydra: hydra}
	s.client = hydra.CreateClient(t, harness.HydraClient{
		Grants: []string{"authorization_code", "refresh_token"}, Scopes: []string{"repo:read", "repo:write"}, Audiences: []string{apiAudience},
	})
	confidential("client secret", s.client.Secret)
	parent = s.newParent(t)
	fields := harness.Fields{"grant": "refresh_token", "refresh_token": parent, "audience_parameter": nil}
	maps.Copy(fields, provider)
	s.Write(t, "providers/oauth2/hydra", s.provider(fields))
	s.role(t, "deploy", harness.Fields{"scopes": []string{"repo:read", "repo:write", "offline"}, "audiences": nil})
	return s, parent
}

func (s *scene) newParent(t *testing.T) string {
	t.Helper()
	return confidential("refresh token", s.hydra.RefreshToken(t, s.client, []string{"repo:read", "repo:write"}, []string{apiAudience}))
}

func TestEndOfALeaseDoesNotKillTheParent(t *testing.T) {
	t.Parallel()
	s, parent := newFamily(t, sharedVault(t), sharedHydra(t), nil)
	require.Equal(t, "expiry", text(s.Read(t, "providers/oauth2/hydra"), "revocation_class"))
	_, err := s.TryWrite(t, "roles/strict", harness.Fields{"provider": "oauth2/hydra", "scopes": "repo:read", "require_revocable": true})
	refused(t, err, 400, "invalid_request", "require_revocable")

	first := read(t, s.Mount, "deploy")
	require.Equal(t, "expiry", text(first.Secret, "revocation"))
	require.Contains(t, fmt.Sprint(first.Warnings), "nothing can revoke this token")
	s.hydra.MustBeActive(t, first.Token)
	s.hydra.MustBeInactive(t, parent) // used up: the broker has the next one
	require.NoError(t, endLease(t, s.vault.Session, first.LeaseID))
	require.NotNil(t, s.Read(t, "grants/"+first.GrantID), "it is not taken for dead before it expires")

	second := read(t, s.Mount, "deploy")
	s.hydra.MustBeActive(t, second.Token)
	// Hydra's own doing, not the broker's: it keeps one access token per refresh
	// token, so with Hydra such a parent serves one holder at a time.
	s.hydra.MustBeInactive(t, first.Token)
	health := s.Write(t, "providers/oauth2/hydra/check", nil)
	require.Equal(t, true, health.Data["healthy"])
	require.Equal(t, "ok", keyInfo(t, s.Mount, "providers", "oauth2/hydra")["health"])
}

// The documented hazard of revocation=token with a refresh token: Hydra, as many
// servers, revokes the whole family (RFC 7009 2.1), the parent with its child.
func TestRevokingAChildKillsTheParentWhereTheOperatorAsksForIt(t *testing.T) {
	t.Parallel()
	s, _ := newFamily(t, sharedVault(t), sharedHydra(t), harness.Fields{"revocation": "token"})
	c := read(t, s.Mount, "deploy")
	require.Equal(t, "token", text(c.Secret, "revocation"))
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	s.hydra.MustBeInactive(t, c.Token)

	_, err := s.TryRead(t, "creds/deploy")
	refused(t, err, 501, "parent_refused", "refuses the parent credential")
	require.Equal(t, "refused", keyInfo(t, s.Mount, "providers", "oauth2/hydra")["health"])

	s.Write(t, "providers/oauth2/hydra", harness.Fields{"refresh_token": s.newParent(t)})
	s.hydra.MustBeActive(t, read(t, s.Mount, "deploy").Token)
	require.Equal(t, "ok", keyInfo(t, s.Mount, "providers", "oauth2/hydra")["health"])
}

func TestReadsOfOneParentQueueAndAllSucceed(t *testing.T) {
	t.Parallel()
	hydra := sharedHydra(t)
	w := newWire(t, hydra.URL)
	s, _ := newFamily(t, sharedVault(t), hydra, harness.Fields{
		"issuer": nil, "token_url": w.URL + "/oauth2/token", "verify": nil, "timeout": slowTimeout,
	})
	const readers = 16
	children := make([]child, readers)
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			secret, err := s.TryRead(t, "creds/deploy")
			if err != nil {
				t.Errorf("reader %d: %v", i, err)
				return
			}
			children[i] = given(t, secret)
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	tokens := map[string]bool{}
	for _, c := range children {
		tokens[c.Token] = true
	}
	require.Len(t, tokens, readers, "everybody has a token of their own")
	require.Equal(t, readers, w.Requests("/oauth2/token"), "and nobody had to ask twice")
	s.hydra.MustBeActive(t, read(t, s.Mount, "deploy").Token)
}

// Hydra ignores the scope of a refresh (RFC 6749 6 lets a client narrow it), and
// the broker hands out nothing that is more than was asked for.
func TestARefreshThatCannotBeNarrowedIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := newFamily(t, sharedVault(t), sharedHydra(t), nil)
	_, err := s.TryRead(t, "creds/deploy", "scopes=repo:read")
	refused(t, err, 501, "provider_violation", "scope:repo:write", "nothing can kill it")
	grants := s.List(t, "grants")
	require.Len(t, grants, 1, "what was minted and cannot be killed is on record")
	require.Equal(t, false, s.Read(t, "grants/"+grants[0]).Data["pending"], "and nobody tries in vain")
	s.hydra.MustBeActive(t, read(t, s.Mount, "deploy").Token)
}

func TestARefusedParentIsRememberedAndReported(t *testing.T) {
	t.Parallel()
	hydra := sharedHydra(t)
	w := newWire(t, hydra.URL)
	s, parent := newFamily(t, sharedVault(t), hydra, harness.Fields{
		"issuer": nil, "token_url": w.URL + "/oauth2/token", "verify": nil, "introspection_url": nil,
		"verify_connection": false, // which would spend the parent that is revoked here
	})
	hydra.Revoke(t, s.client, parent)
	for range 3 {
		_, err := s.TryRead(t, "creds/deploy")
		refused(t, err, 501, "parent_refused", "invalid_grant", "write a ")
		require.NotContains(t, err.Error(), parent)
	}
	require.Equal(t, 2, w.Requests("/oauth2/token"), "what was refused, once more with nothing asked to know whose fault it is, and never again")

	_, err := s.TryWrite(t, "providers/oauth2/hydra/check", nil)
	refused(t, err, 501, "parent_refused", "invalid_grant", "write a new refresh_token")
	about := keyInfo(t, s.Mount, "providers", "oauth2/hydra")
	require.Equal(t, "refused", about["health"])
	require.Contains(t, about["health_detail"], "invalid_grant")
	require.Equal(t, "refused", keyInfo(t, s.Mount, "providers/oauth2", "hydra")["health"])
	require.Equal(t, "refused", text(s.Read(t, "providers/oauth2/hydra"), "health"))

	s.Write(t, "providers/oauth2/hydra", harness.Fields{"refresh_token": s.newParent(t)})
	s.hydra.MustBeActive(t, read(t, s.Mount, "deploy").Token)
}

func TestOpenIDProviderRotatesTheParent(t *testing.T) {
	t.Parallel()
	vault, op := sharedVault(t), sharedOP(t)
	broker := vault.Enable(t, "")
	parent := confidential("refresh token", op.RefreshToken(t, harness.OPWeb, "email"))
	broker.Write(t, "providers/oauth2/op", harness.Fields{
		"issuer": op.URL, "client_id": harness.OPWeb.ID, "client_secret": harness.OPWeb.Secret,
		"grant": "refresh_token", "refresh_token": parent, "verify": "introspect",
	})
	broker.Write(t, "roles/user", harness.Fields{
		"provider": "oauth2/op", "scopes": "openid,offline_access,email", "default_scopes": "openid,offline_access", "ttl": "2m",
	})
	before := text(broker.Read(t, "providers/oauth2/op"), "refresh_token_sha256")

	first := read(t, broker, "user")
	require.ElementsMatch(t, []string{"openid", "offline_access"}, list(first.Secret, "scopes"))
	require.Equal(t, "expiry", text(first.Secret, "revocation"))
	op.MustBeActive(t, harness.OPWeb, first.Token)
	require.NotEqual(t, before, text(broker.Read(t, "providers/oauth2/op"), "refresh_token_sha256"), "the next parent is stored")

	require.NoError(t, endLease(t, vault.Session, first.LeaseID))
	second := read(t, broker, "user")
	op.MustBeActive(t, harness.OPWeb, second.Token)
	health := broker.Write(t, "providers/oauth2/op/check", nil)
	require.Equal(t, true, health.Data["healthy"])
}

func TestOpenIDProviderKillsATokenWithItsLease(t *testing.T) {
	t.Parallel()
	vault, op := sharedVault(t), sharedOP(t)
	broker := vault.Enable(t, "")
	broker.Write(t, "providers/oauth2/op", harness.Fields{
		"issuer": op.URL, "client_id": harness.OPService.ID, "client_secret": harness.OPService.Secret,
		"verify": "introspect", "confirm_revocation": true,
	})
	broker.Write(t, "roles/service", harness.Fields{"provider": "oauth2/op", "scopes": "openid", "ttl": "1m", "require_revocable": true})
	c := read(t, broker, "service")
	op.MustBeActive(t, harness.OPService, c.Token)
	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	op.MustBeInactive(t, harness.OPService, c.Token)
}
