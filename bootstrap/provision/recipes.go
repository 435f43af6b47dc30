package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A recipe says how one program is made from the module in bootstrap/<module>: a Go
// program from pkg, or, with script, an npm package installed around that script.
// With target it is one of this repository, which make builds from pkg; its module is a
// folder of the repository.
type recipe struct {
	name      string
	version   string
	module    string // folder below bootstrap/
	requires  string // folder of module whose go.mod and go.sum stand for the module's own
	pkg       string
	tags      string
	ldflags   string // beyond those that all have
	cgo       bool
	sources   []patchedModule
	data      []string // folders of pkg's module that the program reads, put beside it
	script    string   // file in module that Node.js runs
	target    string   // of the Makefile
	megabytes float64  // of source that is compiled, with an empty cache; for the forecast only
}

var recipes = []recipe{
	{
		name:      "vault",
		megabytes: 47,
		version:   "v1.21.4",
		module:    "vault",
		pkg:       "github.com/hashicorp/vault",
		tags:      "minimal",
		sources:   vaultNewest.sources(),
	},
	{
		name:      "vault-1.20",
		megabytes: 47,
		version:   "v1.20.4",
		module:    "vault",
		requires:  "v1.20",
		pkg:       "github.com/hashicorp/vault",
		tags:      "minimal",
		sources:   vault120.sources(),
	},
	{
		name:      "vault-1.19",
		megabytes: 47,
		version:   "v1.19.5",
		module:    "vault",
		requires:  "v1.19",
		pkg:       "github.com/hashicorp/vault",
		tags:      "minimal",
		sources:   vault119.sources(),
	},
	{
		name:      "hydra",
		megabytes: 48,
		version:   "v2.3.0",
		module:    "hydra",
		pkg:       "github.com/ory/hydra/v2",
		tags:      "sqlite,sqlite_omit_load_extension,json1",
		cgo:       true,
	},
	{
		name:      "op",
		megabytes: 16,
		version:   "v3.51.17",
		module:    "op",
		pkg:       ".",
	},
	{
		name:      "toxiproxy",
		megabytes: 15,
		version:   "v2.5.0",
		module:    "toxiproxy",
		pkg:       "github.com/Shopify/toxiproxy/v2/cmd/server",
	},
	{
		name:    "oidc-provider",
		version: "9.13.3",
		module:  "oidc-provider",
		script:  "server.mjs",
	},
	{
		name:      "etcd",
		megabytes: 29,
		version:   "v3.6.13",
		module:    "etcd",
		pkg:       "go.etcd.io/etcd/server/v3",
	},
	{
		name:      "kube-apiserver",
		megabytes: 84,
		version:   "v1.36.3",
		module:    "kube",
		pkg:       "k8s.io/kubernetes/cmd/kube-apiserver",
		// Without them it takes itself for v0.0.0-master.
		ldflags: "-X k8s.io/component-base/version.gitVersion=v1.36.3" +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
	},
	{
		name:      "gitea",
		megabytes: 98,
		version:   "v1.26.0",
		module:    "gitea",
		pkg:       "code.gitea.io/gitea",
		tags:      "sqlite,sqlite_unlock_notify",
		cgo:       true,
		data:      []string{"options", "public", "templates"},
	},
	{
		name:      "tofu",
		megabytes: 150,
		version:   "v1.12.6",
		module:    "tofu",
		pkg:       "github.com/opentofu/opentofu/cmd/tofu",
	},
	{
		name:      "actionlint",
		megabytes: 8,
		version:   "v1.7.12",
		module:    "actionlint",
		pkg:       "github.com/rhysd/actionlint/cmd/actionlint",
	},
	{
		name:      "golangci-lint",
		megabytes: 39,
		version:   "v2.15.0",
		module:    "tools",
		pkg:       "github.com/golangci/golangci-lint/v2/cmd/golangci-lint",
	},
	{
		name:      "govulncheck",
		megabytes: 10,
		version:   "v1.9.0",
		module:    "govulncheck",
		pkg:       "golang.org/x/vuln/cmd/govulncheck",
	},
	{name: "plugin", target: "plugin", megabytes: 36, pkg: "./cmd/vault-plugin-secrets-broker"},
	{name: "tokenbroker", target: "tokenbroker", megabytes: 17, module: "cmd/tokenbroker", pkg: "."},
	{name: "demo", target: "bin/demo", megabytes: 15, pkg: "./scripts/demo"},
}

func names() []string {
	all := make([]string, len(recipes))
	for i, r := range recipes {
		all[i] = r.name
	}
	return all
}

// key changes with everything that decides what the build makes, the toolchain
// excepted: another Go release is no reason to wait five minutes.
func (r recipe) key(bootstrap string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.GOOS, runtime.GOARCH, r.version, r.buildArgs(""), r.cgo)
	if r.script != "" {
		fmt.Fprintln(hash, r.script)
	}
	if r.sources != nil {
		fmt.Fprintf(hash, "%q\n", r.sources)
	}
	if r.data != nil {
		fmt.Fprintf(hash, "%q\n", r.data)
	}
	files, err := r.files(filepath.Join(bootstrap, r.module))
	if err != nil {
		return "", err
	}
	for _, name := range files {
		content, err := os.ReadFile(r.file(filepath.Join(bootstrap, r.module), name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(content), content)
	}
	return fmt.Sprintf("%s-%s-%s", r.name, r.version, hex.EncodeToString(hash.Sum(nil))[:12]), nil
}

// files are those of the module, from its root, that decide what the build makes. A
// node_modules that an editor wants is not among them.
func (r recipe) files(module string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(module, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "node_modules":
			return filepath.SkipDir
		case slices.Contains([]string{"go.mod", "go.sum", "package.json", "package-lock.json", ".npmrc"}, name),
			slices.Contains([]string{".go", ".mjs"}, filepath.Ext(name)):
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// file is where one of files lies.
func (r recipe) file(module, name string) string {
	if name == "go.mod" || name == "go.sum" {
		return filepath.Join(module, r.requires, name)
	}
	return filepath.Join(module, name)
}

// program is the file that the build leaves in its folder of the cache.
func (r recipe) program() string {
	if r.script != "" {
		return r.script
	}
	return r.name
}

func (r recipe) buildArgs(output string) []string {
	ldflags := strings.TrimSpace("-ldflags=-s -w " + r.ldflags)
	return slices.DeleteFunc([]string{
		"build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false", ldflags, "-tags=" + r.tags, "-o", output, r.pkg,
	}, func(arg string) bool { return arg == "-tags=" })
}

// listArgs list what a build has to compile. The flags are those that decide it.
func (r recipe) listArgs() []string {
	return slices.DeleteFunc([]string{
		"list", "-deps", "-json=ImportPath,Dir,GoFiles,CgoFiles,Stale", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags=" + r.tags, r.pkg,
	}, func(arg string) bool { return arg == "-tags=" })
}
