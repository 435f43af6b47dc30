package acceptance

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Systems of which no Go in the broker knows: two by the definitions that it ships, and
// one by a definition that an operator writes.

// giteaScene is a mount with the provider http/gitea, whose parent is a user of the shared
// Gitea, and the role tools.
func giteaScene(t *testing.T, through func(gitea string) string) (*scene, *harness.Gitea, harness.Credentials) {
	t.Helper()
	vault, gitea := sharedVault(t), sharedGitea(t)
	s := &scene{Mount: vault.Enable(t, ""), vault: vault}
	bot := gitea.CreateUser(t, s.local("bot"))
	gitea.CreateRepository(t, bot, "tools")
	confidential("Gitea's password", bot.Secret)
	s.Write(t, "providers/http/gitea", harness.Fields{
		"preset": "gitea", "base_url": through(gitea.URL) + "/api/v1", "username": bot.ID, "password": bot.Secret,
	})
	s.Write(t, "roles/tools", harness.Fields{"provider": "http/gitea", "scopes": "read:repository,write:issue", "ttl": "10m"})
	return s, gitea, bot
}

func straight(url string) string { return url }

func TestGiteasTokens(t *testing.T) {
	t.Parallel()
	s, gitea, bot := giteaScene(t, straight)
	require.Equal(t, true, s.Write(t, "providers/http/gitea/check", nil).Data["healthy"])
	agent, repository := s.agent(t, harness.Agent{Name: "builder"}), "/repos/"+bot.ID+"/tools"

	c := read(t, s.As(agent), "tools", "scopes=read:repository")
	require.Equal(t, []string{"read:repository"}, list(c.Secret, "scopes"))
	require.Equal(t, "token", text(c.Secret, "revocation"))
	require.Equal(t, bot.ID, text(c.Secret, "username"))
	require.NotContains(t, c.Data, "unverified", "Gitea's answer is the proof")
	require.Equal(t, http.StatusOK, gitea.As(t, c.Token, http.MethodGet, repository, nil))
	require.Equal(t, http.StatusForbidden, gitea.As(t, c.Token, http.MethodGet, "/user", nil), "beyond the role")
	require.Equal(t, http.StatusForbidden, gitea.As(t, c.Token, http.MethodPost, repository+"/issues", harness.Fields{"title": "x"}), "beyond what was asked for")
	_, err := s.As(agent).TryRead(t, "creds/tools", "scopes=write:repository")
	refused(t, err, 400, "invalid_scope", "nothing is left of the scopes")

	other := read(t, s.As(agent), "tools")
	require.Equal(t, http.StatusCreated, gitea.As(t, other.Token, http.MethodPost, repository+"/issues", harness.Fields{"title": "x"}))
	require.Len(t, gitea.Tokens(t, bot), 2)
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	require.Equal(t, http.StatusUnauthorized, gitea.As(t, c.Token, http.MethodGet, repository, nil))
	require.Equal(t, http.StatusOK, gitea.As(t, other.Token, http.MethodGet, repository, nil))

	killed := s.Write(t, "revoke/entity/"+agent.EntityID, nil)
	require.Equal(t, json.Number("1"), killed.Data["revoked"])
	require.Empty(t, gitea.Tokens(t, bot))

	_, err = s.TryWrite(t, "providers/http/gitea", harness.Fields{"base_url": "https://elsewhere.example/api/v1"})
	refused(t, err, 400, "invalid_request", "password")
	require.NotContains(t, s.Read(t, "providers/http/gitea").Data, "password")
}

// The answer to a mint is lost on its way, after Gitea has made the token.
func TestWhatALostAnswerOfGiteasHasLeftIsFoundByItsName(t *testing.T) {
	t.Parallel()
	needsServers(t)
	toxiproxy := harness.StartToxiproxy(t)
	var network *harness.Proxy
	s, gitea, bot := giteaScene(t, func(url string) string {
		network = toxiproxy.Proxy(t, "gitea", url)
		return network.URL
	})
	spared := read(t, s.Mount, "tools")

	network.Add(t, harness.Toxic{Type: "limit_data", Attributes: harness.Fields{"bytes": 0}})
	_, err := s.TryRead(t, "creds/tools")
	refused(t, err, 503, "temporarily_unavailable")
	require.Len(t, gitea.Tokens(t, bot), 2, "Gitea has made it, and nobody has it")
	lost := ""
	for _, id := range s.List(t, "grants") {
		if id != spared.GrantID {
			lost = id
		}
	}
	require.NotEmpty(t, lost, "it is on record")

	network.Mend(t)
	killed := s.Write(t, "revoke/grant/"+lost, nil)
	require.Equal(t, json.Number("1"), killed.Data["pending"], "an answer could still come until the mint's time is up")
	require.Len(t, gitea.Tokens(t, bot), 1)
	require.Equal(t, http.StatusOK, gitea.As(t, spared.Token, http.MethodGet, "/repos/"+bot.ID+"/tools", nil))
}

// downstreamVault is a Vault whose tokens the broker gives: with two policies, a token role
// that allows them, and a third policy for who makes tokens by that role.
func downstreamVault(t *testing.T) *harness.Vault {
	t.Helper()
	there := harness.StartVault(t, harness.VaultOptions{WithoutPlugin: true})
	for name, policy := range map[string]string{
		"reader": `path "secret/data/tools" { capabilities = ["read"] }`,
		"writer": `path "secret/data/tools" { capabilities = ["update", "create"] }`,
		"broker": `path "auth/token/create/agents" { capabilities = ["update"] }
		           path "auth/token/revoke-accessor" { capabilities = ["update"] }`,
	} {
		require.NoError(t, there.Client(t).Sys().PutPolicy(name, policy))
	}
	put(t, there, "auth/token/roles/agents", harness.Fields{"allowed_policies": "reader,writer", "orphan": true, "renewable": false})
	put(t, there, "secret/data/tools", harness.Fields{"data": harness.Fields{"key": "value"}})
	return there
}

// put writes something to a Vault without the broker.
func put(t *testing.T, there *harness.Vault, path string, fields harness.Fields) *api.Secret {
	t.Helper()
	answer, err := there.Client(t).Logical().Write(path, fields)
	require.NoError(t, err, path)
	return answer
}

func TestAnotherVaultsTokens(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	there := downstreamVault(t)
	parent := put(t, there, "auth/token/create-orphan", harness.Fields{"policies": []string{"broker"}, "period": "24h"}).Auth.ClientToken
	m := vault.Enable(t, "")
	m.Write(t, "providers/http/vault", harness.Fields{
		"preset": "vault", "base_url": there.Addr + "/v1", "settings": harness.Fields{"token_role": "agents"},
		"token": confidential("the other Vault's token", parent),
	})
	m.Write(t, "roles/tools", harness.Fields{"provider": "http/vault", "scopes": "reader,writer", "ttl": "10m"})
	m.Write(t, "roles/too-much", harness.Fields{"provider": "http/vault", "scopes": "reader,broker", "ttl": "10m"})
	require.Equal(t, true, m.Write(t, "providers/http/vault/check", nil).Data["healthy"])

	c := read(t, m, "tools", "scopes=reader")
	require.Equal(t, []string{"reader"}, list(c.Secret, "scopes"))
	mayRead(t, there, c.Token)
	_, err := there.As(c.Token).Client(t).Logical().Write("secret/data/tools", harness.Fields{"data": harness.Fields{"key": "other"}})
	require.Equal(t, http.StatusForbidden, harness.StatusOf(err), "beyond what was asked for: %v", err)
	_, err = there.As(c.Token).Client(t).Auth().Token().LookupSelf()
	require.Equal(t, http.StatusForbidden, harness.StatusOf(err), "not even the default policy: %v", err)
	_, err = m.TryRead(t, "creds/too-much")
	refused(t, err, 400, "invalid_scope", "does not allow one of the policies")

	other := read(t, m, "tools")
	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	mayNotRead(t, there, c.Token)
	mayRead(t, there, other.Token)

	// Somebody there was faster.
	require.NoError(t, there.Client(t).Auth().Token().RevokeTree(other.Token))
	require.NoError(t, endLease(t, vault.Session, other.LeaseID))
}

func mayRead(t *testing.T, there *harness.Vault, token string) {
	t.Helper()
	secret, err := there.As(token).Client(t).Logical().Read("secret/data/tools")
	require.NoError(t, err)
	require.NotNil(t, secret)
}

func mayNotRead(t *testing.T, there *harness.Vault, token string) {
	t.Helper()
	_, err := there.As(token).Client(t).Logical().Read("secret/data/tools")
	require.Equal(t, http.StatusForbidden, harness.StatusOf(err), "%v", err)
}

// The other Vault trusts the broker's issuer: nothing is stored for it, and the broker logs
// in before it makes tokens.
func TestAnotherVaultsTokensWithoutAStoredSecret(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	there := downstreamVault(t)
	m := vault.Enable(t, "")
	issuer := becomeIssuer(t, vault, m)
	require.NoError(t, there.Client(t).Sys().EnableAuthWithOptions("jwt", &api.EnableAuthOptions{Type: "jwt"}))
	put(t, there, "auth/jwt/config", harness.Fields{"jwks_url": issuer + "/.well-known/jwks.json", "bound_issuer": issuer})
	put(t, there, "auth/jwt/role/broker", harness.Fields{
		"role_type": "jwt", "bound_audiences": there.Addr, "bound_subject": "agents", "user_claim": "sub", "token_policies": "broker", "token_ttl": "10m",
	})
	m.Write(t, "providers/http/vault", harness.Fields{
		"preset": "vault_jwt", "base_url": there.Addr + "/v1",
		"settings": harness.Fields{"token_role": "agents", "jwt_role": "broker", "audience": there.Addr, "subject": "agents"},
	})
	m.Write(t, "roles/tools", harness.Fields{"provider": "http/vault", "scopes": "reader", "ttl": "10m"})
	require.Equal(t, true, m.Write(t, "providers/http/vault/check", nil).Data["healthy"])

	c := read(t, m, "tools")
	mayRead(t, there, c.Token)
	// Whoever ends the broker's logins there ends no child, and the broker logs in again.
	require.NoError(t, there.Client(t).Sys().RevokePrefix("auth/jwt/login"))
	mayRead(t, there, c.Token)
	other := read(t, m, "tools")
	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	mayNotRead(t, there, c.Token)
	mayRead(t, there, other.Token)

	put(t, there, "auth/jwt/role/broker", harness.Fields{
		"role_type": "jwt", "bound_audiences": there.Addr, "bound_subject": "somebody-else", "user_claim": "sub", "token_policies": "broker", "token_ttl": "10m",
	})
	require.NoError(t, there.Client(t).Sys().RevokePrefix("auth/jwt/login"))
	_, err := m.TryRead(t, "creds/tools")
	refused(t, err, 501, "parent_refused", "does not take the broker's JWT")
}

// The credential is itself a child, of another provider at the same Vault.
func TestAnotherVaultsTokensByABorrowedOne(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	there := downstreamVault(t)
	put(t, there, "auth/token/roles/brokers", harness.Fields{"allowed_policies": "broker", "orphan": true, "renewable": false})
	require.NoError(t, there.Client(t).Sys().PutPolicy("lender", `
		path "auth/token/create/brokers" { capabilities = ["update"] }
		path "auth/token/revoke-accessor" { capabilities = ["update"] }
		path "auth/token/lookup-self" { capabilities = ["read"] }`))
	parent := put(t, there, "auth/token/create-orphan", harness.Fields{"policies": []string{"lender"}, "period": "24h"}).Auth.ClientToken
	m := vault.Enable(t, "")
	m.Write(t, "providers/http/lender", harness.Fields{
		"preset": "vault", "base_url": there.Addr + "/v1", "settings": harness.Fields{"token_role": "brokers"},
		"token": confidential("the lender's token", parent),
	})
	raw, err := os.ReadFile(filepath.Join("..", "provider", "http", "presets", "vault.json"))
	require.NoError(t, err)
	var definition map[string]any
	require.NoError(t, json.Unmarshal(raw, &definition))
	definition["parent"] = map[string]any{"headers": map[string]any{"X-Vault-Token": "{{borrowed}}"}}
	delete(definition, "check") // for which the policy does not do
	m.Write(t, "providers/http/borrower", harness.Fields{
		"definition": definition, "base_url": there.Addr + "/v1", "settings": harness.Fields{"token_role": "agents"},
		"token_provider": "http/lender", "token_request": harness.Fields{"scopes": []string{"broker"}},
	})
	m.Write(t, "roles/tools", harness.Fields{"provider": "http/borrower", "scopes": "reader", "ttl": "10m"})

	c := read(t, m, "tools")
	mayRead(t, there, c.Token)
	require.Len(t, m.List(t, "grants/entity/broker"), 1, "the broker's own")
	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	mayNotRead(t, there, c.Token)

	other := read(t, m, "tools")
	m.Write(t, "revoke/provider/http/lender", harness.Fields{"freeze": true})
	_, err = m.TryRead(t, "creds/tools")
	require.Error(t, err, "there is nothing to make tokens with")
	mayRead(t, there, other.Token)
	m.Write(t, "revoke/provider/http/lender", harness.Fields{"freeze": false})
	m.Write(t, "revoke/provider/http/borrower", nil)
	mayNotRead(t, there, other.Token)
}

// Kubernetes makes a token in two steps, and ends it by undoing the first.
func TestTokensOfKubernetesByAnOperatorsOwnDefinition(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	for _, made := range [][2]string{{"namespaces", "tools"}, {"namespaces/tools/serviceaccounts", "agent"}} {
		status, _ := k.Do(t, k.Admin, http.MethodPost, "/api/v1/"+made[0], harness.Fields{"metadata": harness.Fields{"name": made[1]}})
		require.Equal(t, http.StatusCreated, status)
	}
	definition, err := os.ReadFile(filepath.Join("..", "..", "testdata", "http", "kubernetes", "definition.json"))
	require.NoError(t, err)
	m := vault.Enable(t, "")
	m.Write(t, "providers/http/kubernetes", harness.Fields{
		"definition": string(definition), "base_url": k.URL, "ca_pem": string(k.CA), "token": k.Admin,
	})
	m.Write(t, "roles/tools", harness.Fields{"provider": "http/kubernetes", "resources": "tools/agent", "ttl": "10m"})
	require.Equal(t, true, m.Write(t, "providers/http/kubernetes/check", nil).Data["healthy"])

	c := read(t, m, "tools")
	user, accepted := k.User(t, c.Token)
	require.True(t, accepted)
	require.Equal(t, "system:serviceaccount:tools:agent", user.Username)
	_, secrets := k.Do(t, k.Admin, http.MethodGet, "/api/v1/namespaces/tools/secrets", nil)
	require.Len(t, secrets["items"], 1)
	_, err = m.TryRead(t, "creds/tools", "resources=kube-system/default")
	refused(t, err, 400, "invalid_target", "nothing is left of the resources")

	// A mint that stops at its second step leaves nothing of the first.
	m.Write(t, "roles/nobody", harness.Fields{"provider": "http/kubernetes", "resources": "tools/nobody", "ttl": "10m"})
	_, err = m.TryRead(t, "creds/nobody")
	refused(t, err, 400, "invalid_target", "no such namespace or service account")
	_, secrets = k.Do(t, k.Admin, http.MethodGet, "/api/v1/namespaces/tools/secrets", nil)
	require.Len(t, secrets["items"], 1)

	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	_, secrets = k.Do(t, k.Admin, http.MethodGet, "/api/v1/namespaces/tools/secrets", nil)
	require.Empty(t, secrets["items"])
	harness.Eventually(t, patience, "the API server has forgotten that it accepted the token", func() error {
		if _, accepted := k.User(t, c.Token); accepted {
			return errors.New("it still accepts it")
		}
		return nil
	})
}
