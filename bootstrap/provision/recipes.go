package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// A recipe says how one program is made from the module in bootstrap/<module>: a Go
// program from pkg, or, with script, an npm package installed around that script.
type recipe struct {
	name    string
	version string
	module  string // folder below bootstrap/
	pkg     string
	tags    string
	cgo     bool
	source  *patchedSource
	script  string // file in module that Node.js runs
}

var recipes = []recipe{
	{
		name:    "vault",
		version: "v1.21.4",
		module:  "vault",
		pkg:     "github.com/hashicorp/vault",
		tags:    "minimal",
		source:  &vaultSource,
	},
	{
		name:    "hydra",
		version: "v2.3.0",
		module:  "hydra",
		pkg:     "github.com/ory/hydra/v2",
		tags:    "sqlite,sqlite_omit_load_extension,json1",
		cgo:     true,
	},
	{
		name:    "op",
		version: "v3.51.17",
		module:  "op",
		pkg:     ".",
	},
	{
		name:    "toxiproxy",
		version: "v2.5.0",
		module:  "toxiproxy",
		pkg:     "github.com/Shopify/toxiproxy/v2/cmd/server",
	},
	{
		name:    "oidc-provider",
		version: "9.13.3",
		module:  "oidc-provider",
		script:  "server.mjs",
	},
	{
		name:    "golangci-lint",
		version: "v2.15.0",
		module:  "tools",
		pkg:     "github.com/golangci/golangci-lint/v2/cmd/golangci-lint",
	},
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
	if r.source != nil {
		fmt.Fprintf(hash, "%q\n", *r.source)
	}
	files, err := r.files(filepath.Join(bootstrap, r.module))
	if err != nil {
		return "", err
	}
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join(bootstrap, r.module, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(content), content)
	}
	return fmt.Sprintf("%s-%s-%s", r.name, r.version, hex.EncodeToString(hash.Sum(nil))[:12]), nil
}

// files are those of the module that decide what the build makes. A node_modules
// that an editor wants is not among them.
func (r recipe) files(module string) ([]string, error) {
	entries, err := os.ReadDir(module)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		if slices.Contains([]string{"go.mod", "go.sum", "package.json", "package-lock.json", ".npmrc"}, name) ||
			slices.Contains([]string{".go", ".mjs"}, filepath.Ext(name)) {
			names = append(names, name)
		}
	}
	return names, nil
}

// program is the file that the build leaves in its folder of the cache.
func (r recipe) program() string {
	if r.script != "" {
		return r.script
	}
	return r.name
}

func (r recipe) buildArgs(output string) []string {
	return slices.DeleteFunc([]string{
		"build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-tags=" + r.tags, "-o", output, r.pkg,
	}, func(arg string) bool { return arg == "-tags=" })
}

func (r recipe) build(module, work, output string) error {
	if r.script != "" {
		return r.install(module, filepath.Dir(output))
	}
	if r.source != nil {
		var err error
		if module, err = r.source.prepare(r.name, module, work); err != nil {
			return err
		}
	}
	return goCommand(r.name, module, r.cgo, r.buildArgs(output)...)
}
