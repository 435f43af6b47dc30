package backend

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/oauth2"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// What an operator has named of the server's answer reaches the caller, and shows in a
// read of the provider; the rest of the answer does not.
func TestNamedMembersReachTheCaller(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"scopes": "read"}})
	m.extra = []string{"instance_url", "issued_at"}
	m.must(m.write("providers/oauth2/p", map[string]any{"extra_members": "instance_url,issued_at", "assumed_token_type": "bot", "assumed_lifetime": "30m"}))
	shown := m.must(m.read("providers/oauth2/p")).Data
	require.Equal(t, []any{"instance_url", "issued_at"}, shown["extra_members"])
	require.Equal(t, "bot", shown["assumed_token_type"])

	m.server.Break(authserver.EndpointToken, authserver.Verbatim("application/json", func(body map[string]any) string {
		delete(body, "expires_in")
		maps.Copy(body, map[string]any{"token_type": "bot", "instance_url": "https://mycompany.test", "issued_at": "1278448832702", "signature": "x"})
		raw, err := json.Marshal(body)
		require.NoError(t, err)
		return string(raw)
	}))
	resp := m.must(m.do(call{op: logical.UpdateOperation, path: "creds/r"}))
	require.Equal(t, "https://mycompany.test", resp.Data["instance_url"])
	require.Equal(t, "1278448832702", resp.Data["issued_at"])
	require.Equal(t, "bot", resp.Data["token_type"])
	require.NotContains(t, resp.Data, "signature")
	require.Contains(t, m.server.Live(), resp.Data["access_token"])

	m.must(m.write("providers/oauth2/p", map[string]any{"extra_members": ""}))
	require.NotContains(t, m.must(m.read("providers/oauth2/p")).Data, "extra_members")
}

// Nothing that a server says takes the place of a field of the broker's own.
func TestNoMemberTakesAFieldsName(t *testing.T) {
	m := newMount(t, setup{})
	taken := provider.CommonFields()
	maps.Copy(taken, oauth2.Type{}.Answer())
	for _, name := range slices.Sorted(maps.Keys(taken)) {
		for _, spelled := range []string{name, strings.ToUpper(name)} {
			_, err := m.write("providers/oauth2/p", map[string]any{"extra_members": []string{"fine", spelled}})
			requireCode(t, err, fault.InvalidRequest, "extra_members", spelled)
		}
	}
}
