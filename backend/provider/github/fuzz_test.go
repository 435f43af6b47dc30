package github

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// FuzzTokenAnswer: nothing that GitHub could answer panics, or is read as less than
// another reader of JSON would find in it.
func FuzzTokenAnswer(f *testing.F) {
	const start = `{"token":"ghs_12345678","expires_at":"2099-01-01T00:00:00Z",`
	for _, seed := range []string{
		start + `"permissions":{"contents":"read","metadata":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`,
		start + `"permissions":{"contents":"read"},"repository_selection":"all"}`, start + `"permissions":{"con`, `{"token":"x"}`, `[]`, ``,
		start + `"permissions":{"contents":"read","contents":"write"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api","full_name":"evil/x"}]}`,
	} {
		f.Add([]byte(seed))
	}
	asked := asking(f, "acme/api").Access
	f.Fuzz(func(t *testing.T, body []byte) {
		p := &Provider{}
		child, err := p.read(body, &installation{at: place{fieldOrganization, "acme"}}, asked)
		if child != nil {
			require.False(t, child.Handle.Empty())
			require.True(t, isToken(child.Token().Reveal()))
		}
		if err != nil {
			return
		}
		require.NotNil(t, child)
		require.False(t, child.ExpiresAt.IsZero())
		require.True(t, child.Confirmed[access.DimResources] && child.Confirmed[access.DimPermissions])
		var said struct {
			Permissions  map[string]string `json:"permissions"`
			Repositories []struct {
				FullName string `json:"full_name"`
			} `json:"repositories"`
		}
		// Go's own reader knows no case of names: what only that finds is no matter.
		if json.Unmarshal(body, &said) != nil || strings.Contains(string(body), `\u`) || !kit.IsASCII(string(body)) {
			return
		}
		for _, r := range said.Repositories {
			require.True(t, child.Granted.Resources.Contains(r.FullName) || strings.EqualFold(r.FullName, "acme/api") || otherCase(string(body)), r.FullName)
		}
	})
}

// otherCase reports whether a name stands there in another spelling, which is not read.
func otherCase(body string) bool {
	return strings.Count(strings.ToLower(body), "full_name") != strings.Count(body, "full_name") ||
		strings.Count(strings.ToLower(body), "repositories") != strings.Count(body, "repositories")
}
