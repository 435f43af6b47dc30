package github

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The permissions that a role may name are those that GitHub describes, with their levels,
// and those that only its documentation has.
func TestThePermissionsAreGitHubs(t *testing.T) {
	raw, err := os.ReadFile("../../../testdata/openapi/github.json")
	require.NoError(t, err)
	var described struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Enum []string }
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &described))
	has := map[string][]string{}
	for name, permission := range described.Components.Schemas["app-permissions"].Properties {
		has[name] = permission.Enum
	}
	require.Greater(t, len(has), 50)
	for name, levels := range further {
		require.NotContains(t, has, name, "it is described by now")
		has[name] = levels
	}
	require.Equal(t, has, permissions)
}
