package backend

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// Wherever a mint ends, everything that it took on its way is given back: its places in
// the quota, before the provider and in the door, and the subject token unless something
// may have been minted for it.
func TestATicketGivesEverythingBack(t *testing.T) {
	m, s := newSessionMount(t, nil)
	m.must(m.write("issuers/i", map[string]any{"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": m.server.URL, "bound_audiences": "broker"}))
	m.must(m.write("roles/r", map[string]any{"subject_issuers": "i", "subject_single_use": true, "max_grants_per_entity": 1}))
	token := func(jti string) map[string]any { return map[string]any{"subject_token": m.subjectToken(jti, nil)} }
	ask := func(data map[string]any) error {
		l, err := m.session(call{entity: alice, data: data})
		if err == nil {
			require.NoError(t, m.revoke(l))
		}
		return err
	}
	free := func(step string) {
		require.Zero(t, m.b.door.Busy(), step)
		require.Empty(t, m.b.quotas.minting, step)
		state := m.b.providers.State("session/s")
		require.Zero(t, state.Minting+state.Waiting, step)
	}
	for name, test := range map[string]struct {
		before, after func()
		used          bool // up
	}{
		"the used token cannot be noted": {before: func() { m.storage.fail("put") }, after: m.storage.heal},
		"the provider refuses": {
			before: func() { s.busy = true }, after: func() { s.busy = false },
		},
		"the answer is lost": {before: func() { s.refuses = true }, after: func() { s.refuses = false }, used: true},
		"the answer is a violation": {
			before: func() { s.changing(func(_ int, a map[string]any) { a["region"] = "x" }) }, after: func() { s.changing(nil) }, used: true,
		},
		"the provider is disabled": {
			before: func() { m.must(m.write("providers/session/s", map[string]any{"disabled": true})) },
			after:  func() { m.must(m.write("providers/session/s", map[string]any{"disabled": false})) },
		},
	} {
		data := token(name)
		test.before()
		require.Error(t, ask(data), name)
		test.after()
		free(name)
		require.Equal(t, test.used, ask(data) != nil, name)
		free(name)
		require.NoError(t, ask(token(name+" again")), name)
		require.Empty(t, s.alive(), name)
	}
	l := m.mustSession(call{entity: alice, data: token("one")})
	require.Error(t, ask(token("two")), "the quota")
	require.NoError(t, m.revoke(l))
	free("the quota")

	// A mount that ends lets nobody in.
	m.b.door.Close(false)
	m.taint(true)
	require.Error(t, ask(token("three")))
	m.taint(false)
	m.b.door.Open()
	free("the door")
}
