// Command provision puts the programs that the plugin is developed and tried
// against into bin/: a Vault server, three authorization servers, a proxy that
// misbehaves on request, a Kubernetes API server with its etcd, Gitea, the linter.
//
//	go run ./bootstrap/provision vault hydra op oidc-provider toxiproxy etcd kube-apiserver gitea golangci-lint govulncheck
//
// Each is built from a go.mod of its own below bootstrap/, so that none of them
// weighs on the plugin's; oidc-provider is installed by npm from a package.json of
// its own, and left out aloud where there is no Node.js, unless CI is set. The
// results live in the user's cache directory, keyed by version and recipe; bin/ holds
// links. VAULT=/path/to/vault links an installed Vault instead of building one.
//
// The names plugin, tokenbroker and demo stand for programs of this repository that make builds
// into bin/, so that they are compiled while others are still downloaded.
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
	"sync"
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
	if !filepath.IsAbs(bin) {
		bin = filepath.Join(root, bin)
	}
	m := &maker{
		root: root, bin: bin, cache: filepath.Join(userCache, "tokenbroker"),
		board: newBoard(os.Stdout), slots: make(chan struct{}, sideBySide),
	}
	jobs := make([]func() error, len(wanted))
	for i, name := range wanted {
		known := slices.IndexFunc(recipes, func(r recipe) bool { return r.name == name })
		if known < 0 {
			return fmt.Errorf("nothing is called %q; there are: %s", name, strings.Join(names(), ", "))
		}
		jobs[i] = func() error { return m.provide(recipes[known]) }
	}
	defer m.board.showing()()
	return together(jobs)
}

// together runs all jobs at the same time and returns what went wrong with any.
func together(jobs []func() error) error {
	failed := make([]error, len(jobs))
	var running sync.WaitGroup
	for i, job := range jobs {
		running.Go(func() { failed[i] = job() })
	}
	running.Wait()
	return errors.Join(failed...)
}

// A maker makes the programs of one run. It downloads for all of them at once, and
// compiles some side by side: the end of a build keeps only one core busy.
type maker struct {
	root, bin, cache string
	board            *board
	slots            chan struct{} // who compiles

	// standard is held by who compiles the standard library, so that the others find
	// it in Go's cache instead of compiling it too.
	standard sync.Mutex
}

// More would compete for memory: linking takes up to 2 GB.
const sideBySide = 2

func (m *maker) provide(r recipe) error {
	report := m.board.add(r.name, r.megabytes)
	defer report.end()
	if r.target != "" {
		return m.buildTarget(r, report)
	}
	binary, err := m.obtain(r, report)
	if errors.Is(err, errNoNode) && os.Getenv("CI") == "" {
		fmt.Printf("%s: LEFT OUT: %v. The tests that need it will be skipped.\n", r.name, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return link(binary, filepath.Join(m.bin, r.name))
}

func (m *maker) obtain(r recipe, report *progress) (string, error) {
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
	bootstrap := filepath.Join(m.root, "bootstrap")
	key, err := r.key(bootstrap)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(m.cache, key)
	binary := filepath.Join(dir, r.program())
	if isFile(binary) {
		fmt.Printf("%s: %s from the cache, %s\n", r.name, r.version, binary)
		return binary, nil
	}

	unlock, err := lock(filepath.Join(m.cache, r.name+".lock"), func() { report.doing("waiting for another run that builds it") })
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(binary) {
		fmt.Printf("%s: %s was built by the other run, %s\n", r.name, r.version, binary)
		return binary, nil
	}
	started := time.Now()
	report.doing("starting")
	if err := m.buildInto(r, filepath.Join(bootstrap, r.module), dir, report); err != nil {
		return "", err
	}
	fmt.Printf("%s: %s built in %s, %s\n", r.name, r.version, time.Since(started).Round(time.Second), binary)
	return binary, nil
}

// buildInto lets dir appear only when it is complete: a killed build leaves
// nothing that the next run would take for a result.
func (m *maker) buildInto(r recipe, module, dir string, report *progress) error {
	work, err := os.MkdirTemp(m.cache, "building-"+r.name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	result := filepath.Join(work, "result")
	if err := os.Mkdir(result, 0o755); err != nil {
		return err
	}
	if r.script != "" {
		err = r.install(module, result, report)
	} else {
		err = m.build(r, module, work, filepath.Join(result, r.program()), report)
	}
	if err == nil && len(r.data) > 0 {
		err = r.copyData(module, result, report)
	}
	if err != nil {
		return err
	}
	return os.Rename(result, dir)
}

func (m *maker) build(r recipe, module, work, output string, report *progress) error {
	if len(r.sources) > 0 {
		var err error
		if module, err = r.prepare(module, work, report); err != nil {
			return err
		}
	}
	return m.compile(func() *exec.Cmd { return goCommand(module, r.cgo, r.listArgs()...) },
		goCommand(module, r.cgo, r.buildArgs(output)...), report)
}

// buildTarget has make build a program of this repository, as it does without us.
func (m *maker) buildTarget(r recipe, report *progress) error {
	started := time.Now()
	report.doing("starting")
	target := exec.Command("make", "--no-print-directory", r.target)
	target.Dir = m.root
	target.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -v")
	list := func() *exec.Cmd {
		cmd := exec.Command("go", r.listArgs()...)
		cmd.Dir, cmd.Env = filepath.Join(m.root, r.module), append(os.Environ(), "CGO_ENABLED=0")
		return cmd
	}
	if err := m.compile(list, target, report); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	fmt.Printf("%s: built in %s\n", r.name, time.Since(started).Round(time.Second))
	return nil
}

// compile runs a build. list makes the command that lists what it compiles.
func (m *maker) compile(list func() *exec.Cmd, build *exec.Cmd, report *progress) error {
	sizes, err := toCompile(list(), report)
	if err != nil {
		return err
	}
	report.doing("waiting for its turn")
	m.slots <- struct{}{}
	defer func() { <-m.slots }()
	var release func()
	if anyStandard(sizes) {
		m.standard.Lock()
		if sizes, err = toCompile(list(), report); err != nil {
			m.standard.Unlock()
			return err
		}
		release = m.standard.Unlock
	}
	report.compiling(sizes, release)
	return execute(build, report)
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
