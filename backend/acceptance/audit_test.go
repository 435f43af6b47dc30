package acceptance

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// auditKeys is what the binary's script has stand in the audit log in clear: the story
// below is told with that.
func auditKeys(t *testing.T, kind string) []string {
	t.Helper()
	script, err := exec.Command(harness.PluginPath(t), "-audit-keys", "broker").Output()
	require.NoError(t, err)
	var keys []string
	for _, found := range regexp.MustCompile(`-audit-non-hmac-`+kind+`-keys=(\S+) `).FindAllStringSubmatch(string(script), -1) {
		keys = append(keys, found[1])
	}
	require.NotEmpty(t, keys)
	return keys
}

// entry is one line of the audit log, as far as an auditor needs it.
type entry struct {
	Type  string
	Error string
	Auth  struct {
		EntityID    string `json:"entity_id"`
		DisplayName string `json:"display_name"`
	}
	Request struct {
		ID, Operation, Path string
		Data                map[string]any
	}
	Response struct{ Data map[string]any }
}

// audited are the answers to requests for path, oldest first.
func audited(t *testing.T, path string) []entry {
	t.Helper()
	var found []entry
	for line := range strings.Lines(suite.audit.Text(t)) {
		var e entry
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		if e.Type == "response" && e.Request.Path == path {
			found = append(found, e)
		}
	}
	return found
}

func TestAuditLogTellsTheWholeStoryAndNoSecret(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.Tune(t, harness.Fields{"audit_non_hmac_response_keys": auditKeys(t, "response"), "audit_non_hmac_request_keys": auditKeys(t, "request")})
	ci := newSigner(t, "https://ci.example.com")
	ci.trust(t, s.Mount, "ci")
	s.role(t, "ci", harness.Fields{"subject_issuers": "ci", "bound_subject_claims": harness.Fields{"repository": "org/*"}})
	agent := s.agent(t, harness.Agent{Name: "runner", Policy: fmt.Sprintf("path %q { capabilities = [\"update\"] }", s.At("roles/+/explain"))})
	as := s.As(agent)

	good, bad := ci.token(t, nil), ci.token(t, harness.Fields{"repository": "elsewhere/x"})
	c := issue(t, as, "ci", harness.Fields{"subject_token": good, "scopes": []string{"repo:read", "repo:admin"}, "ttl": "5m"})
	require.Contains(t, fmt.Sprint(c.Warnings), "repo:admin")
	_, err := as.TryWrite(t, "creds/ci", harness.Fields{"subject_token": bad})
	refused(t, err, 403, "access_denied")
	as.Write(t, "roles/ci/explain", harness.Fields{"subject_token": good})
	as.Write(t, "roles/ci/explain", harness.Fields{"subject_token": bad})
	for name, value := range map[string]string{
		"client_secret": "with-a-line-end\n\n", "client_sceret": "misplaced-secret", "timeout": "secret-in-a-number", "issuer": "https://user:secret-in-a-url@example.com",
	} {
		_, err = s.TryWrite(t, "providers/oauth2/hydra", harness.Fields{name: value})
		refused(t, err, 400, "invalid_request", name)
	}

	log := audited(t, s.At("creds/ci"))
	require.Len(t, log, 2)
	granted, denied := log[0], log[1]
	require.Equal(t, agent.EntityID, granted.Auth.EntityID, "who holds it")
	require.Contains(t, granted.Auth.DisplayName, "runner")
	require.Equal(t, s.At("creds/ci"), granted.Request.Path, "by which role")
	in := &api.Secret{Data: granted.Response.Data}
	require.Equal(t, "oauth2/hydra", text(in, "provider"))
	require.Equal(t, "repo:org/payments:ref:refs/heads/main", text(in, "subject"))
	require.Equal(t, "ci", text(in, "subject_issuer"))
	require.Equal(t, []string{"scope:repo:read", "audience:" + apiAudience}, list(in, "granted"))
	require.Equal(t, []string{"scope:repo:admin"}, list(in, "stripped"))
	require.Equal(t, []string{apiAudience}, list(in, "audiences"))
	require.Equal(t, c.GrantID, text(in, "grant_id"))
	require.Equal(t, "token", text(in, "revocation"))
	expires, err := time.Parse(time.RFC3339, text(in, "expires_at"))
	require.NoError(t, err)
	require.Equal(t, text(c.Secret, "expires_at"), expires.Format(time.RFC3339))
	require.Equal(t, []any{"repo:read", "repo:admin"}, granted.Request.Data["scopes"], "what was asked for")
	require.Contains(t, text(in, "access_token"), "hmac-sha256:")
	require.Contains(t, fmt.Sprint(granted.Request.Data["subject_token"]), "hmac-sha256:")
	require.Equal(t, agent.EntityID, denied.Auth.EntityID)
	require.Contains(t, denied.Error, "permission denied", "Vault's own word")
	why := fmt.Sprint(denied.Response.Data["error"])
	require.Contains(t, why, "access_denied: the subject token does not meet the role's bound_subject_claims: repository")
	require.NotContains(t, why, "elsewhere")

	// Freezing can be told from thawing, also where the command line has written it.
	for _, freeze := range []string{"true", "false"} {
		s.vault.CLI(t, "write", s.At("revoke/role/ci"), "freeze="+freeze)
	}
	s.vault.CLI(t, "write", s.At("roles/ci"), `bound_subject_claims={"repository":"org/*"}`, "ttl=5m")
	killed := audited(t, s.At("revoke/role/ci"))
	require.Len(t, killed, 2)
	require.Equal(t, "true", killed[0].Request.Data["freeze"])
	require.Equal(t, "false", killed[1].Request.Data["freeze"])
	written := audited(t, s.At("roles/ci"))
	require.Len(t, written, 2)
	require.Equal(t, "oauth2/hydra", written[0].Request.Data["provider"])
	require.Equal(t, map[string]any{"bound_subject_claims": `{"repository":"org/*"}`, "ttl": "5m"}, written[1].Request.Data)

	explained := audited(t, s.At("roles/ci/explain"))
	require.Len(t, explained, 2)
	require.Equal(t, true, explained[0].Response.Data["allowed"])
	require.Equal(t, false, explained[1].Response.Data["allowed"])
	require.Contains(t, fmt.Sprint(explained[1].Response.Data["reasons"]), "bound_subject_claims")
	// That no secret of this or any other story stands in the log is seen by
	// TestMain, when all of them are over; this story's own are looked for now.
	for _, secret := range []string{good, bad, c.Token, s.client.Secret, agent.Token, "with-a-line-end", "misplaced-secret", "secret-in-a-number", "secret-in-a-url"} {
		require.NotContains(t, suite.audit.Text(t), secret)
	}
}

// With response wrapping the answer's content stands in no log at all, but the
// grant can be told by its holder, and the wrapped token is the real one.
func TestWrappedAnswersWork(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	agent := s.agent(t, harness.Agent{Name: "wrapped"})
	client := agent.Client(t)
	client.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	wrapped, err := client.Logical().Read(s.At("creds/deploy"))
	require.NoError(t, err)
	require.NotNil(t, wrapped.WrapInfo)
	unwrapped, err := s.vault.Client(t).Logical().Unwrap(wrapped.WrapInfo.Token)
	require.NoError(t, err)
	c := given(t, unwrapped)
	s.hydra.MustBeActive(t, c.Token)
	require.Equal(t, []string{c.GrantID}, s.List(t, "grants/entity/"+agent.EntityID))
}
