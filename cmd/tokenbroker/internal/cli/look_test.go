package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vaulttest"
)

func TestTheListSaysWhatRolesCanServe(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	r := s.run(t, "list")
	require.Zero(t, r.code, r.stderr)
	require.Regexp(t, `(?m)^deploy +oauth2/acme +mint +token +- +access_token +git-credential,kubectl-credential,docker`, r.stdout)
	require.Regexp(t, `(?m)^cloud .* access_key_id,secret_access_key,session_token +aws-credential-process$`, r.stdout)
	r = s.run(t, "list", "--json")
	var all map[string]struct{ Formats []string }
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &all))
	require.Equal(t, []string{"aws-credential-process"}, all["cloud"].Formats)
}

func TestExplainEndsAsCredsWould(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("no", vaulttest.Role{Status: 403, Refusal: "access_denied: the role asks for a group"})
	r := s.run(t, "explain", "deploy", "--scope", "a", "--entity", "e1")
	require.Zero(t, r.code, r.stderr)
	require.Regexp(t, `allowed +true`, r.stdout)
	require.Equal(t, map[string]any{"scopes": []any{"a"}, "entity_id": "e1"}, s.Requests("explain")[0].Body)
	r = s.run(t, "explain", "no")
	require.Equal(t, 77, r.code)
	require.Regexp(t, `reasons +access_denied: the role asks for a group`, r.stdout)
}

func TestLeasesAndGrantsAreRevoked(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	r := s.run(t, "revoke", "broker/creds/deploy/lease1", "none.123")
	require.Zero(t, r.code, r.stderr)
	require.Len(t, s.Requests("sys/leases/revoke/broker/creds/deploy/lease1"), 1)
	require.Len(t, s.Requests("broker/revoke/grant/none.123"), 1)
	r = s.run(t, "revoke", "unknown", "none.123")
	require.Equal(t, 78, r.code)
	require.Contains(t, r.stderr, "unknown: no such grant is known")
	require.Len(t, s.Requests("broker/revoke/grant/none.123"), 2, "the others are revoked all the same")
}

// Where BAO_ and VAULT_ stand, BAO_ counts; without a token a helper or ~/.vault-token.
func TestVaultIsFoundAsItsOwnCommandFindsIt(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the token helper here is a script")
	}
	write := func(t *testing.T, path, content string, mode os.FileMode) string {
		t.Helper()
		require.NoError(t, os.WriteFile(path, []byte(content), mode))
		return path
	}
	without := []string{"VAULT_ADDR=", "VAULT_TOKEN="}
	for name, c := range map[string]func(t *testing.T, s *scene) []string{
		"BAO_ first": func(_ *testing.T, s *scene) []string {
			return []string{"VAULT_ADDR=http://127.0.0.1:1", "VAULT_TOKEN=x", "BAO_ADDR=" + s.URL, "BAO_TOKEN=" + vaulttest.Token}
		},
		"~/.vault-token": func(t *testing.T, s *scene) []string {
			write(t, filepath.Join(s.home, ".vault-token"), vaulttest.Token+"\n", 0o600)
			return append(without, "VAULT_ADDR="+s.URL)
		},
		"a token helper": func(t *testing.T, s *scene) []string {
			helper := write(t, filepath.Join(s.home, "helper"), "#!/bin/sh\n[ \"$1\" = get ] && echo "+vaulttest.Token+"\n", 0o700)
			write(t, filepath.Join(s.home, ".vault"), "token_helper = \""+helper+"\"\n", 0o600)
			return append(without, "VAULT_ADDR="+s.URL)
		},
		"OpenBao's helper": func(t *testing.T, s *scene) []string {
			helper := write(t, filepath.Join(s.home, "helper"), "#!/bin/sh\n[ \"$1\" = get ] && echo "+vaulttest.Token+"\n", 0o700)
			write(t, filepath.Join(s.home, ".bao"), "token_helper = \""+helper+"\"\n", 0o600)
			return append(without, "BAO_ADDR="+s.URL)
		},
		"by a proxy": func(t *testing.T, s *scene) []string {
			to, err := url.Parse(s.URL)
			require.NoError(t, err)
			proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }})
			t.Cleanup(proxy.Close)
			return []string{"VAULT_ADDR=http://vault.example:8200", "HTTP_PROXY=" + proxy.URL}
		},
		"by Vault's own proxy": func(t *testing.T, s *scene) []string {
			to, err := url.Parse(s.URL)
			require.NoError(t, err)
			proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }})
			t.Cleanup(proxy.Close)
			return []string{"VAULT_ADDR=http://vault.example:8200", "VAULT_PROXY_ADDR=" + proxy.URL, "VAULT_NAMESPACE=team", "VAULT_WRAP_TTL=60s"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.env = append(s.env, c(t, s)...)
			r := s.run(t, "list")
			require.Zero(t, r.code, r.stderr)
			require.Contains(t, r.stdout, "deploy")
			if name == "by Vault's own proxy" {
				require.Equal(t, "team", s.Requests("creds")[0].Namespace)
			}
		})
	}
}

func TestAHelperOfVaultsThatFailsIsTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.home, ".vault"), []byte(`token_helper = "/no/such/helper"`), 0o600))
	s.env = append(s.env, "VAULT_TOKEN=")
	r := s.run(t, "list")
	require.Equal(t, 78, r.code)
	require.Contains(t, r.stderr, "look at token_helper in ~/.vault")
}

func TestACertificateThatNobodyKnowsIsTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	s.env = append(s.env, "VAULT_ADDR="+server.URL)
	r := s.run(t, "list")
	require.Equal(t, 78, r.code)
	require.Contains(t, r.stderr, "VAULT_CACERT")
}

func TestAFullDiskIsTold(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	defer full.Close()
	s := newScene(t)
	c := s.command(t, "list")
	c.Stdout = full
	r := finish(t, c)
	require.Equal(t, 74, r.code)
	require.Contains(t, r.stderr, "no space left")
}
