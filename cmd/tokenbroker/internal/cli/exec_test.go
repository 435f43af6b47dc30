//go:build unix

package cli

import (
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vaulttest"
)

func TestACommandGetsTokensInItsEnvironment(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("gh", vaulttest.Role{Provider: "github/acme", Fields: map[string]any{"access_token": "ghs_%", "username": "x-access-token"}})
	r := s.run(t, "exec", "deploy", "cloud", "gh", "--", "sh", "-c",
		`echo "$DEPLOY_ACCESS_TOKEN $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY $CLOUD_SESSION_TOKEN $GH_TOKEN $GITHUB_TOKEN $GH_USERNAME [$VAULT_TOKEN]"; exit 7`)
	require.Equal(t, result{7, "deploy-token-1 AKIA2 cloud-secret-2 cloud-session-2 ghs_3 ghs_3 x-access-token []\n", ""}, r)
	require.Empty(t, s.Live())
	require.Equal(t, 3, s.Revoked())
	for _, request := range s.Requests("sys/leases/revoke/") {
		require.Equal(t, true, request.Body["sync"])
	}
	require.Equal(t, http.MethodGet, s.Requests("creds/deploy")[0].Method)
}

func TestVariablesFilesAndStdinAreChosen(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	r := s.run(t, "exec", "deploy", "cloud", "--scope", "a,b", "--permission", "contents=read", "--ttl", "5m",
		"--env", "API=deploy:access_token", "--env", "WHAT=deploy:granted", "--file", "KEY_FILE=access_key_id", "--files", "--stdin", "secret_access_key", "--keep-vault-token", "--",
		"sh", "-c", `cat; echo " $API $WHAT $(cat $KEY_FILE) $(cat $TOKENBROKER_DIR/cloud/session_token) $VAULT_TOKEN$DEPLOY_ACCESS_TOKEN"; stat -c %a $TOKENBROKER_DIR $KEY_FILE $TOKENBROKER_DIR/cloud; echo $TOKENBROKER_DIR > $HOME/dir`)
	require.Equal(t, "cloud-secret-2 deploy-token-1 [\"scope:x\"] AKIA2 cloud-session-2 "+vaulttest.Token+"\n700\n600\n700\n", r.stdout, r.stderr)
	dir, err := os.ReadFile(filepath.Join(s.home, "dir"))
	require.NoError(t, err)
	require.NoDirExists(t, strings.TrimSpace(string(dir)))
	asked := s.Requests("creds/deploy")[0]
	require.Equal(t, map[string]any{"scopes": []any{"a", "b"}, "permissions": map[string]any{"contents": "read"}, "ttl": "5m"}, asked.Body)
}

func TestWhatHasNoPlaceIsRefusedBeforeTheCommandRuns(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no dashes":                {[]string{"exec", "deploy", "true"}, 64, "write -- before the command"},
		"no role":                  {[]string{"exec", "--", "true"}, 64, "no role"},
		"no command":               {[]string{"exec", "deploy", "--"}, 64, "no command"},
		"a role twice":             {[]string{"exec", "deploy", "deploy", "--", "true"}, 64, "twice"},
		"an unknown flag":          {[]string{"exec", "--nothing", "deploy", "--", "true"}, 64, "unknown flag"},
		"an unknown command":       {[]string{"nothing"}, 64, "unknown command"},
		"no such field":            {[]string{"exec", "cloud", "--env", "X=access_token", "--", "true"}, 65, "there are: cloud:access_key_id"},
		"half a variable":          {[]string{"exec", "deploy", "--env", "X", "--", "true"}, 64, "NAME=FIELD"},
		"not there":                {[]string{"exec", "deploy", "--", "no-such-command"}, 127, "no such command"},
		"not to be run":            {[]string{"exec", "deploy", "--", "/"}, 126, "/"},
		"a name that is no role's": {[]string{"exec", "../sys", "--", "true"}, 64, "cannot be a role's name"},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.run(t, c.args...)
			require.Equal(t, c.code, r.code, r.stderr)
			require.Contains(t, r.stderr, c.says)
			require.Empty(t, r.stdout)
		})
	}
	require.Empty(t, s.Live())
}

func TestWhatFailsEndsWithItsKind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *scene)
		role   string
		code   int
		says   string
	}{
		"refused": {func(s *scene) {
			s.SetRole("no", vaulttest.Role{Status: 403, Refusal: "access_denied: the role asks for a group"})
		}, "no", 77, "asks for a group"},
		"bad request": {func(s *scene) {
			s.SetRole("no", vaulttest.Role{Status: 400, Refusal: "invalid_scope: admin is beyond the role"})
		}, "no", 77, "beyond the role"},
		"no policy": {func(s *scene) {
			s.SetRole("no", vaulttest.Role{Status: 403, Refusal: "1 error occurred:\n\t* permission denied\n\n"})
		}, "no", 77, "no policy of yours allows it on broker/creds/no"},
		"provider down": {func(s *scene) {
			s.SetRole("no", vaulttest.Role{Status: 503, Refusal: "1 error occurred:\n\t* temporarily_unavailable: spared\n\n"})
		}, "no", 75, "now: temporarily_unavailable: spared"},
		"sealed":      {func(s *scene) { s.Seal(true) }, "deploy", 75, "sealed"},
		"unreachable": {func(s *scene) { s.env = append(s.env, "VAULT_ADDR=http://127.0.0.1:1") }, "deploy", 75, "VAULT_ADDR"},
		"no role":     {func(*scene) {}, "absent", 78, "tokenbroker list"},
		"no mount":    {func(s *scene) { s.env = append(s.env, "TOKENBROKER_MOUNT=elsewhere") }, "deploy", 78, "--mount"},
		"no login":    {func(s *scene) { s.env = append(s.env, "VAULT_TOKEN=") }, "deploy", 78, "not logged in"},
		"old login":   {func(s *scene) { s.env = append(s.env, "VAULT_TOKEN=hvs.old") }, "deploy", 78, "log in again"},
		"no CA":       {func(s *scene) { s.env = append(s.env, "VAULT_CACERT=/nowhere.pem") }, "deploy", 78, "nowhere.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			c.change(s)
			r := s.run(t, "exec", c.role, "--", "echo", "ran")
			require.Equal(t, c.code, r.code, r.stderr)
			require.Contains(t, r.stderr, c.says)
			require.Empty(t, r.stdout)
			require.Len(t, s.Requests("creds/no"), map[bool]int{true: 1}[c.role == "no"], "nothing is asked for twice")
			require.NotContains(t, r.stderr, vaulttest.Token)
		})
	}
}

// The second role's refusal ends what the first has given.
func TestNothingIsLeftOfHalfAStart(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("no", vaulttest.Role{Status: 403, Refusal: "access_denied: no"})
	require.Equal(t, 77, s.run(t, "exec", "deploy", "no", "--", "true").code)
	require.Equal(t, 1, s.Revoked())
}

func TestSignalsReachTheCommandAndLeasesAreRevoked(t *testing.T) {
	t.Parallel()
	// Under nohup the processes of this test would ignore it: one that is caught here is not.
	hungUp := make(chan os.Signal, 1)
	signal.Notify(hungUp, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hungUp) })
	for name, c := range map[string]struct {
		script string
		args   []string
		send   syscall.Signal
		code   int
	}{
		"it ends by the signal":  {"exec sleep 300", nil, syscall.SIGTERM, 128 + 15},
		"it cleans up":           {"trap 'exit 3' TERM; echo >$HOME/ready; sleep 300 & wait", nil, syscall.SIGTERM, 3},
		"interrupted":            {"exec sleep 300", nil, syscall.SIGINT, 128 + 2},
		"hung up":                {"exec sleep 300", nil, syscall.SIGHUP, 128 + 1},
		"it does not heed":       {"trap '' TERM; echo >$HOME/ready; while :; do sleep 0.1; done", []string{"--kill-after", "300ms"}, syscall.SIGTERM, 128 + 9},
		"told of something else": {"trap 'exit 5' USR1; echo >$HOME/ready; sleep 300 & wait", nil, syscall.SIGUSR1, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			ready := filepath.Join(s.home, "ready")
			command := s.command(t, append(append([]string{"exec", "deploy"}, c.args...), "--", "sh", "-c", "echo >$HOME/ready; "+strings.Replace(c.script, "echo >$HOME/ready; ", "", 1))...)
			if strings.HasPrefix(c.script, "trap") { // set before it says that it is ready
				command = s.command(t, append(append([]string{"exec", "deploy"}, c.args...), "--", "sh", "-c", c.script)...)
			}
			require.NoError(t, command.Start())
			eventually(t, "the command runs", func() bool { _, err := os.Stat(ready); return err == nil })
			require.Len(t, s.Live(), 1)
			require.NoError(t, command.Process.Signal(c.send))
			_ = command.Wait()
			require.Equal(t, c.code, command.ProcessState.ExitCode())
			require.Equal(t, 1, s.Revoked())
		})
	}
}

func TestALongCommandsLeasesAreRenewed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("short", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "short-%"}, TTL: 2 * time.Second})
	r := s.run(t, "exec", "short", "--", "sleep", "3")
	require.Equal(t, result{}, r)
	require.GreaterOrEqual(t, len(s.Requests("leases/renew")), 2)
	require.Equal(t, 1, s.Issued())
	require.Equal(t, 1, s.Revoked())
}

func TestFilesGetAnotherTokenWhereALeaseCannotBeRenewed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("fixed", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "fixed-%"}, TTL: 2 * time.Second, Fixed: true})
	r := s.run(t, "exec", "fixed", "--file", "TOKEN=access_token", "--", "sh", "-c", `cat $TOKEN; until grep -q fixed-2 $TOKEN; do sleep 0.05; done; cat $TOKEN`)
	require.Equal(t, result{0, "fixed-1fixed-2", ""}, r)
	require.Empty(t, s.Live())
}

func TestAVariableThatDiesIsTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("fixed", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "fixed-%"}, TTL: time.Second, Fixed: true})
	r := s.run(t, "exec", "fixed", "--", "sleep", "1")
	require.Equal(t, 0, r.code)
	require.Contains(t, r.stderr, "role fixed: the lease of role fixed cannot be renewed beyond")
	r = s.run(t, "exec", "fixed", "--stop-at-end", "--", "sleep", "300")
	require.Equal(t, 128+15, r.code, r.stderr)
	require.Contains(t, r.stderr, "ending the command")
}

func TestAKilledTokenIsNoticed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("short", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "short-%"}, TTL: 2 * time.Second})
	command := s.command(t, "exec", "short", "--stop-at-end", "--", "sleep", "300")
	done := make(chan result, 1)
	go func() { done <- finish(t, command) }()
	eventually(t, "a token", func() bool { return len(s.Live()) == 1 })
	s.KillTokens()
	r := <-done
	require.Equal(t, 128+15, r.code, r.stderr)
	require.Contains(t, r.stderr, "the token of this lease is dead")
}

func TestASealedVaultKeepsNoCommandFromItsEnd(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	command := s.command(t, "exec", "deploy", "--revoke-within", "300ms", "--", "sh", "-c", "until [ -e $HOME/go ]; do sleep 0.02; done; exit 4")
	done := make(chan result, 1)
	go func() { done <- finish(t, command) }()
	eventually(t, "a token", func() bool { return len(s.Live()) == 1 })
	s.Seal(true)
	require.NoError(t, os.WriteFile(filepath.Join(s.home, "go"), nil, 0o600))
	r := <-done
	require.Equal(t, 4, r.code)
	require.Contains(t, r.stderr, "sealed; its token works until")
}

// Vault's default policy lets everybody renew, and nobody revoke.
func TestALeaseThatMayNotBeRevokedIsCutShort(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.OnlyRenew()
	require.Equal(t, result{}, s.run(t, "exec", "deploy", "--", "true"))
	eventually(t, "it has ended", func() bool { return len(s.Live()) == 0 })
	s.SetRole("deploy", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "x"}, Fixed: true})
	r := s.run(t, "exec", "deploy", "--", "true")
	require.Zero(t, r.code)
	require.Contains(t, r.stderr, "no policy of yours allows it on sys/leases/revoke/broker/creds/deploy/*")
	require.Contains(t, r.stderr, "its token works until")
}

// Whoever is killed revokes nothing: the leases' own time ends the tokens, as nobody renews
// them, and the command runs on.
func TestAfterSIGKILLTheLeasesTimeEndsTheTokens(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("short", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "short-%"}, TTL: 2 * time.Second})
	command := s.command(t, "exec", "short", "--", "sh", "-c", "echo $$ >$HOME/new; mv $HOME/new $HOME/pid; exec sleep 300")
	require.NoError(t, command.Start())
	var pid int
	eventually(t, "the command runs", func() bool {
		content, err := os.ReadFile(filepath.Join(s.home, "pid"))
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(content)))
		}
		return err == nil
	})
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	require.NoError(t, command.Process.Kill())
	_ = command.Wait()
	eventually(t, "the lease has ended", func() bool { return len(s.Live()) == 0 })
	require.Zero(t, s.Revoked())
	require.NoError(t, syscall.Kill(pid, 0), "the command runs on")
}

func TestALoginThatEndsFirstIsTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetLogin(2 * time.Hour)
	require.Equal(t, result{}, s.run(t, "exec", "deploy", "--", "true"))
	s.SetLogin(10 * time.Minute)
	r := s.run(t, "exec", "deploy", "cloud", "--", "true")
	require.Zero(t, r.code)
	require.Equal(t, 1, strings.Count(r.stderr, "your login ends at"), r.stderr)
}

func TestAWrappedAnswerIsUnwrapped(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("wrapped", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "wrapped-%"}, Wrapped: true})
	r := s.run(t, "exec", "wrapped", "--", "printenv", "WRAPPED_ACCESS_TOKEN")
	require.Equal(t, result{0, "wrapped-1\n", ""}, r)
	require.Equal(t, 1, s.Revoked())
}

func TestOthersTokensComeByFileOrVariable(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	file := filepath.Join(s.home, "subject")
	require.NoError(t, os.WriteFile(file, []byte("subject-jwt\n"), 0o600))
	require.Zero(t, s.run(t, "exec", "deploy", "--subject-token", file, "--", "true").code)
	s.env = append(s.env, "ID_TOKEN=from-env")
	require.Zero(t, s.run(t, "exec", "deploy", "--subject-token-env", "ID_TOKEN", "--", "true").code)
	asked := s.Requests("creds/deploy")
	require.Equal(t, map[string]any{"subject_token": "subject-jwt"}, asked[0].Body)
	require.Equal(t, map[string]any{"subject_token": "from-env"}, asked[1].Body)
	require.Equal(t, http.MethodPut, asked[0].Method)
}

// A reader that has gone, a full disk: the leases end all the same.
func TestNobodyToSayItTo(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetRole("fixed", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "fixed-%"}, TTL: 3 * time.Second, Fixed: true})
	command := s.command(t, "exec", "fixed", "--", "sleep", "2")
	read, write, err := os.Pipe()
	require.NoError(t, err)
	command.Stderr = write
	require.NoError(t, command.Start())
	require.NoError(t, write.Close())
	require.NoError(t, read.Close())
	_ = command.Wait()
	require.Zero(t, command.ProcessState.ExitCode())
	require.Equal(t, 1, s.Revoked())
}

// Nothing of a token stands where other users look: in arguments, or in files of others.
func TestNoSecretInArguments(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	r := s.run(t, "exec", "deploy", "--files", "--", "sh", "-c", `cat /proc/$PPID/cmdline /proc/$PPID/environ`)
	require.NotContains(t, r.stdout, "deploy-token")
	require.Contains(t, r.stdout, vaulttest.Token, "which somebody has put there")
	require.Empty(t, s.left(t))
}

// left are the files below the home of somebody.
func (s *scene) left(t *testing.T) []string {
	t.Helper()
	var files []string
	require.NoError(t, filepath.WalkDir(s.home, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return nil
	}))
	return files
}
