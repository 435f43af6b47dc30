package backend

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// TestNothingIsUnknownThatMayBeKnown: what could not be found out is not called unknown,
// and stops no kill. testdata/messages/killswitch.yaml has what is.
func TestNothingIsUnknownThatMayBeKnown(t *testing.T) {
	newKilled := func(t *testing.T) *mount {
		m := newMount(t, setup{})
		m.must(m.write("roles/gone", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
		return m
	}
	silent := func(m *mount, path string, data map[string]any) *logical.Response {
		resp := m.must(m.write(path, data))
		require.NotContains(m.t, resp.Data, "unknown")
		return resp
	}
	t.Run("Vault does not answer", func(t *testing.T) {
		m := newKilled(t)
		m.vault.failWith(errors.New("no connection"))
		require.Equal(t, false, silent(m, "revoke/entity/nobody-knows", nil).Data["frozen"])
		m.vault.failWith(nil)
	})
	t.Run("the entity is gone, and its grants live", func(t *testing.T) {
		m := newKilled(t)
		_, err := m.credsBy(call{entity: bob})
		require.NoError(t, err)
		m.vault.change(func(v *vaultView) { delete(v.entities, bob) })
		require.Equal(t, 1, silent(m, "revoke/entity/"+bob, nil).Data["revoked"])
		require.Equal(t, true, m.must(m.write("revoke/entity/"+bob, nil)).Data["unknown"], "a repeated kill does not fail")
	})
	t.Run("an entity that was merged", func(t *testing.T) {
		m := newKilled(t)
		m.vault.change(func(v *vaultView) { v.entities[bob] = v.entities[alice] })
		silent(m, "revoke/entity/"+bob, nil)
	})
	t.Run("a provider of a type of another version", func(t *testing.T) {
		m := newKilled(t)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "provider/odd/p", Value: []byte(`{}`)}))
		require.Equal(t, true, silent(m, "revoke/provider/odd/p", map[string]any{"freeze": true}).Data["frozen"])
		m.must(m.write("revoke/provider/odd/p", map[string]any{"freeze": false}))
		require.NoError(t, m.storage.InmemStorage.Delete(context.Background(), "provider/odd/p"))
	})
	t.Run("the records cannot be read", func(t *testing.T) {
		m := newKilled(t)
		_, err := m.credsBy(call{entity: alice})
		require.NoError(t, err)
		_, err = m.delete("roles/r", nil)
		require.NoError(t, err)
		m.start() // nothing is read yet
		m.storage.on(func(op, key string) error {
			if op == "list" && len(key) > 6 && key[:6] == "grant/" {
				return errStorage
			}
			return nil
		})
		_, err = m.write("revoke/role/r", map[string]any{"freeze": true})
		requireCode(t, err, fault.TemporarilyUnavailable) // the kill; not 400
		m.storage.on(nil)
		require.Equal(t, []string{"role/r"}, m.keys("frozen", nil), "what could not be looked for is frozen all the same")
	})
}

// TestAnIssuerIsKnownByItsGrants, which their records alone tell.
func TestAnIssuerIsKnownByItsGrants(t *testing.T) {
	m := withSubject(t)
	m.mustCreds(map[string]any{"subject_token": m.subjectToken("1", nil)})
	names := m.keys("issuers", nil)
	require.Len(t, names, 1)
	_, err := m.delete("roles/r", nil)
	require.NoError(t, err)
	_, err = m.delete("issuers/"+names[0], nil)
	require.NoError(t, err)
	resp := m.must(m.write("revoke/issuer/"+names[0], map[string]any{"freeze": true}))
	require.Equal(t, 1, resp.Data["revoked"])
	require.Equal(t, true, resp.Data["frozen"])
	require.NotContains(t, resp.Data, "unknown")
}
