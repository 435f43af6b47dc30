package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// patchedSource is a module that does not build as it was published. Its go.mod
// in bootstrap/ replaces it by the folder src, which prepare fills.
type patchedSource struct {
	Module  string
	Sum     string // as in go.sum, which does not cover a replaced module
	Skip    []string
	Patches []patch
}

type patch struct{ File, Old, New string }

// vaultSource: Vault's own go.mod replaces the SDK by the unpublished one that
// lies next to it. Against the published v0.21.0 three calls do not fit. And the
// minimal build, the one that is quick, leaves file storage out.
var vaultSource = patchedSource{
	Module: "github.com/hashicorp/vault@v1.21.4",
	Sum:    "h1:KHGcdSnJtombvae1gDk+jZ50kiFngJPFDOvcCJRnU0c=",
	Skip:   []string{"changelog", "enos", "ui", "website"},
	Patches: []patch{
		{
			File: "vault/identity_store.go",
			Old:  "ActivationFunc: iStore.activateDeduplication,",
			New: `ActivationFunc: func(ctx context.Context, req *logical.Request, _ string) error {
			return iStore.activateDeduplication(ctx, req)
		},`,
		},
		{
			File: "vault/logical_system_activation_flags.go",
			Old:  "ActivationFunc(ctx, nil)",
			New:  `ActivationFunc(ctx, nil, "")`,
		},
		{
			// The name only goes into an event, so the requested one will do.
			File: "builtin/logical/transit/path_restore.go",
			Old:  "restoredKeyName, err := b.lm.RestorePolicy(",
			New:  "restoredKeyName := keyName\n\terr := b.lm.RestorePolicy(",
		},
		{
			File: "command/commands_min.go",
			Old: `import (
	_ "github.com/hashicorp/vault/helper/builtinplugins"
)

func extendAddonHandlers(*vaultHandlers) {
	// No-op
}`,
			New: `import (
	_ "github.com/hashicorp/vault/helper/builtinplugins"
	physFile "github.com/hashicorp/vault/sdk/physical/file"
)

func extendAddonHandlers(handlers *vaultHandlers) {
	handlers.physicalBackends["file"] = physFile.NewFileBackend
}`,
		},
	},
}

// prepare makes a module in work that builds, and returns its folder.
func (s *patchedSource) prepare(name, module, work string) (string, error) {
	dir, err := s.download(name, work)
	if err != nil {
		return "", err
	}
	build := filepath.Join(work, "build")
	if err := s.copyTree(dir, filepath.Join(build, "src")); err != nil {
		return "", err
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := copyFile(filepath.Join(module, file), filepath.Join(build, file)); err != nil {
			return "", err
		}
	}
	for _, p := range s.Patches {
		if err := p.apply(filepath.Join(build, "src")); err != nil {
			return "", err
		}
	}
	return build, nil
}

func (s *patchedSource) download(name, work string) (string, error) {
	stdout := filepath.Join(work, "download.json")
	if err := goCommandTo(stdout, name, work, false, "mod", "download", "-json", s.Module); err != nil {
		return "", err
	}
	answer, err := os.ReadFile(stdout)
	if err != nil {
		return "", err
	}
	var got struct{ Dir, Sum string }
	if err := json.Unmarshal(answer, &got); err != nil {
		return "", fmt.Errorf("go mod download: %w", err)
	}
	if got.Sum != s.Sum {
		return "", fmt.Errorf("%s has the checksum %s instead of %s", s.Module, got.Sum, s.Sum)
	}
	return got.Dir, nil
}

func (s *patchedSource) copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && slices.Contains(s.Skip, rel):
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case strings.HasSuffix(rel, "_test.go"):
			return nil
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

func (p patch) apply(root string) error {
	path := filepath.Join(root, p.File)
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(content), p.Old); n != 1 {
		return fmt.Errorf("%s: the text to patch occurs %d times instead of once", p.File, n)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(content), p.Old, p.New, 1)), 0o644)
}
