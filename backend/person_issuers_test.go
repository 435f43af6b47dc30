package backend

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// TestAnIssuerSaysHowItsSubjectsRelate: what an operator writes of it is kept, shown, and on
// record with what is granted, for subject and actor.
func TestAnIssuerSaysHowItsSubjectsRelate(t *testing.T) {
	m := newTrustingMount(t)
	const mount = "auth_oidc_1a2b3c4d"
	m.must(m.write("issuers/idp", map[string]any{"entity_alias_mount": mount, "entity_metadata": map[string]any{"number": "employee"}}))
	m.must(m.write("issuers/agents", map[string]any{"entity_claim": "/vault/entity"}))
	shown := m.must(m.read("issuers/idp")).Data
	require.Equal(t, []string{mount}, shown["entity_alias_mount"])
	require.Equal(t, "sub", shown["entity_alias_claim"])
	require.Equal(t, map[string]string{"number": "employee"}, shown["entity_metadata"])
	require.Equal(t, "/vault/entity", m.must(m.read("issuers/agents")).Data["entity_claim"])
	_, err := m.write("issuers/idp", map[string]any{"entity_alias_mount": "oidc/"})
	requireCode(t, err, fault.InvalidRequest, "accessor", "sys/auth/")

	l := m.signedTo(alice, "a", map[string]any{
		"subject_token": m.subjectToken("1", map[string]any{"iss": m.server.URL, "sub": "user-1", "employee": 7}),
		"actor_token":   m.subjectToken("2", map[string]any{"iss": "https://agents.test", "sub": "agent-1", "vault": map[string]any{"entity": bob}}),
	})
	g, err := m.b.ledger.Get(context.Background(), l.grantID)
	require.NoError(t, err)
	require.Equal(t, []person.Tie{{Kind: person.KindAlias, At: mount, Value: "user-1"}, {Kind: person.KindMetadata, At: "number", Value: "7"}}, g.SubjectTies)
	require.Equal(t, []person.Tie{person.Entity(bob)}, g.ActorTies)

	m.must(m.write("issuers/idp", map[string]any{"entity_alias_mount": "", "entity_metadata": map[string]any{}}))
	l, _ = m.resting()
	g, err = m.b.ledger.Get(context.Background(), l.grantID)
	require.NoError(t, err)
	require.Empty(t, g.SubjectTies)
	require.Empty(t, m.must(m.read("issuers/idp")).Data["entity_alias_claim"])
}
