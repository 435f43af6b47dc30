// Command release makes what is published of a version: binaries for each platform, and
// beside them what others need to trust and install them. docs/release.md names the files.
//
//	make release VERSION=v1.2.3 [PLATFORMS="linux/amd64 …"] [IMAGE=…] [KEY=…]
//
// Nothing in it depends on when or where it is made, so that anybody can make it again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// plugin is the command that Vault runs; the others below cmd/ are for people.
const plugin = "vault-plugin-secrets-broker"

// semantic is what Vault takes for a plugin's version.
var semantic = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

var toolchainLine = regexp.MustCompile(`(?m)^toolchain (\S+)$`)

// release is one version on its way into dist.
type release struct {
	root, dist string
	version    string
	image      string // the plugin's image, as a registry will name it, without tag
	key        string // file of the private key, or ""
	cache      string // GOCACHE of the binaries' build, or "" for the usual one

	platforms []platform
	commands  []string // below cmd/
	commit    string
	time      time.Time // of the commit: the only time that is named anywhere
	toolchain string

	artifacts []artifact
	images    []image
}

type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// inName is the platform as part of a file's name.
func (p platform) inName() string { return p.os + "_" + p.arch }

// artifact is one binary.
type artifact struct {
	command  string
	platform platform
	file     string // in dist
	sha256   string
}

func main() {
	r := release{}
	var platforms string
	flag.StringVar(&r.root, "root", "../..", "the repository")
	flag.StringVar(&r.dist, "dist", "dist", "folder to make, in the repository unless absolute")
	flag.StringVar(&r.version, "version", "", "such as v1.2.3")
	flag.StringVar(&platforms, "platforms", "linux/amd64", "GOOS/GOARCH, separated by spaces")
	flag.StringVar(&r.image, "image", "", "what the plugin's image is called where it will be published, without a tag")
	flag.StringVar(&r.key, "key", "", "Ed25519 private key (PKCS #8, PEM) that signs SHA256SUMS")
	flag.StringVar(&r.cache, "cache", "", "GOCACHE to build the binaries with")
	flag.Parse()
	if err := r.make(strings.Fields(platforms)); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func (r *release) make(platforms []string) error {
	if err := r.prepare(platforms); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"binaries", r.build},
		{"SBOMs", r.sboms},
		{"images", r.layOut},
		{"provenance", r.provenance},
		{"how to register", r.snippets},
		{"SHA256SUMS", r.sums},
		{"signature", r.sign},
	} {
		start := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Printf("release: %s, %.0f s\n", step.what, time.Since(start).Seconds())
	}
	return nil
}

func (r *release) prepare(platforms []string) (err error) {
	if !semantic.MatchString(r.version) {
		return fmt.Errorf("VERSION=%q is not a version that Vault takes: say VERSION=v1.2.3", r.version)
	}
	if r.root, err = filepath.Abs(r.root); err != nil {
		return err
	}
	if !filepath.IsAbs(r.dist) {
		r.dist = filepath.Join(r.root, r.dist)
	}
	for _, p := range platforms {
		system, arch, found := strings.Cut(p, "/")
		if !found {
			return fmt.Errorf("PLATFORMS: %q is not GOOS/GOARCH", p)
		}
		r.platforms = append(r.platforms, platform{system, arch})
	}
	if err := r.source(); err != nil {
		return err
	}
	if err := os.RemoveAll(r.dist); err != nil {
		return err
	}
	return os.MkdirAll(r.dist, 0o755)
}

// source learns what is built, and refuses what nobody else could get.
func (r *release) source() error {
	if err := r.unchanged(); err != nil {
		return err
	}
	seconds, err := r.output("git", "log", "-1", "--format=%ct")
	if err != nil {
		return err
	}
	at, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return err
	}
	r.time = time.Unix(at, 0).UTC()
	if r.toolchain, err = r.output("go", "env", "GOVERSION"); err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(r.root, "go.mod"))
	if err != nil {
		return err
	}
	if named := toolchainLine.FindStringSubmatch(string(mod)); len(named) == 2 && named[1] != r.toolchain {
		fmt.Printf("release: WARNING: go.mod names %s, this is built with %s; the bytes are those of that\n", named[1], r.toolchain)
	}
	r.commands, err = r.below("cmd")
	if err == nil && !slices.Contains(r.commands, plugin) {
		err = fmt.Errorf("there is no cmd/%s", plugin)
	}
	return err
}

// unchanged refuses a tree that is not a commit, and one that has changed since it asked
// before.
func (r *release) unchanged() error {
	dirty, err := r.output("git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if dirty != "" {
		return fmt.Errorf("a release is made of a commit, and these files are not as in HEAD:\n%s", dirty)
	}
	commit, err := r.output("git", "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	if r.commit != "" && r.commit != commit {
		return fmt.Errorf("HEAD was %s when this began, and is %s", r.commit, commit)
	}
	r.commit = commit
	return nil
}

// below are the folders in one of the repository's.
func (r *release) below(folder string) (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(r.root, folder))
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

// build has make build them as it builds them for everybody, for each platform.
func (r *release) build() error {
	for _, p := range r.platforms {
		stage, err := os.MkdirTemp("", "release-")
		if err != nil {
			return err
		}
		err = errors.Join(r.buildFor(p, stage), os.RemoveAll(stage))
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return r.unchanged()
}

func (r *release) buildFor(p platform, stage string) error {
	build := exec.Command("make", "--no-print-directory", "build", "VERSION="+r.version, "BIN="+stage)
	build.Dir, build.Stdout, build.Stderr = r.root, os.Stdout, os.Stderr
	build.Env = append(os.Environ(), "GOOS="+p.os, "GOARCH="+p.arch,
		// What of somebody's environment would be in the binary.
		"GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off")
	if r.cache != "" {
		build.Env = append(build.Env, "GOCACHE="+r.cache)
	}
	if err := build.Run(); err != nil {
		return err
	}
	for _, command := range r.commands {
		a := artifact{command: command, platform: p, file: fmt.Sprintf("%s_%s_%s", command, r.version, p.inName())}
		if p.os == "windows" {
			a.file += ".exe"
		}
		content, err := os.ReadFile(filepath.Join(stage, command))
		if err != nil {
			return fmt.Errorf("make build did not make %s: %w", command, err)
		}
		if err := os.WriteFile(filepath.Join(r.dist, a.file), content, 0o755); err != nil {
			return err
		}
		a.sha256 = sumOf(content)
		r.artifacts = append(r.artifacts, a)
	}
	return nil
}

// output is what a program says, run in the repository.
func (r *release) output(name string, args ...string) (string, error) {
	command := exec.Command(name, args...)
	command.Dir = r.root
	command.Stderr = os.Stderr
	said, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(said)), nil
}
