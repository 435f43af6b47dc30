package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// No GitHub runs here. This one answers as GitHub describes its API, to which
// bootstrap/conformance holds it.
func TestGitHubsTokens(t *testing.T) {
	t.Parallel()
	needsServers(t)
	g := fake.New(t, fake.Options{Base: "/api/v3"})
	app := g.NewApp("the-broker")
	g.Install(app, "organization", "acme", map[string]string{"contents": "write", "issues": "write", "metadata": "read"}, "api", "svc-a", "svc-b", "secret")
	vault := sharedVault(t)
	s := &scene{Mount: vault.Enable(t, ""), vault: vault}
	confidential("an App's private key", app.PrivateKey)
	next := g.NewKey(app)
	confidential("an App's next private key", next)
	s.Write(t, "providers/github/acme", harness.Fields{
		"base_url": g.URL, "client_id": app.ClientID, "private_key": app.PrivateKey, "private_key_next": next, "organization": "acme",
	})
	require.Contains(t, s.Write(t, "providers/github/acme/check", nil).Data["detail"], "has 4 repositories of acme")
	s.Write(t, "roles/ci", harness.Fields{
		"provider": "github/acme", "resources": "acme/api,acme/svc-*", "permissions": map[string]string{"contents": "read", "issues": "write"}, "ttl": "10m",
	})
	agent := s.agent(t, harness.Agent{Name: "builder"})

	named := issue(t, s.As(agent), "ci", harness.Fields{"resources": "acme/api", "permissions": map[string]string{"contents": "read"}})
	require.Equal(t, "x-access-token", text(named.Secret, "username"))
	require.Equal(t, []string{"acme/api"}, list(named.Secret, "resources"))
	require.True(t, g.Can(named.Token, "acme/api", "contents", "read"))
	require.False(t, g.Can(named.Token, "acme/svc-a", "contents", "read"), "beyond what was asked for")
	require.False(t, g.Can(named.Token, "acme/api", "issues", "read"), "beyond what was asked for")
	all := read(t, s.As(agent), "ci")
	require.Equal(t, []string{"acme/api", "acme/svc-a", "acme/svc-b"}, list(all.Secret, "resources"))
	require.False(t, g.Can(all.Token, "acme/secret", "contents", "read"), "beyond the role")
	_, err := s.As(agent).TryRead(t, "creds/ci", "resources=acme/secret")
	refused(t, err, 400, "invalid_target", "nothing is left of the resources")

	require.NoError(t, endLease(t, s.vault.Session, named.LeaseID))
	require.False(t, g.Alive(named.Token))
	require.True(t, g.Alive(all.Token))
	s.Write(t, "providers/github/acme/rotate", nil)
	g.DeleteKey(app)
	again := read(t, s.As(agent), "ci")
	_, err = s.vault.Client(t).Logical().Delete("identity/entity/id/" + agent.EntityID)
	require.NoError(t, err)
	s.sweepAway(t, all, again)
	require.False(t, g.Alive(all.Token))
	require.False(t, g.Alive(again.Token))
	require.Zero(t, g.Living(), "nor does any token that only counted or listed repositories")
}
