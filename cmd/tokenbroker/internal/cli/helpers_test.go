//go:build unix

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vaulttest"
)

// withAgent gives a scene a place for the process that keeps tokens, and ends it.
func withAgent(t *testing.T) *scene {
	t.Helper()
	s := newScene(t)
	dir, err := os.MkdirTemp("", "tb") // a socket's path must be short
	require.NoError(t, err)
	s.env = append(s.env, "XDG_RUNTIME_DIR="+dir)
	t.Cleanup(func() {
		require.Zero(t, s.run(t, "agent", "stop").code)
		require.Empty(t, s.Live(), "what is kept is revoked")
		require.NoError(t, os.RemoveAll(dir))
	})
	s.SetRole("own", vaulttest.Role{Provider: "jwt/own", Fields: map[string]any{"access_token": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJlMSJ9.c2ln%", "token_type": "Bearer"}})
	s.SetRole("forge", vaulttest.Role{Provider: "gitlab/acme", Fields: map[string]any{"access_token": "glpat-%", "username": "oauth2"}})
	return s
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var all map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &all), text)
	return all
}

func TestEachToolGetsItsForm(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	soon := func(t *testing.T, at string) {
		t.Helper()
		until, err := time.Parse(time.RFC3339, at)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), until, time.Hour+time.Minute)
		require.True(t, until.After(time.Now().Add(time.Minute)))
	}
	answered := func(t *testing.T, stdin string, args ...string) string {
		t.Helper()
		r := s.runWith(t, stdin, args...)
		require.Zero(t, r.code, r.stderr)
		require.Empty(t, r.stderr)
		return r.stdout
	}
	t.Run("git", func(t *testing.T) {
		asked := "protocol=https\nhost=git.acme.example\n"
		require.Regexp(t, `^username=x-access-token\npassword=deploy-token-1\npassword_expiry_utc=\d+\n\n?$`, answered(t, asked, "git-credential", "deploy", "get"))
		require.Regexp(t, `^username=oauth2\npassword=glpat-\d\n`, answered(t, "capability[]=authtype\n"+asked, "git-credential", "forge", "get"))
		require.Regexp(t, `^capability\[\]=authtype\nauthtype=Bearer\ncredential=deploy-token-1\nephemeral=1\n`, answered(t, "capability[]=authtype\n"+asked, "git-credential", "deploy", "get"))
		require.Empty(t, answered(t, asked, "git-credential", "deploy", "store"))
		require.Empty(t, answered(t, asked, "git-credential", "deploy", "not-yet-known"))
		require.Empty(t, answered(t, asked, "git-credential", "deploy", "get", "--host", "other.example"))
		require.Contains(t, answered(t, "protocol=http\nhost=127.0.0.1:80\n", "git-credential", "deploy", "get"), "password=")
		r := s.runWith(t, "protocol=http\nhost=git.acme.example\n", "git-credential", "deploy", "get")
		require.Empty(t, r.stdout)
		require.Contains(t, r.stderr, "--allow-http")
	})
	t.Run("aws", func(t *testing.T) {
		got := object(t, answered(t, "", "aws-credential-process", "cloud"))
		soon(t, got["Expiration"].(string))
		delete(got, "Expiration")
		id := strings.TrimPrefix(got["AccessKeyId"].(string), "AKIA")
		require.Equal(t, map[string]any{"Version": 1.0, "AccessKeyId": "AKIA" + id, "SecretAccessKey": "cloud-secret-" + id, "SessionToken": "cloud-session-" + id}, got)
	})
	t.Run("kubectl", func(t *testing.T) {
		got := object(t, answered(t, "", "kubectl-credential", "own"))
		require.Equal(t, "client.authentication.k8s.io/v1", got["apiVersion"])
		soon(t, got["status"].(map[string]any)["expirationTimestamp"].(string))
	})
	t.Run("docker", func(t *testing.T) {
		require.Equal(t, map[string]any{"ServerURL": "images.acme.example", "Username": "oauth2accesstoken", "Secret": "deploy-token-1"},
			object(t, answered(t, "images.acme.example\n", "docker-credential", "deploy", "get")))
		require.Equal(t, "{}\n", answered(t, "", "docker-credential", "deploy", "list"))
		r := s.runWith(t, "other.example", "docker-credential", "deploy", "get", "--host", "images.acme.example")
		require.Equal(t, result{1, "credentials not found in native keychain\n", ""}, r)
		r = s.runWith(t, "x", "docker-credential", "absent", "get")
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stdout, "tokenbroker list")
	})
	t.Run("gcp", func(t *testing.T) {
		got := object(t, answered(t, "", "gcp-executable", "own"))
		require.Equal(t, true, got["success"])
		require.Regexp(t, `^eyJ`, got["id_token"])
		r := s.run(t, "gcp-executable", "deploy")
		require.Zero(t, r.code)
		got = object(t, r.stdout)
		require.Equal(t, false, got["success"])
		require.Equal(t, "65", got["code"])
		require.Contains(t, got["message"], "These could: own")
	})
	t.Run("terraform", func(t *testing.T) {
		require.Equal(t, `{"token":"deploy-token-1"}`+"\n", answered(t, "", "terraform-credentials", "deploy", "get", "app.acme.example"))
		require.Equal(t, "{}\n", answered(t, "", "terraform-credentials", "deploy", "get", "app.acme.example", "--host", "other.example"))
		require.Equal(t, 64, s.run(t, "terraform-credentials", "deploy", "store", "app.acme.example").code)
	})
	t.Run("cargo", func(t *testing.T) {
		ask := `{"v":1,"registry":{"index-url":"sparse+https://crates.acme.example/index/","name":"acme"},"kind":"get","operation":"read","args":["deploy","--host","crates.acme.example"]}` + "\n"
		for _, args := range [][]string{{"--cargo-plugin"}, {"cargo-credential", "deploy", "--cargo-plugin"}} {
			lines := strings.Split(answered(t, ask+strings.Replace(ask, `"get"`, `"login"`, 1), args...), "\n")
			require.Equal(t, `{"v":[1]}`, lines[0])
			got := object(t, lines[1])["Ok"].(map[string]any)
			require.Equal(t, "deploy-token-1", got["token"])
			require.Equal(t, "expires", got["cache"])
			require.Equal(t, `{"Err":{"kind":"operation-not-supported"}}`, lines[2])
		}
		require.Contains(t, answered(t, strings.Replace(ask, "sparse+https://crates", "sparse+https://others", 1), "--cargo-plugin"), "url-not-supported")
		require.Contains(t, answered(t, strings.Replace(ask, `"deploy",`, ``, 1), "--cargo-plugin"), `"kind":"other"`)
	})
	t.Run("bazel", func(t *testing.T) {
		got := object(t, answered(t, `{"uri":"https://cache.acme.example/x"}`, "bazel-credential", "deploy", "get", "--host", "*.acme.example"))
		require.Equal(t, map[string]any{"Authorization": []any{"Bearer deploy-token-1"}}, got["headers"])
		require.Equal(t, 65, s.runWith(t, `{"uri":"https://elsewhere.example/x"}`, "bazel-credential", "deploy", "get", "--host", "*.acme.example").code)
	})
	t.Run("mcp", func(t *testing.T) {
		require.Equal(t, `{"Authorization":"Bearer deploy-token-1"}`+"\n", answered(t, "", "mcp-headers", "deploy"))
		require.Equal(t, `{"X-Api-Key":"deploy-token-1"}`+"\n", answered(t, "", "mcp-headers", "deploy", "--header", "X-Api-Key"))
	})
	t.Run("token", func(t *testing.T) {
		require.Equal(t, "deploy-token-1\n", answered(t, "", "token", "deploy"))
		require.Regexp(t, `^AKIA\d\n$`, answered(t, "", "token", "cloud", "--field", "access_key_id"))
	})
	require.Len(t, s.Requests("broker/creds/deploy"), 1, "all of them have one token")
	r := s.run(t, "agent", "status")
	require.Regexp(t, `(?s)cloud\t.*deploy\t.*own\t`, r.stdout)
}

func TestARoleThatCannotServeAFormatNamesThoseThatCould(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	for format, could := range map[string]string{"aws-credential-process": "cloud", "token": "deploy, forge, own"} {
		role := map[string]string{"token": "cloud"}[format]
		if role == "" {
			role = "deploy"
		}
		r := s.run(t, format, role)
		require.Equal(t, 65, r.code, r.stderr)
		require.Contains(t, r.stderr, "These could: "+could)
		require.NotRegexp(t, `deploy-token|cloud-secret`, r.stderr)
	}
}

func TestGitsRefusalGetsAnotherToken(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	asked := "protocol=https\nhost=git.acme.example\n"
	require.Contains(t, s.runWith(t, asked, "git-credential", "deploy", "get").stdout, "deploy-token-1")
	require.Zero(t, s.runWith(t, asked+"username=x\npassword=somebody's\n", "git-credential", "deploy", "erase").code)
	require.Contains(t, s.runWith(t, asked, "git-credential", "deploy", "get").stdout, "deploy-token-1")
	require.Zero(t, s.runWith(t, asked+"username=x\npassword=deploy-token-1\n", "git-credential", "deploy", "erase").code)
	require.Contains(t, s.runWith(t, asked, "git-credential", "deploy", "get").stdout, "deploy-token-2")
	eventually(t, "the first is revoked", func() bool { return s.Revoked() == 1 })
}

// Whoever is logged in as somebody else gets tokens of their own from the same process.
func TestTheProcessKeepsLoginsApart(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	require.Zero(t, s.run(t, "token", "deploy").code)
	s.env = append(s.env, "VAULT_TOKEN=hvs.stranger")
	r := s.run(t, "token", "deploy")
	require.Equal(t, 78, r.code, r.stdout)
	require.Empty(t, r.stdout)
}

func TestManyToolsStartOneProcess(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	results := make(chan result, 8)
	for range cap(results) {
		go func() { results <- s.run(t, "token", "deploy") }()
	}
	for range cap(results) {
		require.Equal(t, result{0, "deploy-token-1\n", ""}, <-results)
	}
	require.Equal(t, 1, s.Issued())
}

// Whoever comes while a process ends is served by the next.
func TestAProcessIsStoppedWhileToolsAsk(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	results := make(chan result, 6)
	for i := range cap(results) {
		go func() {
			if i%3 == 2 {
				results <- s.run(t, "agent", "stop")
				return
			}
			results <- s.run(t, "token", "deploy")
		}()
	}
	for range cap(results) {
		r := <-results
		require.Zero(t, r.code, r.stderr)
		require.NotContains(t, r.stderr, "no process can keep")
	}
}

func TestASocketOfOthersIsNotUsed(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	dir := filepath.Join(variable(s.env, "XDG_RUNTIME_DIR"), "tokenbroker")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	r := s.run(t, "token", "deploy")
	require.Equal(t, 0, r.code)
	require.Contains(t, r.stderr, "others can look into")
	require.Equal(t, "deploy-token-1\n", r.stdout)
	require.Equal(t, map[string]any{"ttl": "900s"}, s.Requests("creds/deploy")[0].Body, "what nobody ends must end soon")
	require.NoError(t, os.Chmod(dir, 0o700))
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(dir, 4711, 4711))
		require.Contains(t, s.run(t, "token", "deploy").stderr, "belongs to user 4711")
		require.NoError(t, os.Chown(dir, 0, 0))
	}
	s.revokeAll(t)
}

// revokeAll ends what no process keeps.
func (s *scene) revokeAll(t *testing.T) {
	t.Helper()
	for _, id := range s.Live() {
		require.Zero(t, s.run(t, "revoke", id).code)
	}
}

func TestNothingIsKeptWithoutAProcess(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	require.Equal(t, "deploy-token-1\n", s.run(t, "token", "deploy", "--no-agent").stdout)
	s.env = append(s.env, "TOKENBROKER_AGENT=off")
	require.Equal(t, "deploy-token-2\n", s.run(t, "token", "deploy").stdout)
	require.Contains(t, s.run(t, "agent", "status").stderr, "no process keeps tokens")
	s.revokeAll(t)
}

// A process that was killed leaves a socket behind; the next one takes its place.
func TestAProcessThatWasKilledIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	dir := filepath.Join(variable(s.env, "XDG_RUNTIME_DIR"), "tokenbroker")
	run := func() (*os.Process, <-chan error) {
		c := s.command(t, "agent", "run")
		require.NoError(t, c.Start())
		done := make(chan error, 1)
		go func() { done <- c.Wait() }()
		return c.Process, done
	}
	process, done := run()
	eventually(t, "it listens", func() bool { _, err := os.Stat(filepath.Join(dir, "agent-1.sock")); return err == nil })
	require.NoError(t, process.Signal(syscall.SIGKILL))
	require.Error(t, <-done)
	require.FileExists(t, filepath.Join(dir, "lock"))
	require.Equal(t, "deploy-token-1\n", s.run(t, "token", "deploy").stdout)
	_, second := run()
	require.NoError(t, <-second, "there is one already")
}

func TestATerminatedProcessRevokes(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	c := s.command(t, "agent", "run")
	require.NoError(t, c.Start())
	eventually(t, "it is asked", func() bool { return s.run(t, "agent", "status").stderr == "" })
	require.Equal(t, "deploy-token-1\n", s.run(t, "token", "deploy").stdout)
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	require.NoError(t, c.Wait())
	require.Empty(t, s.Live())
	require.Empty(t, filesWith(t, s, "deploy-token", vaulttest.Token))
}

// filesWith are the files of somebody's in which one of some texts stands.
func filesWith(t *testing.T, s *scene, texts ...string) []string {
	t.Helper()
	var found []string
	for _, file := range s.left(t) {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, text := range texts {
			if strings.Contains(string(content), text) {
				found = append(found, file)
			}
		}
	}
	return found
}

func TestAFullDiskKeepsNoToolWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	defer full.Close()
	s := withAgent(t)
	c := s.command(t, "token", "deploy")
	c.Stdout = full
	r := finish(t, c)
	require.Equal(t, 74, r.code)
	require.NotContains(t, r.stderr, "deploy-token")
}
