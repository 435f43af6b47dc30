package main

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// refusing is a server that answers 403 to whatever ends in suffix, and with what
// others say to the rest.
func refusing(t *testing.T, suffix string, others map[string]string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := others[r.URL.Path]
		switch {
		case strings.HasSuffix(r.URL.Path, suffix):
			http.Error(w, "blocked by policy", http.StatusForbidden)
		case known:
			fmt.Fprint(w, answer)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// goModSum is the line of go.sum for a go.mod.
func goModSum(module, content string) string {
	file := sha256.Sum256([]byte(content))
	list := sha256.Sum256(fmt.Appendf(nil, "%x  go.mod\n", file))
	return fmt.Sprintf("%s/go.mod h1:%s\n", module, base64.StdEncoding.EncodeToString(list[:]))
}

func requireRefusal(t *testing.T, err error, server *httptest.Server, what ...string) {
	t.Helper()
	var refused *refusal
	if !errors.As(err, &refused) {
		t.Fatalf("not a refusal: %v", err)
	}
	for _, want := range append(what, strings.TrimPrefix(server.URL, "http://"), "403 Forbidden", "will not help") {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %q:\n%v", want, err)
		}
	}
}

func TestAModuleThatIsRefusedIsNamedWithWhatToDo(t *testing.T) {
	const mod = "module example.com/refused\n"
	server := refusing(t, "/example.com/refused/@v/v1.2.3.zip", map[string]string{
		"/example.com/refused/@v/v1.2.3.mod":  mod,
		"/example.com/refused/@v/v1.2.3.info": `{"Version":"v1.2.3"}`,
	})
	t.Setenv("GOPROXY", server.URL)
	t.Setenv("GOMODCACHE", t.TempDir())
	module := t.TempDir()
	write(t, filepath.Join(module, "go.mod"), "module m\n\ngo 1.26.0\n\nrequire example.com/refused v1.2.3\n")
	write(t, filepath.Join(module, "go.sum"), goModSum("example.com/refused v1.2.3", mod)+"example.com/refused v1.2.3 h1:"+strings.Repeat("A", 43)+"=\n")
	write(t, filepath.Join(module, "main.go"), "package main\n\nimport _ \"example.com/refused\"\n\nfunc main() {}\n")
	m := &maker{board: newBoard(io.Discard), slots: make(chan struct{}, 1)}
	err := m.build(recipe{name: "x", pkg: "."}, module, t.TempDir(), filepath.Join(t.TempDir(), "x"), m.board.add("x", 0))
	requireRefusal(t, err, server, "the Go module example.com/refused@v1.2.3", "GOPROXY", server.URL)
}

// The sources that are patched are downloaded in another way.
func TestAPatchedModuleThatIsRefusedIsNamedToo(t *testing.T) {
	for _, suffix := range []string{".info", ".mod", ".zip"} {
		server := refusing(t, "/example.com/patched/@v/v1.2.3"+suffix, map[string]string{
			"/example.com/patched/@v/v1.2.3.mod":  "module example.com/patched\n",
			"/example.com/patched/@v/v1.2.3.info": `{"Version":"v1.2.3"}`,
		})
		t.Setenv("GOPROXY", server.URL)
		t.Setenv("GOMODCACHE", t.TempDir())
		_, err := download([]patchedModule{{Module: "example.com/patched@v1.2.3"}}, t.TempDir(), newBoard(io.Discard).add("x", 0))
		requireRefusal(t, err, server, "the Go module example.com/patched@v1.2.3", "GOPROXY")
	}
}

func TestAnNPMPackageThatIsRefusedIsNamedWithWhatToDo(t *testing.T) {
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("SKIPPED, needs npm")
	}
	server := refusing(t, ".tgz", nil)
	module := t.TempDir()
	write(t, filepath.Join(module, "package.json"), `{"name":"m","version":"1.0.0","dependencies":{"refused":"1.0.0"}}`)
	write(t, filepath.Join(module, "package-lock.json"), `{"name":"m","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{
		"":{"name":"m","version":"1.0.0","dependencies":{"refused":"1.0.0"}},
		"node_modules/refused":{"version":"1.0.0","resolved":"`+server.URL+`/refused/-/refused-1.0.0.tgz","integrity":"sha512-`+strings.Repeat("A", 86)+`=="}}}`)
	write(t, filepath.Join(module, "server.mjs"), "")
	t.Setenv("npm_config_cache", t.TempDir())
	t.Setenv("npm_config_registry", server.URL)
	t.Setenv("npm_config_userconfig", filepath.Join(t.TempDir(), "none"))
	err := recipe{name: "x", script: "server.mjs"}.install(module, t.TempDir(), newBoard(io.Discard).add("x", 0))
	requireRefusal(t, err, server, "the npm package refused", "npm config set registry")
}

func TestAnotherFailureIsLeftAsItIs(t *testing.T) {
	plain := errors.New("exit status 1")
	for _, said := range []string{
		"go: example.com/x@v1.0.0: reading http://127.0.0.1:1/example.com/x/@v/v1.0.0.zip: 404 Not Found",
		"x.go:403:1: undefined: y",
		"npm error 404 Not Found - GET http://127.0.0.1:1/x",
		"",
	} {
		if err := explained(plain, said); err != plain {
			t.Errorf("%q became %v", said, err)
		}
	}
}
