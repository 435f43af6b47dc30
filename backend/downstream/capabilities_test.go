package downstream

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a provider or a type can do beyond what each must is asked for in one file. Who
// asks elsewhere goes past the gate, the measuring and, for Revoke, who may kill.
func TestOneFileAsksForOptionalInterfaces(t *testing.T) {
	asserted := map[string][]string{}
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path == filepath.Join("..", "provider"):
			return fs.SkipDir // the types themselves, and their suite
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			assertion, ok := n.(*ast.TypeAssertExpr)
			if !ok {
				return true
			}
			if of, ok := assertion.Type.(*ast.SelectorExpr); ok {
				if from, ok := of.X.(*ast.Ident); ok && from.Name == "provider" {
					asserted[filepath.Base(path)] = append(asserted[filepath.Base(path)], of.Sel.Name)
				}
			}
			return true
		})
		return nil
	}))
	require.Contains(t, asserted["capabilities.go"], "Revoker", "or this test sees nothing")
	delete(asserted, "capabilities.go")
	require.Empty(t, asserted)
}
