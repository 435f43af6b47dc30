package acceptance

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Refusals as callers see them: the contract's status, its code first, and then
// what to do.

func TestRefusalsOverHTTP(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", harness.Fields{"max_ttl": "1h"})
	s.role(t, "exact", harness.Fields{"on_excess": "refuse"})
	s.role(t, "foreign", harness.Fields{"bound_cidrs": "192.0.2.0/24"})
	s.role(t, "quota", harness.Fields{"max_grants_per_entity": 1})
	s.Write(t, "providers/oauth2/wrong", s.provider(harness.Fields{"client_secret": "not-the-secret", "verify_connection": false}))
	s.role(t, "wrong", harness.Fields{"provider": "oauth2/wrong"})
	s.Write(t, "providers/oauth2/nobody", harness.Fields{"token_url": "http://127.0.0.1:9/token", "client_id": "x", "client_secret": "y", "verify_connection": false})
	s.role(t, "nobody", harness.Fields{"provider": "oauth2/nobody", "audiences": nil})

	provider := func(more harness.Fields) harness.Fields { return s.provider(more) }
	for _, c := range []struct {
		path   string
		fields harness.Fields
		status int
		code   string
		say    string
	}{
		{"creds/deploy", harness.Fields{"scope": "repo:read"}, 400, "invalid_request", `unknown field "scope": did you mean scopes?`},
		{"creds/deploy", harness.Fields{"scopes": "repo:read repo:write"}, 400, "invalid_request", "scopes"},
		{"creds/deploy", harness.Fields{"scopes": []any{"repo:read\x07"}}, 400, "invalid_request", "scopes"},
		{"creds/deploy", harness.Fields{"scopes": harness.Fields{"repo": "read"}}, 400, "invalid_request", "want a list of strings"},
		{"creds/deploy", harness.Fields{"scopes": []any{}}, 400, "invalid_scope", "asks for nothing"},
		{"creds/deploy", harness.Fields{"scopes": "repo:admin"}, 400, "invalid_scope", "nothing is left"},
		{"creds/deploy", harness.Fields{"audiences": "https://other.example.com"}, 400, "invalid_target", "nothing is left"},
		{"creds/deploy", harness.Fields{"resources": "https://other.example.com"}, 400, "invalid_target", "nothing is left"},
		{"creds/deploy", harness.Fields{"ttl": "soon"}, 400, "invalid_request", "ttl"},
		{"creds/deploy", harness.Fields{"ttl": -1}, 400, "invalid_request", "ttl"},
		{"creds/deploy", harness.Fields{"scopes": strings.Repeat("x", 70_000)}, 400, "invalid_request", "longer than"},
		{"creds/exact", harness.Fields{"scopes": "repo:read,repo:admin"}, 400, "invalid_scope", "repo:admin"},
		{"creds/absent", nil, 400, "invalid_request", `no role "absent"`},
		{"creds/foreign", nil, 403, "access_denied", "bound_cidrs"},
		{"creds/wrong", nil, 501, "parent_refused", "invalid_client"},
		{"creds/nobody", nil, 503, "temporarily_unavailable", "could not be reached"},
		{"providers/oauth2/wrong/check", nil, 501, "parent_refused", "invalid_client"},
		{"providers/oauth2/absent/check", nil, 400, "invalid_request", "no provider"},
		{"providers/saml/x", harness.Fields{"a": "b"}, 400, "invalid_request", "the types are oauth2"},
		{"providers/oauth2/new", harness.Fields{"client_id": "x", "client_secret": "y"}, 400, "invalid_request", "issuer or token_url is missing"},
		{"providers/oauth2/new", provider(harness.Fields{"issuer": "http://example.com"}), 400, "invalid_request", "must be https"},
		{"providers/oauth2/new", provider(harness.Fields{"issuer": "https://169.254.169.254"}), 400, "invalid_request", "link-local"},
		{"providers/oauth2/new", provider(harness.Fields{"auth_method": "telepathy"}), 400, "invalid_request", "auth_method must be one of"},
		{"providers/oauth2/new", provider(harness.Fields{"rotation_period": "1h"}), 400, "invalid_request", "use providers/oauth2/new/rotate"},
		{"roles/new", harness.Fields{"provider": "oauth2/hydra", "mode": "exchange"}, 400, "invalid_request", "works on a subject token"},
		{"roles/new", harness.Fields{"provider": "oauth2/hydra", "permissions": `{"contents":"read"}`}, 400, "invalid_request", "no permissions"},
		{"roles/new", harness.Fields{"provider": "oauth2/nobody", "audiences": apiAudience}, 400, "invalid_request", "set audience_parameter"},
		{"roles/new", harness.Fields{"provider": "oauth2/hydra", "condition": "identity.nmae == 'x'"}, 400, "invalid_request", "condition"},
		{"roles/new", harness.Fields{"provider": "oauth2/hydra", "parameters": "k=v"}, 400, "invalid_request", "parameters"},
		{"roles/new", harness.Fields{"provider": "oauth2/hydra", "audiences": s.hydra.URL + "/oauth2/token"}, 400, "invalid_request", "an endpoint of"},
		{"issuers/new", harness.Fields{"jwks_url": "https://example.com/keys"}, 400, "invalid_request", "bound_audiences is required"},
		{"issuers/new", harness.Fields{"jwks_url": "https://example.com/keys", "bound_audiences": "x", "allowed_algorithms": "HS256"}, 400, "invalid_request", "HMAC"},
		{"grants/none.0", nil, 0, "", ""}, // no such operation: Vault's own answer
	} {
		_, err := s.TryWrite(t, c.path, c.fields)
		if c.code == "" {
			require.Equal(t, 405, harness.StatusOf(err), "%v", err)
			continue
		}
		refused(t, err, c.status, c.code, c.say)
		require.NotContains(t, err.Error(), "not-the-secret")
	}
	require.Empty(t, s.List(t, "grants"), "a refusal left something behind")

	agent := s.agent(t, harness.Agent{Name: "greedy"})
	read(t, s.As(agent), "quota")
	_, err := s.As(agent).TryRead(t, "creds/quota")
	refused(t, err, 429, "slow_down", "revoke leases")
	_, err = s.TryRead(t, "grants", "list=true", "limit=0")
	refused(t, err, 400, "invalid_request", "limit")
	_, err = s.TryRead(t, "roles/deploy", "depth=2")
	refused(t, err, 400, "invalid_request", `unknown field "depth"`)
}

// The text of 400 and 403 is the broker's alone, the code first, whatever the operation;
// that of 429, 501 and 503 stands in Vault's own frame.
func TestARefusalOnTheWire(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	s.role(t, "foreign", harness.Fields{"bound_cidrs": "192.0.2.0/24"})
	s.role(t, "quota", harness.Fields{"max_grants_per_entity": 1})
	as := s.As(s.agent(t, harness.Agent{Name: "wire"}))
	read(t, as, "quota")
	held := read(t, as, "deploy")

	write := func(path string, fields harness.Fields) error { _, err := as.TryWrite(t, path, fields); return err }
	get := func(path string, query ...string) error { _, err := as.TryRead(t, path, query...); return err }
	operator := func(path string, fields harness.Fields) error { _, err := s.TryWrite(t, path, fields); return err }
	remove := func(path string) error {
		_, err := s.vault.Client(t).Logical().Delete(s.At(path))
		return err
	}
	for name, c := range map[string]struct {
		try    func() error
		status int
		begins string
	}{
		"a read":            {func() error { return get("creds/deploy", "scope=x") }, 400, `invalid_request: unknown field "scope"`},
		"a write":           {func() error { return write("creds/deploy", harness.Fields{"scopes": "repo:admin"}) }, 400, "invalid_scope: nothing is left"},
		"a target":          {func() error { return write("creds/deploy", harness.Fields{"audiences": "https://x.test"}) }, 400, "invalid_target: "},
		"a list":            {func() error { _, err := s.TryRead(t, "grants", "list=true", "limit=0"); return err }, 400, "invalid_request: limit"},
		"a deletion":        {func() error { return remove("providers/oauth2/hydra") }, 400, "invalid_request: "},
		"a create":          {func() error { return operator("roles/new", harness.Fields{"scopes": "x"}) }, 400, "invalid_request: provider is missing"},
		"who may not, read": {func() error { return get("creds/foreign") }, 403, "access_denied: "},
		"who may not":       {func() error { return write("creds/foreign", nil) }, 403, "access_denied: "},
	} {
		status, text := onTheWire(t, c.try())
		require.Equal(t, c.status, status, name)
		require.True(t, strings.HasPrefix(text, c.begins), "%s: %q", name, text)
		require.NotContains(t, text, "\n", name)
	}
	framed := func(err error, status int, begins string) {
		t.Helper()
		got, text := onTheWire(t, err)
		require.Equal(t, status, got, text)
		require.True(t, strings.HasPrefix(text, "1 error occurred:\n\t* "+begins), "%q", text)
	}
	framed(get("creds/quota"), 429, "slow_down: ")
	w.Tamper(func(path string, body []byte) []byte {
		return bytes.Replace(body, []byte(`"scope":"`), []byte(`"scope":"admin `), 1)
	})
	framed(get("creds/deploy"), 501, "provider_violation: ")
	w.Tamper(nil)
	w.Cut()
	framed(get("creds/deploy"), 503, "temporarily_unavailable: ")
	w.Mend()

	// Of a renewal that is refused Vault makes a 400 and a sentence of its own.
	s.Write(t, "revoke/role/deploy", harness.Fields{"freeze": true})
	_, err := s.vault.Client(t).Sys().Renew(held.LeaseID, 60)
	status, text := onTheWire(t, err)
	require.Equal(t, 400, status)
	require.Contains(t, text, "err: access_denied: ")
	require.NotContains(t, text, "logical.Response{")
}

// onTheWire is an answer's status and its only error, as they came.
func onTheWire(t *testing.T, err error) (status int, text string) {
	t.Helper()
	var refused *api.ResponseError
	require.ErrorAs(t, err, &refused)
	require.Len(t, refused.Errors, 1)
	return refused.StatusCode, refused.Errors[0]
}

func TestRefusalsByTheCommandLine(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	output, err := s.vault.TryCLI(t, "write", s.At("creds/deploy"), "scopes=repo:admin")
	require.Error(t, err)
	require.Contains(t, output, "Code: 400")
	require.Contains(t, output, "invalid_scope: nothing is left of the scopes")
	output, err = s.vault.TryCLI(t, "write", s.At("roles/deploy"), `bound_subject_claims={"repository":`)
	require.Error(t, err)
	require.Contains(t, output, "invalid_request: bound_subject_claims: not valid JSON")
	output, err = s.vault.TryCLI(t, "write", s.At("roles/deploy"), "bound_group_name=x")
	require.Error(t, err)
	require.Contains(t, output, "bound_group_names", "the right name is in the message")
}

// An answer that must not be handed out is 501, which Vault's own client, unlike
// every other 5xx, does not ask for again; and the token that was seen is dead.
func TestProviderViolationIsAskedForOnce(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	var minted string
	w.Tamper(func(path string, body []byte) []byte {
		if path == "/oauth2/token" {
			minted = text(decoded(t, body), "access_token")
			return bytes.Replace(body, []byte(`"scope":"`), []byte(`"scope":"admin `), 1)
		}
		return body
	})
	before := w.Requests("/oauth2/token")
	client := s.vault.Client(t)
	client.SetMaxRetries(2)
	_, err := client.Logical().Read(s.At("creds/deploy"))
	refused(t, err, 501, "provider_violation", "scope:admin")
	require.Equal(t, 1, w.Requests("/oauth2/token")-before)
	require.NotEmpty(t, confidential("refused token", minted))
	s.hydra.MustBeInactive(t, minted)
	require.Empty(t, s.List(t, "grants"))

	// If it cannot be killed at once, it is on record until it is.
	w.Tamper(func(path string, body []byte) []byte {
		if path == "/oauth2/token" {
			minted = text(decoded(t, body), "access_token")
			w.Cut()
			return bytes.Replace(body, []byte(`"scope":"`), []byte(`"scope":"admin `), 1)
		}
		return body
	})
	_, err = s.TryRead(t, "creds/deploy")
	refused(t, err, 501, "provider_violation", "scope:admin", "not dead yet")
	s.hydra.MustBeActive(t, minted)
	require.Len(t, s.List(t, "grants"), 1)
	w.Tamper(nil)
	w.Mend()
	harness.Eventually(t, patience, "the sweep has killed it", func() error {
		s.Write(t, "sweep", nil)
		if left := len(s.List(t, "grants")); left > 0 {
			return fmt.Errorf("%d grants are left", left)
		}
		return nil
	})
	s.hydra.MustBeInactive(t, minted)
	require.Empty(t, s.List(t, "grants"))
}
