package ending

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Only this package, by way of downstream's reaper, calls what a provider kills with: so
// everything that kills leaves a record of it, and keeps to the bounds.
func TestNobodyElseKillsAtAProvider(t *testing.T) {
	here := 0
	require.NoError(t, filepath.WalkDir("..", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		kills := strings.Contains(string(source), ".Revoke(")
		switch folder, _, _ := strings.Cut(filepath.ToSlash(strings.TrimPrefix(file, ".."+string(filepath.Separator))), "/"); folder {
		case "ending":
			if kills {
				here++
			}
		case "downstream", "provider":
		default:
			require.False(t, kills, file)
		}
		return nil
	}))
	require.Positive(t, here)
}
