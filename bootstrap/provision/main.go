// Command provision puts the programs that the plugin is developed and tried
// against into bin/: a Vault server, three authorization servers, a proxy that
// misbehaves on request, the linter.
//
//	go run ./bootstrap/provision vault hydra op oidc-provider toxiproxy golangci-lint
//
// Each is built from a go.mod of its own below bootstrap/, so that none of them
// weighs on the plugin's; oidc-provider is installed by npm from a package.json of
// its own, and left out aloud where there is no Node.js, unless CI is set. The results live in the user's cache directory, keyed
// by version and recipe; bin/ holds links. VAULT=/path/to/vault links an
// installed Vault instead of building one.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "directory for the links")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: provision [-bin dir] %s\n", strings.Join(names(), "|"))
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*bin, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "provision:", err)
		os.Exit(1)
	}
}

func run(bin string, wanted []string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	userCache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("no cache directory (set HOME or XDG_CACHE_HOME): %w", err)
	}
	cache := filepath.Join(userCache, "tokenbroker")
	if !filepath.IsAbs(bin) {
		bin = filepath.Join(root, bin)
	}

	for _, name := range wanted {
		i := slices.IndexFunc(recipes, func(r recipe) bool { return r.name == name })
		if i < 0 {
			return fmt.Errorf("nothing is called %q; there are: %s", name, strings.Join(names(), ", "))
		}
		binary, err := obtain(recipes[i], filepath.Join(root, "bootstrap"), cache)
		if errors.Is(err, errNoNode) && os.Getenv("CI") == "" {
			fmt.Printf("%s: LEFT OUT: %v. The tests that need it will be skipped.\n", name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := link(binary, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return nil
}

func obtain(r recipe, bootstrap, cache string) (string, error) {
	if installed := os.Getenv("VAULT"); r.name == "vault" && installed != "" {
		path, err := exec.LookPath(installed)
		if err != nil {
			return "", fmt.Errorf("VAULT: %w", err)
		}
		fmt.Printf("%s: using the installed %s\n", r.name, path)
		return filepath.Abs(path)
	}

	if r.script != "" {
		if err := lookForNode(); err != nil {
			return "", err
		}
	}
	key, err := r.key(bootstrap)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, key)
	binary := filepath.Join(dir, r.program())
	if isFile(binary) {
		fmt.Printf("%s: %s from the cache, %s\n", r.name, r.version, binary)
		return binary, nil
	}

	unlock, err := lock(filepath.Join(cache, r.name+".lock"), func(waited time.Duration) {
		fmt.Printf("%s: %3.0f s, waiting for another run that builds it\n", r.name, waited.Seconds())
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(binary) {
		fmt.Printf("%s: %s was built by the other run, %s\n", r.name, r.version, binary)
		return binary, nil
	}
	started := time.Now()
	if err := buildInto(r, bootstrap, cache, dir); err != nil {
		return "", err
	}
	fmt.Printf("%s: %s built in %s, %s\n", r.name, r.version, time.Since(started).Round(time.Second), binary)
	return binary, nil
}

// buildInto lets dir appear only when it is complete: a killed build leaves
// nothing that the next run would take for a result.
func buildInto(r recipe, bootstrap, cache, dir string) error {
	work, err := os.MkdirTemp(cache, "building-"+r.name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	result := filepath.Join(work, "result")
	if err := os.Mkdir(result, 0o755); err != nil {
		return err
	}
	if err := r.build(filepath.Join(bootstrap, r.module), work, filepath.Join(result, r.program())); err != nil {
		return err
	}
	return os.Rename(result, dir)
}

// link replaces what is at path in one step, so that a test which runs
// meanwhile never finds it missing.
func link(target, path string) error {
	if current, err := os.Readlink(path); err == nil && current == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Symlink(target, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// repository finds the root, so that the command works from any folder below it.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if isFile(filepath.Join(dir, "bootstrap", "provision", "main.go")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("run it inside the repository")
		}
		dir = parent
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
