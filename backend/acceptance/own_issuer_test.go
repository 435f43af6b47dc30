package acceptance

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// The broker as an issuer: what verifiers, who have no Vault token, get to see.

// public reads a path of the mount at a node as anybody may.
func public(t *testing.T, node *harness.Vault, m *harness.Mount, path string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, node.Addr+"/v1/"+m.At(path), http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, body
}

// publicKeys is the key set that a node serves, by key id.
func publicKeys(t *testing.T, node *harness.Vault, m *harness.Mount) map[string]jose.JSONWebKey {
	t.Helper()
	response, body := public(t, node, m, ".well-known/jwks.json")
	require.Equal(t, http.StatusOK, response.StatusCode, "%s", body)
	require.Equal(t, []string{"public, max-age=300"}, response.Header.Values("Cache-Control"))
	require.Equal(t, "application/json", response.Header.Get("Content-Type"))
	return parseKeys(t, body)
}

func parseKeys(t *testing.T, document []byte) map[string]jose.JSONWebKey {
	t.Helper()
	var set jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal(document, &set), "%s", document)
	keys := map[string]jose.JSONWebKey{}
	for _, k := range set.Keys {
		require.True(t, k.Valid() && k.IsPublic() && k.Use == "sig" && k.KeyID != "", "%+v", k)
		keys[k.KeyID] = k
	}
	require.Len(t, keys, len(set.Keys), "key ids are unique")
	require.NotEmpty(t, keys)
	return keys
}

// becomeIssuer makes the mount an issuer at the node's address.
func becomeIssuer(t *testing.T, node *harness.Vault, m *harness.Mount) (issuer string) {
	t.Helper()
	issuer = node.Addr + "/v1/" + m.Path
	m.Write(t, "config", harness.Fields{"issuer": issuer})
	return issuer
}

func TestVerifiersDiscoverTheBrokersKeys(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	m := vault.Enable(t, "")
	for _, path := range []string{".well-known/openid-configuration", ".well-known/jwks.json"} {
		response, body := public(t, vault, m, path)
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
		require.Contains(t, string(body), "invalid_request: ")
	}
	issuer := becomeIssuer(t, vault, m)

	provider, err := oidc.NewProvider(t.Context(), issuer)
	require.NoError(t, err)
	var document struct {
		Issuer     string   `json:"issuer"`
		JWKSURI    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	require.NoError(t, provider.Claims(&document))
	require.Equal(t, issuer, document.Issuer)
	require.Equal(t, issuer+"/.well-known/jwks.json", document.JWKSURI)
	require.Equal(t, []string{"ES256"}, document.Algorithms)
	response, _ := public(t, vault, m, ".well-known/openid-configuration")
	require.Equal(t, []string{"public, max-age=300"}, response.Header.Values("Cache-Control"))
	require.Len(t, publicKeys(t, vault, m), 3)

	for _, path := range []string{"config", "issuer/rotate", ".well-known/", ".well-known/other", "metrics", "roles?list=true"} {
		response, _ := public(t, vault, m, path)
		require.Equal(t, http.StatusForbidden, response.StatusCode, path)
	}
}

func TestKeysArePublishedBeforeTheySign(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	m := vault.Enable(t, "")
	becomeIssuer(t, vault, m)
	before := publicKeys(t, vault, m)

	rotated := m.Write(t, "issuer/rotate", nil)
	activeFrom, err := time.Parse(time.RFC3339, text(rotated, "active_from"))
	require.NoError(t, err)
	require.Greater(t, time.Until(activeFrom), 50*time.Minute)
	both := publicKeys(t, vault, m)
	require.Len(t, both, 6)
	fresh, _ := rotated.Data["key_ids"].(map[string]any)
	require.Len(t, fresh, 3)
	for _, id := range fresh {
		require.Contains(t, both, id)
		require.NotContains(t, before, id)
	}
	for id := range before {
		require.Contains(t, both, id)
	}
	_, err = m.TryWrite(t, "issuer/rotate", nil)
	refused(t, err, 400, "invalid_request", text(rotated, "active_from"))

	m.Write(t, "issuer/rotate", harness.Fields{"emergency": true})
	anew := publicKeys(t, vault, m)
	require.Len(t, anew, 3)
	for id := range anew {
		require.NotContains(t, both, id)
	}
}

// ownKeysStay is one of the promises in restart_test.go.
func ownKeysStay(t *testing.T, s *stage) func(*testing.T) {
	becomeIssuer(t, s.vault, s.Mount)
	s.Write(t, "issuer/rotate", nil)
	before := publicKeys(t, s.vault, s.Mount)
	require.Len(t, before, 6)
	return func(t *testing.T) {
		require.Equal(t, before, publicKeys(t, s.vault, s.Mount))
		_, err := s.TryWrite(t, "issuer/rotate", nil)
		refused(t, err, 400, "invalid_request", "become active at")
	}
}

func TestEveryNodeOfAClusterServesTheSameKeys(t *testing.T) {
	t.Parallel()
	needsServers(t)
	cluster := harness.StartCluster(t, harness.VaultOptions{})
	leader := cluster.Leader(t)
	m := leader.Enable(t, "")
	issuer := becomeIssuer(t, leader, m)
	keys := publicKeys(t, leader, m)
	for _, node := range cluster.Nodes {
		require.Equal(t, keys, publicKeys(t, node, m), "leader or not")
	}
	standby := follower(cluster, leader)
	standby.As(leader.Token).Mount(m.Path).Write(t, "issuer/rotate", nil)
	keys = publicKeys(t, standby, m)
	require.Len(t, keys, 6)

	killed, next := cluster.KillLeader(t)
	require.Equal(t, leader, killed)
	for _, node := range []*harness.Vault{next, follower(cluster, next, killed)} {
		require.Equal(t, keys, publicKeys(t, node, m), "after failover")
	}
	root := next.As(leader.Token).Mount(m.Path)
	require.Equal(t, issuer, text(root.Read(t, "config"), "issuer"))
	_, err := root.TryWrite(t, "issuer/rotate", nil)
	refused(t, err, 400, "invalid_request", "become active at")
	root.Write(t, "issuer/rotate", harness.Fields{"emergency": true})
	keys = publicKeys(t, next, m)
	require.Len(t, keys, 3)
	require.Equal(t, keys, publicKeys(t, follower(cluster, next, killed), m))
}
