package backend

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// A record holds of secrets only what the kill needs, and is not seal-wrapped.
func TestARecordHoldsNoMoreThanTheKillNeeds(t *testing.T) {
	const idToken = "ID-canary-0a1b2c3d4e5f"
	for name, c := range map[string]struct {
		provider map[string]any
		handle   map[string]any // "token" stands for the child's
	}{
		"what nothing can kill": {map[string]any{"revocation": "expiry"}, nil},
		"what RFC 7009 kills": {nil, map[string]any{
			"v": 1.0, "url": "revoke", "tokens": []any{map[string]any{"token": "token", "hint": "access_token"}},
		}},
		"whose death is confirmed": {map[string]any{"confirm_revocation": true}, map[string]any{
			"v": 1.0, "url": "revoke", "tokens": []any{map[string]any{"token": "token", "hint": "access_token"}},
			"introspect": "introspect", "seen": true,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{provider: c.provider})
			m.server.Break(authserver.EndpointToken, authserver.Set("id_token", m.hide(idToken)))
			l := m.mustCreds(nil)
			record, handle := m.record(l.grantID)
			if c.handle == nil {
				require.Empty(t, handle)
				require.NotContains(t, record, l.token)
				return
			}
			var got map[string]any
			handle = strings.ReplaceAll(handle, l.token, "token")
			handle = strings.ReplaceAll(handle, m.server.Endpoint(authserver.EndpointRevoke), "revoke")
			handle = strings.ReplaceAll(handle, m.server.Endpoint(authserver.EndpointIntrospect), "introspect")
			require.NoError(t, json.Unmarshal([]byte(handle), &got))
			require.Equal(t, c.handle, got)
			require.Equal(t, 1, strings.Count(record, l.token), "and nowhere else in the record")
		})
	}
	for revocation, want := range map[string]string{"token": `{"v":1}`, "expiry": ""} {
		m := newJWTMount(t, map[string]any{"revocation": revocation})
		l := m.signedTo(alice, "j", nil)
		record, handle := m.record(l.grantID)
		require.Equal(t, want, handle, "the record's end is the kill")
		require.NotContains(t, record, l.token)
	}
	m := withSubject(t)
	subject := m.subjectToken("one", nil)
	l, err := m.creds(map[string]any{"subject_token": subject})
	require.NoError(t, err)
	record, _ := m.record(l.grantID)
	require.NotContains(t, record, subject)

	require.Equal(t, []string{"provider/", "successor/", "issuer/", "signal/", "signing-keys"}, m.b.SpecialPaths().SealWrapStorage,
		"a record of a grant costs no operation of the seal")
}

// record is a grant's record as it lies in storage, which must not ask for the seal.
func (m *mount) record(id string) (text, handle string) {
	m.t.Helper()
	for _, key := range m.allKeysBelow("grant/") {
		entry, err := m.storage.Get(m.t.Context(), key)
		require.NoError(m.t, err)
		var stored struct {
			ID     string `json:"id"`
			Handle string `json:"handle"`
		}
		require.NoError(m.t, json.Unmarshal(entry.Value, &stored))
		if stored.ID == id {
			require.False(m.t, entry.SealWrap)
			require.NotContains(m.t, string(entry.Value), parentSecret)
			require.NotContains(m.t, string(entry.Value), "ID-canary")
			return string(entry.Value), stored.Handle
		}
	}
	require.Fail(m.t, "no record", id)
	return "", ""
}
