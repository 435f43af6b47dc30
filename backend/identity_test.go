package backend

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestVaultIsAskedWhoCallsWhereThatMatters: a role that looks at no more than the
// entity's id asks now and then, and one that looks at more, every time.
func TestVaultIsAskedWhoCallsWhereThatMatters(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"audience_parameter": "audience"}})
	m.must(m.write("config", map[string]any{"issuer": "https://vault.test/v1/broker"}))
	m.must(m.write("providers/jwt/own", nil))
	m.must(m.write("providers/jwt/named", map[string]any{"claims": map[string]string{"name": "{{identity.entity.name}}"}}))
	for name, tt := range map[string]struct {
		role map[string]any
		want int // of three requests
	}{
		"nobody in particular": {map[string]any{}, 1},
		"its id":               {map[string]any{"bound_entity_ids": alice}, 1},
		"its id in a token":    {map[string]any{"provider": "jwt/own", "audiences": "https://api.test"}, 1},
		"its metadata":         {map[string]any{"bound_entity_metadata": map[string]string{"team": "payments"}}, 3},
		"its groups":           {map[string]any{"bound_group_names": "ops"}, 3},
		"a condition":          {map[string]any{"condition": `identity.name == "alice"`}, 3},
		"its name in a token":  {map[string]any{"provider": "jwt/named", "audiences": "https://api.test"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			role := map[string]any{"provider": "oauth2/p", "scopes": "read"}
			m.must(m.delete("roles/asks", nil))
			for field, value := range tt.role {
				role[field] = value
			}
			m.must(m.write("roles/asks", role))
			m.clock.advance(knownFor)
			asked := m.vault.whileAsked(func() {
				for range 3 {
					m.must(m.do(call{op: logical.ReadOperation, path: "creds/asks", entity: alice}))
				}
			})
			require.Equal(t, tt.want, asked["EntityInfo"])
		})
	}
}

// TestWhoIsKnownIsForgotten: an id that Vault lets pass although it has become
// another entity's is found out soon, and at once where more than the id matters or
// somebody else asks.
func TestWhoIsKnownIsForgotten(t *testing.T) {
	m := newMount(t, setup{})
	read := func() error {
		_, err := m.credsBy(call{op: logical.ReadOperation, path: "creds/r", entity: alice})
		return err
	}
	explain := func() any {
		return m.must(m.write("roles/r/explain", map[string]any{"entity_id": alice})).Data["allowed"]
	}
	require.NoError(t, read())
	itself := &logical.Entity{ID: alice}
	become := func(e *logical.Entity) { m.vault.change(func(v *vaultView) { v.entities[alice] = e }) }
	become(&logical.Entity{ID: bob}) // merged into
	require.NoError(t, read())
	m.clock.advance(knownFor - 1)
	require.NoError(t, read())
	m.clock.advance(1)
	require.ErrorContains(t, read(), "there is no such entity")

	become(itself)
	require.NoError(t, read())
	become(&logical.Entity{ID: bob})
	require.Equal(t, false, explain())
	require.ErrorContains(t, read(), "there is no such entity", "who is found gone is forgotten")

	become(&logical.Entity{ID: alice, Disabled: true})
	for range 2 {
		require.ErrorContains(t, read(), "the entity is disabled", "who is disabled does not become known")
	}
	become(itself)
	require.NoError(t, read())
	m.clock.advance(-time.Hour)
	asked := m.vault.whileAsked(func() { require.NoError(t, read()) })
	require.Equal(t, 1, asked["EntityInfo"], "a clock that goes back makes nothing last")
	m.clock.advance(time.Hour)
}

// TestWhoIsKnownIsBounded: entities without number take no memory without bound.
func TestWhoIsKnownIsBounded(t *testing.T) {
	k := recentIDs{age: knownFor}
	now := time.Now()
	for i := range 3 * maxRecent {
		id := time.Duration(i).String()
		k.add(id, now)
		require.True(t, k.has(id, now))
	}
	require.LessOrEqual(t, len(k.until), maxRecent)
}
