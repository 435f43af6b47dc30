package acceptance

import (
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// The command that a list's warning names reads on.
func TestALongListIsReadOn(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	ids := []string{read(t, s.Mount, "deploy").GrantID, read(t, s.Mount, "deploy").GrantID}
	slices.Sort(ids)
	output := s.vault.CLI(t, "read", s.At("grants/role/deploy"), "list=true", "limit=1")
	require.Contains(t, output, ids[0])
	command := regexp.MustCompile(`vault\s+(read\s+\S+\s+list=true\s+after=\S+)`).FindStringSubmatch(output)
	require.NotNil(t, command, output)
	output = s.vault.CLI(t, strings.Fields(command[1])...)
	require.Contains(t, output, ids[1])
	require.NotContains(t, output, "more follow")
	lease := s.Read(t, "grants/"+ids[0]).Data["lease_prefix"].(string)
	require.Contains(t, s.vault.CLI(t, "list", "sys/leases/lookup/"+lease), "Keys")
}

// Every path answers to the vault command; lists and maps travel as JSON text.
func TestEveryPathByTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	ci := newSigner(t, "https://ci.example.com")
	cli := func(args ...string) map[string]any {
		t.Helper()
		for i := range args {
			args[i] = strings.Replace(args[i], "broker/", s.Path+"/", 1)
		}
		var answer map[string]any
		output := s.vault.CLI(t, append([]string{args[0], "-format=json"}, args[1:]...)...)
		if output == "" || !strings.HasPrefix(output, "{") {
			return nil
		}
		require.NoError(t, json.Unmarshal([]byte(output), &answer), output)
		return answer
	}
	data := func(answer map[string]any) map[string]any {
		t.Helper()
		found, _ := answer["data"].(map[string]any)
		require.NotNil(t, found, "%v", answer)
		return found
	}
	keys := func(path string) string {
		t.Helper()
		return s.vault.CLI(t, "list", s.At(path))
	}

	// The operator.
	cli("write", "broker/providers/oauth2/acme", "issuer="+s.hydra.URL, "client_id="+s.client.ID, "client_secret="+s.client.Secret,
		"audience_parameter=audience", `allowed_roles=["dep*","ci"]`, "max_ttl=1h", "rate_limit=500", "timeout=5s")
	acme := data(cli("read", "broker/providers/oauth2/acme"))
	require.Equal(t, []any{"dep*", "ci"}, acme["allowed_roles"])
	require.Equal(t, "oauth2", acme["type"])
	require.NotContains(t, acme, "client_secret")
	require.Len(t, acme["client_secret_sha256"], 64)
	cli("write", "broker/providers/oauth2/acme", "timeout=7s") // partial
	require.Equal(t, float64(500), data(cli("read", "broker/providers/oauth2/acme"))["rate_limit"])
	require.Contains(t, keys("providers"), "oauth2/acme")
	require.Contains(t, keys("providers/oauth2"), "acme")
	require.Equal(t, true, data(cli("write", "-force", "broker/providers/oauth2/acme/check"))["healthy"])
	cli("write", "broker/providers/oauth2/acme", "client_secret_next="+s.client.Secret)
	require.Equal(t, true, data(cli("write", "-force", "broker/providers/oauth2/acme/rotate"))["healthy"])

	// The role's author.
	cli("write", "broker/issuers/ci", "jwks_pem="+ci.pem(t), "bound_issuer="+ci.issuer, `bound_audiences=["`+vaultAudience+`"]`)
	require.Equal(t, ci.issuer, data(cli("read", "broker/issuers/ci"))["bound_issuer"])
	require.Contains(t, keys("issuers"), "ci")
	cli("write", "broker/roles/deploy", "provider=oauth2/acme", `scopes=["repo:read","repo:write"]`, "audiences="+apiAudience, "ttl=10m", "max_ttl=30m",
		"default_scopes=repo:read", "on_excess=refuse", `condition=request.ttl <= duration("30m")`)
	cli("write", "broker/roles/ci", "provider=oauth2/acme", "scopes=repo:*", "subject_issuers=ci",
		`bound_subject_claims={"repository":"org/*","/repository_owner":["org","other"]}`)
	require.Equal(t, map[string]any{"repository": []any{"org/*"}, "/repository_owner": []any{"org", "other"}},
		data(cli("read", "broker/roles/ci"))["bound_subject_claims"])
	cli("write", "broker/roles/deploy-details", "provider=oauth2/acme",
		`authorization_details=[{"type":"payment","actions":["initiate","status"],"locations":["https://bank.example.com"]}]`,
		`bound_entity_metadata={"team":"payments"}`, "max_grants_per_entity=5")
	details := data(cli("read", "broker/roles/deploy-details"))
	require.Equal(t, map[string]any{"team": "payments"}, details["bound_entity_metadata"])
	require.Len(t, details["authorization_details"], 1)
	explained := data(cli("write", "broker/roles/deploy-details/explain", `authorization_details=[{"type":"payment","actions":["status"],"locations":["https://bank.example.com"]}]`))
	require.Equal(t, false, explained["allowed"], "root has no metadata")
	require.Contains(t, keys("roles"), "deploy")
	explained = data(cli("write", "broker/roles/deploy/explain", "scopes=repo:write", "remote_addr=192.0.2.1", "ttl=5m"))
	require.Equal(t, true, explained["allowed"])
	require.Equal(t, float64(300), explained["ttl"])

	// The agent.
	first := cli("read", "broker/creds/deploy")
	second := cli("write", "broker/creds/deploy", `scopes=["repo:write"]`, "ttl=1m")
	third := cli("write", "broker/creds/ci", "subject_token="+ci.token(t, nil), "scopes=repo:read")
	require.Equal(t, []any{"repo:read"}, data(first)["scopes"])
	require.Equal(t, []any{"repo:write"}, data(second)["scopes"])
	for _, c := range []map[string]any{first, second, third} {
		confidential("child token", data(c)["access_token"].(string))
		s.hydra.MustBeActive(t, data(c)["access_token"].(string))
	}
	s.vault.CLI(t, "lease", "renew", "-increment=20m", first["lease_id"].(string))

	// The auditor, and whoever is called at night.
	id := data(third)["grant_id"].(string)
	require.Equal(t, "ci", data(cli("read", "broker/grants/"+id))["role"])
	require.Contains(t, keys("grants"), id)
	require.Contains(t, keys("grants/entity"), "none")
	require.Contains(t, keys("grants/entity/none"), id)
	require.Equal(t, float64(1), data(cli("write", "-force", "broker/revoke/grant/"+id))["revoked"])
	require.Equal(t, float64(2), data(cli("write", "broker/revoke/role/deploy", "freeze=true"))["revoked"])
	require.Equal(t, float64(0), data(cli("write", "-force", "broker/revoke/entity/none"))["revoked"])
	require.Equal(t, float64(0), data(cli("write", "-force", "broker/revoke/provider/oauth2/acme"))["revoked"])
	require.Contains(t, keys("frozen"), "role/deploy")
	for _, c := range []map[string]any{first, second, third} {
		s.hydra.MustBeInactive(t, data(c)["access_token"].(string))
	}
	output, err := s.vault.TryCLI(t, "read", s.At("creds/deploy"))
	require.Error(t, err)
	require.Contains(t, output, "access_denied: ")
	require.Contains(t, output, "frozen")
	cli("write", "broker/revoke/role/deploy", "freeze=false")
	require.Equal(t, float64(0), data(cli("write", "-force", "broker/sweep"))["pending"])

	// Away with it.
	for _, path := range []string{"roles/deploy", "roles/deploy-details", "roles/ci", "issuers/ci", "providers/oauth2/acme"} {
		s.vault.CLI(t, "delete", s.At(path))
		output, err := s.vault.TryCLI(t, "read", s.At(path))
		require.Error(t, err)
		require.Contains(t, output, "No value found", path)
	}
}

// metrics is plain text, which the command cannot show, but curl can.
func TestMetricsByHTTP(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	c := read(t, s.Mount, "deploy")
	metrics := func() string {
		answer, err := s.vault.Client(t).Logical().ReadRaw(s.At("metrics"))
		require.NoError(t, err)
		defer answer.Body.Close()
		require.Contains(t, answer.Header.Get("Content-Type"), "text/plain")
		var text strings.Builder
		_, err = io.Copy(&text, answer.Body)
		require.NoError(t, err)
		return text.String()
	}
	require.Contains(t, metrics(), `broker_grants_live{provider="oauth2/hydra",revocable="true"} 1`)
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	after := metrics()
	require.Contains(t, after, `broker_grants_killed_total{cause="lease_ended",provider="oauth2/hydra"} 1`)
	require.NotContains(t, after, c.Token)
}
