package catalog_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// root is the module's folder, and module its path.
const (
	root   = "../../.."
	module = "github.com/tokenbroker/vault-plugin-secrets-broker/"
)

// A type is a folder below backend/provider, of which the catalog alone knows: whoever
// adds one touches that folder and a line of the catalog. Tests may know any of them, and
// TestTheReferenceTypeFromItsConfigurationToItsEnd runs one that is in no catalog.
func TestATypeIsOneFolderAndOneLine(t *testing.T) {
	folders := map[string]bool{} // of types
	for _, typ := range catalog.Types() {
		path := strings.TrimPrefix(reflect.TypeOf(typ).PkgPath(), module)
		require.Equal(t, "backend/provider/"+typ.Name(), path, "a type's folder is called as the type is")
		folders[path] = true
	}
	require.Len(t, folders, len(catalog.Types()), "each has a folder of its own")
	known := map[string][]string{} // files that know a type, by folder
	files := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		path = filepath.ToSlash(strings.TrimPrefix(path, root+"/"))
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".."):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		for _, imported := range imports(t, filepath.Join(root, path)) {
			if of := strings.TrimPrefix(imported, module); folders[of] && filepath.ToSlash(filepath.Dir(path)) != of {
				known[of] = append(known[of], path)
			}
		}
		return nil
	}))
	require.Greater(t, files, 100, "the files were found")
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		require.Equal(t, []string{"backend/provider/catalog/catalog.go"}, known[folder], "%s is known to the catalog alone", folder)
	}
}

func imports(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	require.NoError(t, err)
	all := make([]string, len(file.Imports))
	for i, spec := range file.Imports {
		all[i], err = strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
	}
	return all
}
