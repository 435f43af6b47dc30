package backend

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const ours = "github.com/tokenbroker/vault-plugin-secrets-broker/backend/"

// TestArchitecture holds what the packages import against the table in
// docs/architecture.md.
func TestArchitecture(t *testing.T) {
	allowed := architecture(t)
	seen := map[string]bool{}
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		row := rowOf(filepath.ToSlash(filepath.Dir(path)))
		if row == "" {
			return nil
		}
		seen[row] = true
		may, ok := allowed[row]
		require.True(t, ok, "docs/architecture.md has no row for %s", row)
		for _, name := range importsOf(t, path) {
			switch {
			case row == "backend":
			case row == "backend/provider/catalog" && rowOf(name) == "backend/provider/<type>":
			default:
				require.Contains(t, may, name, "%s imports backend/%s, which docs/architecture.md does not let %s", path, name, row)
			}
		}
		return nil
	}))
	for row := range allowed {
		require.True(t, seen[row], "docs/architecture.md has a row for %s, which is not there", row)
	}
}

// rowOf is the row of the table for a folder below backend; "" for what only tests use.
func rowOf(folder string) string {
	switch {
	case folder == ".":
		return "backend"
	case folder == "acceptance", folder == "fault/faulttest", strings.HasPrefix(folder, "provider/providertest/"):
		return ""
	case strings.HasPrefix(folder, "provider/") && !slices.Contains([]string{"provider/catalog", "provider/kit", "provider/providertest"}, folder):
		return "backend/provider/<type>"
	}
	return "backend/" + folder
}

func importsOf(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	require.NoError(t, err)
	var names []string
	for _, i := range file.Imports {
		if name, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), ours); ok {
			names = append(names, name)
		}
	}
	return names
}

var architectureRow = regexp.MustCompile("(?m)^\\| `(backend[^`]*)` \\| (.*)\\|$")

// architecture is what each package may import, by the table.
func architecture(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../docs/architecture.md")
	require.NoError(t, err)
	allowed := map[string][]string{}
	for _, row := range architectureRow.FindAllStringSubmatch(string(page), -1) {
		allowed[row[1]] = strings.Split(strings.TrimSpace(row[2]), ", ")
	}
	require.Greater(t, len(allowed), 15, "the table is not read")
	return allowed
}

var (
	walksSection = regexp.MustCompile(`(?s)## Four walks\n(.*?)\n## `)
	walkStep     = regexp.MustCompile("`((?:[a-zA-Z]+\\.)?[a-zA-Z]+)`")
	function     = regexp.MustCompile(`(?m)^func (?:\((?:\w+ )?\*?([A-Za-z]+)(?:\[[^\]]*\])?\) )?([A-Za-z]+)[\[(]`)
)

// TestTheWalksAreThere finds every function that the walks in CONTRIBUTING.md name.
func TestTheWalksAreThere(t *testing.T) {
	functions := map[string]bool{}
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, f := range function.FindAllStringSubmatch(string(source), -1) {
			functions[strings.TrimPrefix(f[1]+"."+f[2], ".")] = true
		}
		return err
	}))
	page, err := os.ReadFile("../CONTRIBUTING.md")
	require.NoError(t, err)
	walks := walksSection.FindStringSubmatch(string(page))
	require.NotNil(t, walks)
	steps := walkStep.FindAllStringSubmatch(walks[1], -1)
	require.Greater(t, len(steps), 30, "the walks are not read")
	for _, step := range steps {
		if name := step[1]; !strings.HasSuffix(name, ".go") && name != "TestTheWalksAreThere" {
			require.True(t, functions[name], "CONTRIBUTING.md walks through %s, which is not there", name)
		}
	}
}
