package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// An entity outside the root namespace has an id with a dot in it, and of other ids
// nothing is known either: each is a holder like any other.
func TestAnEntityOfANamespaceIsAHolderLikeAnyOther(t *testing.T) {
	for _, entity := range []string{alice + ".Zx09q", alice + ".0", "entity:1@x y", "é", "a.b.c.d", "-"} {
		t.Run(entity, func(t *testing.T) {
			m := newMount(t, setup{role: map[string]any{"max_grants_per_entity": 3}})
			m.vault.change(func(v *vaultView) { v.entities[entity] = &logical.Entity{ID: entity, Name: "agent"} })
			others, err := m.credsBy(call{entity: bob})
			require.NoError(t, err)
			root, err := m.credsBy(call{entity: alice})
			require.NoError(t, err)
			var ids []string
			var leases []*lease
			for range 3 {
				l, err := m.credsBy(call{entity: entity})
				require.NoError(t, err)
				leases, ids = append(leases, l), append(ids, l.grantID)
			}
			_, err = m.credsBy(call{entity: entity})
			requireCode(t, err, fault.SlowDown)

			for range 2 {
				m.sweep()
				m.waitForKills()
				require.True(t, m.server.Active(leases[0].token), "the holder is there")
				require.ElementsMatch(t, ids, m.keys("grants/entity/"+entity, nil))
				require.Contains(t, m.keys("grants/entity", nil), entity)
				require.Equal(t, entity, m.must(m.read("grants/" + ids[0])).Data["entity_id"])
				require.ElementsMatch(t, append([]string{others.grantID, root.grantID}, ids...), m.allGrants())
				var paged []string
				for after := ""; ; after = paged[len(paged)-1] {
					page := m.keys("grants", map[string]any{"limit": 1, "after": after})
					if len(page) == 0 {
						break
					}
					paged = append(paged, page...)
				}
				require.Equal(t, m.allGrants(), paged)
				m.start()
			}

			require.EqualValues(t, 1, m.must(m.write("revoke/grant/"+ids[0], nil)).Data["revoked"])
			require.EqualValues(t, 2, m.must(m.write("revoke/entity/"+entity, map[string]any{"freeze": true})).Data["revoked"])
			require.False(t, m.server.Active(leases[2].token))
			_, err = m.credsBy(call{entity: entity})
			requireCode(t, err, fault.AccessDenied, "frozen")
			m.must(m.write("revoke/entity/"+entity, map[string]any{"freeze": false}))
			l, err := m.credsBy(call{entity: entity})
			require.NoError(t, err)
			m.vault.change(func(v *vaultView) { delete(v.entities, entity) })
			m.sweep()
			m.waitForKills()
			require.False(t, m.server.Active(l.token))
			require.True(t, m.server.Active(root.token), "whose id begins like this one")
		})
	}
	m := newMount(t, setup{})
	for _, entity := range []string{grant.NoHolder, "a/b", "a..b", "a."} {
		m.vault.change(func(v *vaultView) { v.entities[entity] = &logical.Entity{ID: entity} })
		_, err := m.credsBy(call{entity: entity})
		requireCode(t, err, fault.AccessDenied, "storage key")
	}
	_, err := m.write("revoke/entity/a..b", nil)
	requireCode(t, err, fault.InvalidRequest, "no entity's id")
	require.Empty(t, m.server.Live(), "nothing was minted for whom nothing could be recorded")
}
