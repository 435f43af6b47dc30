//go:build unix

package cli

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// git itself asks for a token, uses it at a server of git's own, says when it was refused,
// and gets another.
func TestGitUsesItsTokens(t *testing.T) {
	t.Parallel()
	s := withAgent(t)
	repository := filepath.Join(s.home, "repositories", "api.git")
	git := func(args ...string) (string, error) {
		c := exec.Command("git", args...)
		c.Env = append(s.env, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_ASKPASS=true")
		text, err := c.CombinedOutput()
		return string(text), err
	}
	text, err := git("init", "--bare", "--quiet", repository)
	require.NoError(t, err, text)
	path, err := exec.Command("git", "--exec-path").Output()
	require.NoError(t, err)
	backend := filepath.Join(strings.TrimSpace(string(path)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip("this git has no http-backend")
	}

	accepted := atomic.Value{}
	accepted.Store("deploy-token-1")
	serve := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repository), "GIT_HTTP_EXPORT_ALL=1"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		if name != "x-access-token" || password != accepted.Load() {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		serve.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	self, err := os.Executable()
	require.NoError(t, err)
	config := "[credential \"" + server.URL + "\"]\n\thelper =\n\thelper = \"!" + self + " git-credential deploy\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(s.home, ".gitconfig"), []byte(config), 0o600))

	for range 2 {
		text, err = git("clone", "--quiet", server.URL+"/api.git", filepath.Join(t.TempDir(), "clone"))
		require.NoError(t, err, text)
	}
	require.Equal(t, 1, s.Issued())

	accepted.Store("deploy-token-2") // somebody has killed the first
	_, err = git("ls-remote", server.URL+"/api.git")
	require.Error(t, err, "git asks once, and says that the token was refused")
	text, err = git("ls-remote", server.URL+"/api.git")
	require.NoError(t, err, text)
	require.Equal(t, 2, s.Issued())
	require.NotContains(t, text, "deploy-token")
}
