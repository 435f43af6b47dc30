package backend

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

var auditFlag = regexp.MustCompile(`-audit-non-hmac-(request|response)-keys=([a-z_]+) `)

// The script that the binary prints lets stand in the audit log in clear what an auditor
// needs to read, and nothing that is or could be a credential, on whatever path.
func TestAuditScript(t *testing.T) {
	script, err := AuditScript("team/broker/")
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(script, " \\\n    team/broker/\n"), script)
	named := map[string][]string{}
	for _, found := range auditFlag.FindAllStringSubmatch(script, -1) {
		named[found[1]] = append(named[found[1]], found[2])
	}
	require.Subset(t, named["request"], []string{
		"freeze", "emergency", "force", "disabled", "allow_http", "provider", "mode", "ttl", "max_ttl", "scopes", "audiences", "resources", "permissions",
		"bound_entity_ids", "bound_group_names", "bound_entity_metadata", "bound_cidrs", "bound_subject_claims", "condition", "require_entity", "entity_id", "remote_addr",
	})
	require.Subset(t, named["response"], []string{
		"provider", "grant_id", "granted", "stripped", "unverified", "scopes", "audiences", "resources", "permissions", "authorization_details", "expires_at",
		"lease_expires_at", "token_type", "issued_token_type", "revocation", "self_contained", "subject", "subject_issuer", "actor", "dpop_nonce",
		"allowed", "reasons", "error", "revoked", "pending",
	})
	b := newBroker(catalog.Types(), &logical.InmemStorage{}, newClock().Now)
	texts := 0
	for _, path := range b.Paths {
		for name, f := range path.Fields {
			text := f.Type == framework.TypeString || f.Type == framework.TypeKVPairs
			if provider.IsSecret(f) || text && strings.HasPrefix(path.Pattern, "providers/") {
				texts++
				require.NotContains(t, named["request"], name, path.Pattern)
			}
		}
		for _, handler := range path.Operations {
			for _, answers := range handler.Properties().Responses {
				for _, answer := range answers {
					for name, f := range answer.Fields {
						require.False(t, provider.IsSecret(f) && strings.Contains(script, "response-keys="+name+" "), "%s of %s", name, path.Pattern)
					}
				}
			}
		}
	}
	require.Greater(t, texts, 20)
	for _, name := range []string{"client_id", "timeout", "keys", "key_info"} { // what is pasted into a wrong field; long lists
		require.NotContains(t, named["request"], name)
		require.NotContains(t, named["response"], name)
	}
	for _, mount := range []string{"", "a b", "x;y", "-x", "$(x)"} {
		_, err := AuditScript(mount)
		require.Error(t, err, mount)
	}
	page, err := os.ReadFile("../docs/operating.md")
	require.NoError(t, err)
	for name := range b.secretFields() {
		require.Contains(t, string(page), "`"+name+"`", "what never to add")
	}
}
