package cli

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vaulttest"
)

// patience bounds what should happen at once, on a machine that is busy.
const patience = time.Minute

// TestMain is tokenbroker where a test runs this binary as such: signals, exit codes and
// closed files are those of a process.
func TestMain(m *testing.M) {
	if os.Getenv("TOKENBROKER_TEST") == "as tokenbroker" {
		os.Exit(Main("v0.0.0-test", os.Args[1:]))
	}
	os.Exit(m.Run())
}

// scene is a Vault, and somebody who is logged in there.
type scene struct {
	*vaulttest.Server
	home string
	env  []string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{Server: vaulttest.Start(t), home: t.TempDir()}
	s.env = []string{
		"TOKENBROKER_TEST=as tokenbroker", "PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "TMPDIR=" + s.home,
		"VAULT_ADDR=" + s.URL, "VAULT_TOKEN=" + vaulttest.Token,
	}
	s.SetRole("deploy", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "deploy-token-%", "token_type": "Bearer"}})
	s.SetRole("cloud", vaulttest.Role{Provider: "http/cloud", Fields: map[string]any{
		"access_key_id": "AKIA%", "secret_access_key": "cloud-secret-%", "session_token": "cloud-session-%",
	}})
	return s
}

func (s *scene) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.Command(self, args...) // also in cleanups, when the context has ended
	c.Env = s.env
	return c
}

// result is how a command has ended.
type result struct {
	code           int
	stdout, stderr string
}

func (s *scene) run(t *testing.T, args ...string) result {
	t.Helper()
	return s.runWith(t, "", args...)
}

func (s *scene) runWith(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	c := s.command(t, args...)
	c.Stdin = strings.NewReader(stdin)
	return finish(t, c)
}

func finish(t *testing.T, c *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &stdout
	}
	c.Stderr = &stderr
	_ = c.Run()
	return result{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// eventually waits for what should happen.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	require.Eventually(t, happened, patience, 10*time.Millisecond, what)
}
