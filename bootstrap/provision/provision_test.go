package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
		"ldflags": func(r *recipe) { r.ldflags = "-X main.version=v1" },
		"cgo":     func(r *recipe) { r.cgo = true },
		"script":  func(r *recipe) { r.script = "server.mjs" },
		"data":    func(r *recipe) { r.data = []string{"templates"} },
		"patch":   func(r *recipe) { r.sources = []patchedModule{{Patches: []patch{{File: "f"}}}} },
		"instead": func(r *recipe) { r.sources = []patchedModule{{Instead: map[string]string{"a": "b"}}} },
	}
	for what, change := range changes {
		if key(change) == first {
			t.Errorf("the key ignores %s", what)
		}
	}
	for _, file := range []string{"go.sum", "main.go", "package.json", "package-lock.json", ".npmrc", "memory.mjs", "without/seals/seals.go"} {
		before := key(same)
		write(t, filepath.Join(root, "m", file), "x")
		if key(same) == before {
			t.Errorf("the key ignores %s", file)
		}
	}
	older := func(r *recipe) { r.requires = "v0" }
	write(t, filepath.Join(root, "m", "v0", "go.mod"), "module m")
	write(t, filepath.Join(root, "m", "v0", "go.sum"), "x")
	its, other := key(older), key(same)
	write(t, filepath.Join(root, "m", "v0", "go.sum"), "y")
	if key(older) == its || key(same) != other {
		t.Error("the key does not follow the go.sum that it requires, and that one alone")
	}
	its = key(older)
	write(t, filepath.Join(root, "m", "go.sum"), "y")
	if key(older) != its || key(same) == other {
		t.Error("the key follows a go.sum that stands for nothing")
	}
	before := key(same)
	write(t, filepath.Join(root, "m", "node_modules", "x.mjs"), "x")
	if key(same) != before {
		t.Error("the key depends on node_modules")
	}
}

func TestWithoutNodeItIsLeftOutExceptInCI(t *testing.T) {
	for what, node := range map[string]string{"there is none": "", "it is too old": "v18.20.4", "it cannot say what it is": "?"} {
		t.Run(what, func(t *testing.T) {
			path := t.TempDir()
			if node != "" {
				program(t, filepath.Join(path, "node"), "echo "+node)
				program(t, filepath.Join(path, "npm"), "exit 1")
			}
			t.Setenv("PATH", path)
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
			err := run(bin, []string{"oidc-provider"})
			if !errors.Is(err, errNoNode) || !strings.Contains(err.Error(), "apt-get install nodejs npm") {
				t.Fatalf("in CI: %v", err)
			}
		})
	}
}

func TestWhichNodeIsNewEnough(t *testing.T) {
	for version, enough := range map[string]bool{
		"v20.20.0": true, "v20.19.9": false, "v22.0.0": true, "v18.20.4": false, "v100.0.0": true, "": false, "v20": false, "vx.y.z": false,
	} {
		if newEnough(version) != enough {
			t.Errorf("%q: %v", version, !enough)
		}
	}
}

func TestTheLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path, func() { t.Error("waits for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{}, 1000)
	acquired := make(chan error)
	go func() {
		_, err := lock(path, func() { waiting <- struct{}{} })
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

func program(t *testing.T, path, script string) {
	t.Helper()
	write(t, path, "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
}
