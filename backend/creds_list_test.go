package backend

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// usableBy is vault list broker/creds, asked by an entity from an address.
func (m *mount) usableBy(entity, addr string) (names []string, info map[string]any) {
	m.t.Helper()
	resp := m.must(m.do(call{op: logical.ListOperation, path: "creds", entity: entity, addr: addr}))
	names, _ = resp.Data["keys"].([]string)
	info, _ = resp.Data["key_info"].(map[string]any)
	return names, info
}

// Who asks what there is gets the roles that would have him, and what to ask them for.
func TestEachCallerIsToldItsRoles(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("issuers/p", map[string]any{"jwks_pem": m.serverKeys(), "bound_issuer": m.server.URL, "bound_audiences": "broker"}))
	for name, change := range map[string]map[string]any{
		"open":    {"scopes": "read,write", "default_scopes": "read", "ttl": "10m"},
		"alices":  {"bound_entity_ids": alice},
		"ops":     {"bound_group_names": "ops"},
		"bobs":    {"condition": "identity.name == 'bob'"},
		"office":  {"bound_cidrs": "10.0.0.0/8"},
		"anybody": {"require_entity": true},
		"untold":  {"condition": "'read' in request.scopes && identity.name == 'nobody'"},
		"frozen":  {},
		"behalf":  {"subject_issuers": "p"},
	} {
		role := map[string]any{"provider": "oauth2/p", "scopes": "read"}
		for field, value := range change {
			role[field] = value
		}
		m.must(m.write("roles/"+name, role))
	}
	m.must(m.delete("roles/r", nil))
	m.must(m.write("revoke/role/frozen", map[string]any{"freeze": true}))

	names, info := m.usableBy(alice, "10.0.0.1")
	require.Equal(t, []string{"alices", "anybody", "behalf", "office", "open", "ops", "untold"}, names)
	require.Equal(t, map[string]any{
		"provider": "oauth2/p", "mode": "mint", "revocation": "token", "fields": []string{"access_token", "dpop_nonce"}, "brings": []string{},
		"scopes": []string{"read", "write"}, "default_scopes": []string{"read"}, "ttl": int64(600),
	}, info["open"])
	require.Equal(t, []string{"subject_token"}, info["behalf"].(map[string]any)["brings"])
	require.Equal(t, []string{"p"}, info["behalf"].(map[string]any)["subject_issuers"])

	names, _ = m.usableBy(bob, "192.0.2.1")
	require.Equal(t, []string{"anybody", "behalf", "bobs", "open", "untold"}, names)
	names, _ = m.usableBy("", "10.0.0.1")
	require.Equal(t, []string{"behalf", "office", "open"}, names)

	m.must(m.write("providers/oauth2/p", map[string]any{"disabled": true}))
	names, _ = m.usableBy(alice, "10.0.0.1")
	require.Empty(t, names)
}

// What could not be told is no answer, and what is listed never says less than creds.
func TestAListOfRolesIsTrue(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("roles/asks", map[string]any{"provider": "oauth2/p", "scopes": "read", "condition": "identity.name == 'alice'"}))
	m.vault.failWith(errors.New("no answer"))
	_, err := m.do(call{op: logical.ListOperation, path: "creds", entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
}

func TestAListOfRolesInPages(t *testing.T) {
	m := newMount(t, setup{})
	for i := range 5 {
		m.must(m.write(fmt.Sprint("roles/role", i), map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	}
	resp := m.must(m.do(call{op: logical.ListOperation, path: "creds", entity: alice, data: map[string]any{"limit": 2, "after": "role0"}}))
	require.Equal(t, []string{"role1", "role2"}, resp.Data["keys"])
	require.Len(t, resp.Warnings, 1)
	require.Contains(t, resp.Warnings[0], "after=role2")
	resp = m.must(m.do(call{op: logical.ListOperation, path: "creds", entity: alice, data: map[string]any{"after": "role3"}}))
	require.Equal(t, []string{"role4"}, resp.Data["keys"])
	require.Empty(t, resp.Warnings)
}

// A role that fits its provider no more, or that nobody can read, is nobody's, and hides no
// other one.
func TestARoleThatIsBrokenHidesNoOther(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"audience_parameter": "audience"}})
	m.must(m.write("roles/unfit", map[string]any{"provider": "oauth2/p", "scopes": "read", "audiences": "https://api.example"}))
	m.must(m.write("providers/oauth2/p", map[string]any{"audience_parameter": "none"}))
	_, err := m.session(call{path: "creds/unfit"})
	requireCode(t, err, fault.TemporarilyUnavailable, "no longer fits")
	resp := m.must(m.do(call{op: logical.ListOperation, path: "creds", entity: alice}))
	require.Equal(t, []string{"r"}, resp.Data["keys"])
	require.Len(t, resp.Warnings, 1)
	require.Contains(t, resp.Warnings[0], "of 1 role")
	require.NotContains(t, resp.Warnings[0], "unfit")

	m.must(m.delete("roles/unfit", nil))
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: rolePrefix + "torn", Value: []byte("{")}))
	resp = m.must(m.do(call{op: logical.ListOperation, path: "creds", entity: alice}))
	require.Equal(t, []string{"r"}, resp.Data["keys"])
	require.Len(t, resp.Warnings, 1)
	require.NoError(t, m.storage.Delete(t.Context(), rolePrefix+"torn"))
}

// However many roles ask who somebody is, Vault is asked once.
func TestAListOfRolesAsksOnceWhoItIs(t *testing.T) {
	m := newMount(t, setup{})
	for i := range 20 {
		m.must(m.write(fmt.Sprint("roles/group", i), map[string]any{"provider": "oauth2/p", "scopes": "read", "bound_group_names": "ops"}))
		m.must(m.write(fmt.Sprint("roles/name", i), map[string]any{"provider": "oauth2/p", "scopes": "read", "condition": "identity.name == 'alice'"}))
	}
	asked := m.vault.whileAsked(func() {
		names, _ := m.usableBy(alice, "")
		require.Len(t, names, 41)
	})
	require.LessOrEqual(t, asked["EntityInfo"], 3, "once for each kind of question")
	require.LessOrEqual(t, asked["GroupsForEntity"], 1)
}
