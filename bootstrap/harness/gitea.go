package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
)

// Gitea is a running Gitea with its data in a folder of the test's, and one
// administrator.
type Gitea struct {
	URL   string
	Admin Credentials // a user's name and password

	process *server
}

// StartGitea starts a Gitea that ends with the test.
func StartGitea(t TB) *Gitea {
	t.Helper()
	dir, port, program := t.TempDir(), freePort(t), executable(t, "", "gitea", "gitea")
	g := &Gitea{URL: "http://" + address(port), Admin: Credentials{ID: "administrator", Secret: "only-for-tests"}}
	config := filepath.Join(dir, "app.ini")
	// Nothing that it does by itself, no service that nobody asks, and no effort for
	// passwords that are public.
	writeFile(t, config, fmt.Appendf(nil, `
WORK_PATH = %[1]s
; In a container root is who runs the tests. What it serves is theirs alone.
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[2]d
ROOT_URL = %[3]s/
STATIC_ROOT_PATH = %[4]s
DISABLE_SSH = true
OFFLINE_MODE = true
[database]
DB_TYPE = sqlite3
PATH = %[1]s/gitea.sqlite
SQLITE_JOURNAL_MODE = WAL
[security]
INSTALL_LOCK = true
SECRET_KEY = only-for-tests
INTERNAL_TOKEN = eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJuYmYiOjB9.5z7VPtQ-2a1Zc5bkYXGLrYbZ7p1vBBE1SjWQ6cK2r9k
PASSWORD_HASH_ALGO = pbkdf2$1$50
[service]
DISABLE_REGISTRATION = true
[indexer]
ISSUE_INDEXER_TYPE = db
[actions]
ENABLED = false
[packages]
ENABLED = false
[cron]
ENABLED = false
[other]
SHOW_FOOTER_VERSION = false
[log]
MODE = console
LEVEL = Info
`, dir, port, g.URL, filepath.Dir(program)))
	g.process = start(t, "gitea", dir, program, "web", "--config", config)
	g.process.await(t, "it answers", answersOK(g.URL+"/api/healthz"))
	start(t, "gitea-administrator", dir, program, "--config", config, "admin", "user", "create", "--admin",
		"--username", g.Admin.ID, "--password", g.Admin.Secret, "--email", "administrator@gitea.example", "--must-change-password=false").finish(t)
	return g
}

// CreateUser makes a user who is no administrator.
func (g *Gitea) CreateUser(t TB, name string) Credentials {
	t.Helper()
	user := Credentials{ID: name, Secret: "only-for-tests-" + name}
	g.asAdmin(t, http.MethodPost, "/admin/users", map[string]any{
		"username": user.ID, "password": user.Secret, "email": name + "@gitea.example", "must_change_password": false,
	}, http.StatusCreated)
	return user
}

// CreateRepository makes one that belongs to the user.
func (g *Gitea) CreateRepository(t TB, owner Credentials, name string) {
	t.Helper()
	g.asAdmin(t, http.MethodPost, "/admin/users/"+owner.ID+"/repos", map[string]any{"name": name, "private": true}, http.StatusCreated)
}

// Tokens names the access tokens that the user has.
func (g *Gitea) Tokens(t TB, user Credentials) []string {
	t.Helper()
	var names []string
	answer := g.call(t, user.basic, http.MethodGet, "/users/"+user.ID+"/tokens?limit=50", nil)
	var tokens []struct{ Name string }
	if err := json.Unmarshal(answer.body, &tokens); err != nil || answer.status != http.StatusOK {
		t.Fatalf("gitea: the tokens of %s: status %d, %v", user.ID, answer.status, err)
	}
	for _, token := range tokens {
		names = append(names, token.Name)
	}
	slices.Sort(names)
	return names
}

// CreateToken makes an access token without the broker; it is "" unless the status is 201.
func (g *Gitea) CreateToken(t TB, user Credentials, name string, scopes ...string) (status int, token string) {
	t.Helper()
	answer := g.call(t, user.basic, http.MethodPost, "/users/"+user.ID+"/tokens", map[string]any{"name": name, "scopes": scopes})
	var made struct {
		Token string `json:"sha1"`
	}
	if err := json.Unmarshal(answer.body, &made); err != nil {
		t.Fatalf("gitea: a token: status %d, %v", answer.status, err)
	}
	return answer.status, made.Token
}

// DeleteToken takes one away, by its name or id.
func (g *Gitea) DeleteToken(t TB, user Credentials, name string) (status int) {
	t.Helper()
	return g.call(t, user.basic, http.MethodDelete, "/users/"+user.ID+"/tokens/"+name, nil).status
}

// As calls the API with an access token, and returns the status.
func (g *Gitea) As(t TB, token, method, path string, body any) int {
	t.Helper()
	return g.call(t, func(r *http.Request) { r.Header.Set("Authorization", "token "+token) }, method, path, body).status
}

func (g *Gitea) asAdmin(t TB, method, path string, body any, want int) {
	t.Helper()
	if answer := g.call(t, g.Admin.basic, method, path, body); answer.status != want {
		t.Fatalf("gitea: %s %s: status %d, %s", method, path, answer.status, answer.body)
	}
}

type giteaAnswer struct {
	status int
	body   []byte
}

func (g *Gitea) call(t TB, authenticate func(*http.Request), method, path string, body any) giteaAnswer {
	t.Helper()
	var content io.Reader = http.NoBody
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatalf("gitea: %s: %v", path, err)
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, g.URL+"/api/v1"+path, content)
	if err != nil {
		t.Fatalf("gitea: %s: %v", path, err)
	}
	request.Header.Set("Content-Type", "application/json")
	authenticate(request)
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatalf("gitea: %v", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		t.Fatalf("gitea: %s: %v", path, err)
	}
	return giteaAnswer{response.StatusCode, answer}
}
