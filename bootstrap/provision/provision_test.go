package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAPatchFitsExactlyOnce(t *testing.T) {
	for content, fits := range map[string]bool{"a OLD b": true, "nothing": false, "OLD OLD": false} {
		root := t.TempDir()
		file := filepath.Join(root, "f.go")
		write(t, file, content)
		err := patch{File: "f.go", Old: "OLD", New: "new"}.apply(root)
		if (err == nil) != fits {
			t.Errorf("%q: %v", content, err)
		}
		got, _ := os.ReadFile(file)
		if want := strings.Replace(content, "OLD", "new", 1); fits && string(got) != want {
			t.Errorf("%q became %q", content, got)
		}
	}
}

func TestTheKeyFollowsTheRecipe(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "go.mod"), "module m")
	base := recipe{name: "x", version: "v1", module: "m", pkg: "."}
	key := func(change func(*recipe)) string {
		t.Helper()
		r := base
		change(&r)
		k, err := r.key(root)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	same := func(*recipe) {}
	first := key(same)
	if !strings.HasPrefix(first, "x-v1-") || first != key(same) {
		t.Fatalf("keys %q and %q", first, key(same))
	}
	changes := map[string]func(*recipe){
		"version": func(r *recipe) { r.version = "v2" },
		"tags":    func(r *recipe) { r.tags = "minimal" },
		"cgo":     func(r *recipe) { r.cgo = true },
		"script":  func(r *recipe) { r.script = "server.mjs" },
		"patch":   func(r *recipe) { r.source = &patchedSource{Patches: []patch{{File: "f"}}} },
	}
	for what, change := range changes {
		if key(change) == first {
			t.Errorf("the key ignores %s", what)
		}
	}
	for _, file := range []string{"go.sum", "main.go", "package.json", "package-lock.json", ".npmrc", "memory.mjs"} {
		before := key(same)
		write(t, filepath.Join(root, "m", file), "x")
		if key(same) == before {
			t.Errorf("the key ignores %s", file)
		}
	}
	before := key(same)
	write(t, filepath.Join(root, "m", "node_modules", "x.mjs"), "x")
	if key(same) != before {
		t.Error("the key depends on node_modules")
	}
}

func TestWithoutNodeItIsLeftOutExceptInCI(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", "")
	bin := t.TempDir()
	t.Setenv("CI", "")
	if err := run(bin, []string{"oidc-provider"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(bin, "oidc-provider")); !os.IsNotExist(err) {
		t.Fatalf("something was linked: %v", err)
	}
	t.Setenv("CI", "true")
	if err := run(bin, []string{"oidc-provider"}); !errors.Is(err, errNoNode) {
		t.Fatalf("in CI: %v", err)
	}
}

func TestTheLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path, func(time.Duration) { t.Error("waits for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	acquired := make(chan error)
	go func() {
		_, err := lock(path, func(time.Duration) { close(waiting) })
		acquired <- err
	}()
	select {
	case <-waiting:
	case <-acquired:
		t.Fatal("two hold the lock")
	}
	unlock()
	if err := <-acquired; err != nil {
		t.Fatal(err)
	}
}

func TestALinkIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bin", "x")
	for _, target := range []string{"/one", "/two", "/two"} {
		if err := link(target, path); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.Readlink(path); got != target {
			t.Errorf("links to %q instead of %q", got, target)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
