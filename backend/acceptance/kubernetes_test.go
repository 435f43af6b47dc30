package acceptance

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// TestAClusterTrustsTheBroker: keyless federation with a real Kubernetes API server,
// which knows the broker's issuer and no secret of it.
func TestAClusterTrustsTheBroker(t *testing.T) {
	t.Parallel()
	needsServers(t)
	const cluster, elsewhere = "https://kubernetes.example.com", "https://elsewhere.example.com"
	vault := harness.StartVault(t, harness.VaultOptions{TLS: true})
	s := &scene{Mount: vault.Enable(t, ""), vault: vault}
	issuer := vault.Addr + "/v1/" + s.Path
	s.Write(t, "config", harness.Fields{"issuer": issuer})
	s.Write(t, "providers/jwt/own", harness.Fields{"subject": "{{identity.entity.name}}"})
	s.Write(t, "roles/cluster", harness.Fields{"provider": "jwt/own", "audiences": []string{cluster, elsewhere}, "ttl": "10m"})
	agent := s.agent(t, harness.Agent{Name: "deployer"})
	k := harness.StartKubernetes(t, harness.KubernetesOptions{OIDC: harness.KubernetesOIDC{
		Issuer: issuer, ClientID: cluster, CA: vault.CA, UsernamePrefix: "agent:", SigningAlgs: []string{"ES256"},
	}})
	token := func(fields harness.Fields) child { return issue(t, s.As(agent), "cluster", fields) }

	good := token(harness.Fields{"audiences": cluster})
	var user harness.KubernetesUser
	require.Eventually(t, func() bool {
		var ok bool
		user, ok = k.User(t, good.Token)
		return ok
	}, patience, 100*time.Millisecond, "the API server accepts the broker's token")
	require.Equal(t, "agent:"+s.local("deployer"), user.Username)
	list := func() int {
		status, _ := k.Do(t, good.Token, http.MethodGet, "/api/v1/namespaces", nil)
		return status
	}
	require.Equal(t, http.StatusForbidden, list())
	k.Allow(t, user.Username, "namespaces", "list")
	require.Eventually(t, func() bool { return list() == http.StatusOK }, patience, 100*time.Millisecond)

	_, ok := k.User(t, token(harness.Fields{"audiences": elsewhere}).Token)
	require.False(t, ok, "for another audience")

	const life = 5 * time.Second
	ends := time.Now().Add(life - time.Second) // its exp is in whole seconds
	short := token(harness.Fields{"audiences": cluster, "ttl": life.String()})
	if _, ok = k.User(t, short.Token); !ok {
		require.True(t, time.Now().After(ends), "it is refused before its time")
	}
	require.Eventually(t, func() bool {
		_, ok := k.User(t, short.Token)
		return !ok
	}, patience, 500*time.Millisecond, "after its expiry")
}
