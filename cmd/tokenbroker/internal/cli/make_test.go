package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeysArePublishedForAStaticHost(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.env = append(s.env, "VAULT_TOKEN=") // nobody need be logged in
	dir := filepath.Join(s.home, "www")
	r := s.run(t, "publish", dir)
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stderr, "1 keys of https://issuer.example/v1/broker")
	keys := filepath.Join(dir, ".well-known", "jwks.json")
	content, err := os.ReadFile(keys)
	require.NoError(t, err)
	require.JSONEq(t, `{"keys":[{"kty":"EC","kid":"k1"}]}`, string(content))
	info, err := os.Stat(keys)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode().Perm())

	// What was there stays where something fails.
	s.Seal(true)
	require.Equal(t, 75, s.run(t, "publish", dir).code)
	after, err := os.ReadFile(keys)
	require.NoError(t, err)
	require.Equal(t, content, after)
	entries, err := os.ReadDir(filepath.Join(dir, ".well-known"))
	require.NoError(t, err)
	require.Len(t, entries, 2)
	s.Seal(false)
	s.env = append(s.env, "TOKENBROKER_MOUNT=elsewhere")
	require.Equal(t, 78, s.run(t, "publish", dir).code)
	require.Equal(t, 74, s.run(t, "publish", "--mount", "broker", keys).code, "a file is no folder")
}

func TestATrustPolicyIsConverted(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	file := filepath.Join(s.home, "deploy.sts.yaml")
	require.NoError(t, os.WriteFile(file, []byte("issuer: https://token.actions.githubusercontent.com\nsubject_pattern: repo:acme/.*\npermissions:\n  contents: read\n"), 0o600))
	r := s.run(t, "convert", "octo-sts", file, "--repository", "acme/api", "--audience", "vault", "--provider", "github/acme")
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "# stricter: ")
	require.Contains(t, r.stdout, "vault write broker/issuers/token.actions.githubusercontent.com - <<'END'\n")
	require.Contains(t, r.stdout, "vault write broker/roles/deploy - <<'END'\n")
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"whose":         {[]string{file, "--audience", "vault"}, 64, "--repository OWNER/NAME"},
		"no repository": {[]string{file, "--repository", "acme", "--audience", "vault"}, 64, "write OWNER/NAME"},
		"for whom":      {[]string{file, "--organization", "acme"}, 65, "--audience"},
		"not there":     {[]string{file + "x", "--organization", "acme"}, 64, "no such file"},
	} {
		r := s.run(t, append([]string{"convert", "octo-sts"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%s: %s", name, r.stderr)
		require.Contains(t, r.stderr, c.says, name)
	}
	require.Empty(t, s.Requests("broker"), "Vault is not asked")
}

func TestThereAreManualPagesAndCompletion(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.env = append(s.env, "SOURCE_DATE_EPOCH=1764288000")
	dir := filepath.Join(s.home, "man1")
	r := s.run(t, "man", dir)
	require.Zero(t, r.code, r.stderr)
	for _, page := range []string{"tokenbroker.1", "tokenbroker-exec.1", "tokenbroker-git-credential.1", "tokenbroker-convert-octo-sts.1"} {
		content, err := os.ReadFile(filepath.Join(dir, page))
		require.NoError(t, err)
		require.Contains(t, string(content), "Nov 2025")
		require.NotContains(t, string(content), s.home)
		if _, err := exec.LookPath("man"); err == nil {
			text, err := exec.Command("man", "--warnings", "-l", filepath.Join(dir, page)).CombinedOutput()
			require.NoError(t, err, string(text))
			require.Contains(t, string(text), "tokenbroker")
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := s.run(t, "completion", shell)
		require.Zero(t, r.code, r.stderr)
		require.NotEmpty(t, r.stdout)
	}
	require.Contains(t, s.run(t, "__complete", "exec", "").stdout, "deploy\toauth2/acme")
	require.Contains(t, s.run(t, "__complete", "git-credential", "").stdout, "cloud\thttp/cloud")
	s.Seal(true)
	require.NotContains(t, s.run(t, "__complete", "exec", "").stdout, "deploy")
	require.Equal(t, "tokenbroker version v0.0.0-test\n", s.run(t, "--version").stdout)
}
