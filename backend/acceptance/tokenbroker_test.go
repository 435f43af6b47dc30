package acceptance

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// tokenbroker is the command, in the hands of somebody with a token of Vault's.
func (s *scene) tokenbroker(t *testing.T, session *harness.Session, args ...string) *exec.Cmd {
	t.Helper()
	path := filepath.Join(filepath.Dir(harness.PluginPath(t)), "tokenbroker")
	require.FileExists(t, path, "make build builds it")
	c := exec.Command(path, args...)
	c.Dir = t.TempDir()
	c.Env = []string{
		"PATH=" + harness.PathWithVault(t), "HOME=" + c.Dir, "TOKENBROKER_AGENT=off",
		"VAULT_ADDR=" + s.vault.Addr, "VAULT_TOKEN=" + session.Token, "TOKENBROKER_MOUNT=" + s.Path,
	}
	return c
}

const mayRevoke = `path "sys/leases/revoke/*" { capabilities = ["update"] }`

// The token works at the server while the command runs, and is dead when that has ended: by
// itself, or by a signal.
func TestACommandsTokenLivesAsLongAsTheCommand(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	agent := s.agent(t, harness.Agent{Name: "builder", Policy: mayRevoke})
	renewer := s.agent(t, harness.Agent{Name: "renewer"}) // as by Vault's default policy
	for name, c := range map[string]struct {
		end  func(t *testing.T, c *exec.Cmd)
		code int
	}{
		"ended": {func(t *testing.T, c *exec.Cmd) {
			require.NoError(t, os.WriteFile(filepath.Join(c.Dir, "go"), nil, 0o600))
		}, 9},
		"ended without a policy that lets it revoke": {func(t *testing.T, c *exec.Cmd) {
			require.NoError(t, os.WriteFile(filepath.Join(c.Dir, "go"), nil, 0o600))
		}, 9},
		"terminated": {func(t *testing.T, c *exec.Cmd) { require.NoError(t, c.Process.Signal(syscall.SIGTERM)) }, 128 + 15},
	} {
		t.Run(name, func(t *testing.T) {
			who := agent
			if strings.Contains(name, "without") {
				who = renewer
			}
			command := s.tokenbroker(t, who, "exec", "deploy", "--scope", "repo:read", "--", "sh", "-c",
				`echo "$DEPLOY_ACCESS_TOKEN" >new && mv new token; until [ -e go ]; do sleep 0.05; done; exit 9`)
			var said bytes.Buffer
			command.Stderr = &said
			require.NoError(t, command.Start())
			var token string
			harness.Eventually(t, patience, "the command has its token", func() error {
				content, err := os.ReadFile(filepath.Join(command.Dir, "token"))
				token = confidential("child token", strings.TrimSpace(string(content)))
				return err
			})
			found := s.hydra.Introspect(t, token)
			require.True(t, found.Active)
			require.Equal(t, "repo:read", found.Scope)
			c.end(t, command)
			_ = command.Wait()
			require.Equal(t, c.code, command.ProcessState.ExitCode())
			require.Empty(t, said.String())
			if who == renewer {
				soonInactive(t, s.hydra, token)
				return
			}
			s.hydra.MustBeInactive(t, token)
			require.Empty(t, s.List(t, "grants/entity/"+agent.EntityID))
		})
	}
}

// What a role that forwards hands out comes wrapped, and is unwrapped for the command.
func TestACommandGetsAForwardedToken(t *testing.T) {
	t.Parallel()
	s := forwarding(t, nil)
	token := s.usersToken(t, "repo:read")
	command := s.tokenbroker(t, s.agent(t, harness.Agent{Name: "agent", Policy: mayRevoke}), "exec", "forward", "--subject-token", "user.jwt", "--stdin", "access_token", "--", "cat")
	require.NoError(t, os.WriteFile(filepath.Join(command.Dir, "user.jwt"), []byte(token), 0o600))
	var said bytes.Buffer
	command.Stderr = &said
	got, err := command.Output()
	require.NoError(t, err, said.String())
	require.True(t, string(got) == token, "it is another token")
	s.hydra.MustBeInactive(t, token)
}

// The commands that a trust policy is turned into are taken by the engine, and the role
// takes what the policy took.
func TestATrustPolicyOfOctoSTSIsTaken(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	ci := newSigner(t, "https://ci.example.com")
	s.Write(t, "providers/github/acme", harness.Fields{
		"client_id": "Iv1.x", "organization": "acme", "private_key": appKey(t), "base_url": "http://127.0.0.1:1", "verify_connection": false,
	})
	convert := s.tokenbroker(t, s.vault.Session, "convert", "octo-sts", "deploy.sts.yaml", "--repository", "acme/api", "--audience", vaultAudience, "--provider", "github/acme", "--issuer", "ci")
	require.NoError(t, os.WriteFile(filepath.Join(convert.Dir, "deploy.sts.yaml"), []byte("issuer: "+ci.issuer+
		"\nsubject_pattern: repo:acme/(api|web):.*\nclaim_pattern:\n  email_verified: 'true'\n  ref: refs/heads/main\npermissions:\n  contents: read\n"), 0o600))
	commands, err := convert.Output()
	require.NoError(t, err)
	// The issuer has no discovery here; everything else is as it was printed.
	_, role, found := strings.Cut(string(commands), "\nEND\n")
	require.True(t, found)
	s.Write(t, "issuers/ci", harness.Fields{"jwks_pem": ci.pem(t), "bound_issuer": ci.issuer, "bound_audiences": vaultAudience})
	shell := exec.Command("sh")
	shell.Env, shell.Stdin = convert.Env, strings.NewReader(role)
	output, err := shell.CombinedOutput()
	require.NoError(t, err, "%s", output)
	agent := s.agent(t, harness.Agent{Name: "job"})
	for _, c := range []struct {
		claims  harness.Fields
		allowed bool
	}{
		{harness.Fields{"sub": "repo:acme/web:x", "email_verified": true, "ref": "refs/heads/main"}, true},
		{harness.Fields{"sub": "repo:acme/web:x", "email_verified": "true", "ref": "refs/heads/main"}, true},
		{harness.Fields{"sub": "repo:acme/other:x", "email_verified": true, "ref": "refs/heads/main"}, false},
		{harness.Fields{"sub": "repo:acme/web:x", "email_verified": false, "ref": "refs/heads/main"}, false},
		{harness.Fields{"sub": "repo:acme/web:x", "email_verified": true, "ref": "refs/heads/mainly"}, false},
		{harness.Fields{"sub": "repo:acme/web:x", "email_verified": true}, false},
	} {
		said := s.Write(t, "roles/deploy/explain", harness.Fields{"subject_token": ci.token(t, c.claims), "entity_id": agent.EntityID})
		require.Equal(t, c.allowed, said.Data["allowed"], "%v: %v", c.claims, said.Data["reasons"])
	}
}

// appKey is the private key of an App that is nowhere.
func appKey(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return confidential("an App's key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
}
