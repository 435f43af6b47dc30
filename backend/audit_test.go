package backend

import (
	"os"
	"regexp"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// The README tells an operator to let stand in the audit log in clear what is no secret:
// of answers all of it.
func TestREADMENamesTheAuditedFields(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	named := map[string][]string{}
	for _, found := range regexp.MustCompile(`-audit-non-hmac-(\w+)-keys=(\S+) `).FindAllStringSubmatch(string(readme), -1) {
		named[found[1]] = append(named[found[1]], found[2])
	}
	b := newBroker(catalog.Types(), &logical.InmemStorage{}, newClock().Now)
	require.ElementsMatch(t, b.auditedFields(), named["response"])
	for name := range b.secretFields() {
		require.Contains(t, string(readme), "`"+name+"`", "what never to add")
	}
	asked := b.Route("roles/r/explain").Fields // those of creds, and more
	require.NotEmpty(t, named["request"])
	for _, name := range named["request"] {
		require.Contains(t, asked, name)
		require.False(t, provider.IsSecret(asked[name]), name)
	}
}
