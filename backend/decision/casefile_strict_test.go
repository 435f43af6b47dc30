package decision_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCaseFilesAreStrict: what a security engineer misspells is found, and not
// taken for nothing.
func TestCaseFilesAreStrict(t *testing.T) {
	for name, c := range map[string]struct{ text, err string }{
		"good":                     {"cases: [{case: a, role: {scopes: [x]}, want: {granted: ['scope:x']}}]", ""},
		"unknown block":            {"cases: [{case: a, rolle: {}}]", "rolle"},
		"unknown field":            {"cases: [{case: a, role: {scope: [x]}}]", "scope"},
		"unknown field of given":   {"given: {caller: {group: [x]}}\ncases: [{case: a}]", "group"},
		"unknown expectation":      {"cases: [{case: a, want: {grant: []}}]", "grant"},
		"unknown field later":      {"cases: [{case: a, renewal: {role: {scope: [x]}}}]", "renewal"},
		"unknown top":              {"case: []", "case"},
		"the same name twice":      {"cases: [{case: a}, {case: a}]", "not its own"},
		"no name":                  {"cases: [{want: {granted: []}}]", "not its own"},
		"a duration without units": {"cases: [{case: a, mount: {ttl: 10}}]", "missing unit"},
		"a second document":        {"cases: []\n---\ncases: []", "something follows"},
		"the same key twice":       {"cases: [{case: a, case: b}]", "already"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "case.yaml")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			cases, err := readFile(path)
			if c.err == "" {
				require.NoError(t, err)
				require.Len(t, cases, 1)
				return
			}
			require.ErrorContains(t, err, c.err)
		})
	}
}
