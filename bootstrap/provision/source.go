package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A patchedModule is one that is not built as it was published. The go.mod in
// bootstrap/ replaces it by the folder Dir beside it, which prepare fills.
type patchedModule struct {
	Module  string // path@version
	Sum     string // as in go.sum, which does not cover a replaced module
	Dir     string
	Skip    []string          // files and folders that are left out
	Patches []patch           // what changes in the files themselves
	Instead map[string]string // what is imported instead, by import path
}

type patch struct{ File, Old, New string }

// prepare makes a module in work that builds, and returns its folder.
func (r recipe) prepare(module, work string, report *progress) (string, error) {
	from, err := download(r.sources, work, report)
	if err != nil {
		return "", err
	}
	report.doing("copying sources")
	build := filepath.Join(work, "build")
	files, err := r.files(module)
	if err != nil {
		return "", err
	}
	for _, name := range files {
		if err := copyFile(r.file(module, name), filepath.Join(build, name)); err != nil {
			return "", err
		}
	}
	for _, source := range r.sources {
		if err := source.fill(from[source.Module], filepath.Join(build, source.Dir)); err != nil {
			return "", fmt.Errorf("%s: %w", source.Module, err)
		}
	}
	return build, nil
}

// download returns where the modules lie, by path@version.
func download(sources []patchedModule, work string, report *progress) (map[string]string, error) {
	args := []string{"mod", "download", "-json"}
	sums := map[string]string{}
	for _, source := range sources {
		args = append(args, source.Module)
		sums[source.Module] = source.Sum
	}
	cmd := goCommand(work, false, args...)
	cmd.Env = append(cmd.Env, "GOSUMDB=off") // it has nothing to add to the sums below
	answer, err := outputOf(cmd, report)
	dirs := map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(answer)); ; {
		var got struct{ Path, Version, Dir, Sum, Error string }
		if end := decoder.Decode(&got); errors.Is(end, io.EOF) {
			return dirs, err
		} else if end != nil {
			return nil, errors.Join(err, fmt.Errorf("go mod download: %w", end))
		}
		module := got.Path + "@" + got.Version
		switch {
		case got.Error != "": // it is not among what the command says when it fails
			return nil, explained(errors.New(got.Error), got.Error)
		case got.Sum != sums[module]:
			return nil, fmt.Errorf("%s has the checksum %s instead of %s", module, got.Sum, sums[module])
		}
		dirs[module] = got.Dir
	}
}

// fill copies the module, less what is left out, and changes the copy.
func (m patchedModule) fill(from, to string) error {
	unused := map[string]bool{}
	for imported := range m.Instead {
		unused[imported] = true
	}
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		skipped := slices.Contains(m.Skip, rel)
		switch {
		case entry.IsDir() && skipped:
			return filepath.SkipDir
		case entry.IsDir() || skipped || strings.HasSuffix(rel, "_test.go"):
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(rel) == ".go" {
			content, err = m.importInstead(rel, content, unused)
			if err != nil {
				return err
			}
		}
		return writeFile(filepath.Join(to, rel), content)
	})
	if err != nil {
		return err
	}
	// What does not fit any more would otherwise be compiled after all, unnoticed.
	for imported := range unused {
		return fmt.Errorf("nothing imports %s", imported)
	}
	for _, p := range m.Patches {
		if err := p.apply(to); err != nil {
			return err
		}
	}
	return nil
}

// copyData puts beside the program in result what it reads of its module's folders.
func (r recipe) copyData(module, result string, report *progress) error {
	report.doing("copying what it reads")
	answer, err := outputOf(goCommand(module, false, "list", "-mod=readonly", "-f", "{{.Module.Dir}}", r.pkg), report)
	if err != nil {
		return err
	}
	from := strings.TrimSpace(string(answer))
	for _, folder := range r.data {
		// Not os.CopyFS, which keeps the module cache's modes: nobody could delete it.
		err := filepath.WalkDir(filepath.Join(from, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			return copyFile(path, filepath.Join(result, name))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// importInstead lets a Go file import other packages under the names that it uses.
func (m patchedModule) importInstead(name string, content []byte, unused map[string]bool) ([]byte, error) {
	concerned := false
	for imported := range m.Instead {
		concerned = concerned || bytes.Contains(content, []byte(strconv.Quote(imported)))
	}
	if !concerned {
		return content, nil
	}
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, name, content, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	for _, spec := range slices.Backward(file.Imports) { // so that positions stay what they are
		imported, err := strconv.Unquote(spec.Path.Value)
		instead, ok := m.Instead[imported]
		if err != nil || !ok {
			continue
		}
		delete(unused, imported)
		as := packageName(imported)
		if spec.Name != nil {
			as = spec.Name.Name
		}
		content = slices.Concat(content[:positions.Position(spec.Pos()).Offset],
			fmt.Appendf(nil, "%s %q", as, instead), content[positions.Position(spec.End()).Offset:])
	}
	return content, nil
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// packageName is what a package is called that is imported without a name.
func packageName(imported string) string {
	if base := path.Base(imported); !majorVersion.MatchString(base) {
		return base
	}
	return path.Base(path.Dir(imported))
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

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, content)
}

func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
