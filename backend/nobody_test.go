package backend

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// TestNobodyEscapesWhatIsCountedByEntity: an orphan token has no entity. Also with
// roles that an earlier build stored, and with what it had issued.
func TestNobodyEscapesWhatIsCountedByEntity(t *testing.T) {
	for setting, value := range map[string]any{"max_grants_per_entity": 1, "max_issue_rate": 1, "sharing": "entity", "require_entity": true} {
		t.Run(setting, func(t *testing.T) {
			m := newMount(t, setup{})
			l := m.mustCreds(nil)
			var stored map[string]any
			require.NoError(t, json.Unmarshal(m.storedAt("role/r").Value, &stored))
			stored[setting] = value
			entry, err := logical.StorageEntryJSON("role/r", stored)
			require.NoError(t, err)
			require.NoError(t, m.storage.Put(t.Context(), entry))
			m.start()

			_, err = m.creds(nil)
			requireCode(t, err, fault.AccessDenied, "this token has no entity", "log in")
			explained := m.must(m.write("roles/r/explain", nil)).Data
			require.Equal(t, false, explained["allowed"])
			require.Equal(t, []string{err.Error()}, explained["reasons"], "explain says what creds says")
			explained = m.must(m.write("roles/r/explain", map[string]any{"entity_id": alice})).Data
			require.Equal(t, true, explained["allowed"])
			_, err = m.renew(l, time.Minute)
			requireCode(t, err, fault.AccessDenied, "this token has no entity")

			// What is said in so many words ends what nobody holds; a quota does not.
			m.sweep()
			m.waitForKills()
			require.Equal(t, setting != "require_entity", m.server.Active(l.token))
			require.NoError(t, m.revoke(l))
			his, err := m.credsBy(call{entity: alice})
			require.NoError(t, err)
			require.NoError(t, m.revoke(his))
			require.Equal(t, value == true, m.must(m.read("roles/r")).Data["require_entity"])
		})
	}
}
