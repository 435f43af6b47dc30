package backend

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// exchange asks the role x for a child, as bob.
func (m *mount) exchange(token string) (*lease, error) {
	return m.credsBy(call{path: "creds/x", entity: bob, data: map[string]any{"subject_token": token}})
}

// A token that was refused for one reason is not made good by passing another look:
// what was revoked stays so under another issuer URL, also once its entity is gone and
// nothing else stands against it.
func TestARefusalIsNeverOverwritten(t *testing.T) {
	for name, sub := range map[string]string{"of the entity's id": "", "of anything": "svc-{{identity.entity.name}}"} {
		t.Run(name, func(t *testing.T) {
			m := newJWTMount(t, map[string]any{"subject": sub})
			m.trustOurselves()
			child := m.signedTo(alice, "j", map[string]any{"audiences": jwtAPI})
			m.must(m.write("revoke/grant/"+child.grantID, nil))
			m.must(m.write("config", map[string]any{"issuer": "https://moved.test/v1/broker"}))
			m.vault.change(func(v *vaultView) { delete(v.entities, alice) })
			_, err := m.exchange(child.token)
			requireCode(t, err, fault.InvalidGrant)
			require.Equal(t, []string{child.grantID}, m.allGrants(), "the class is expiry: it stays on record")
		})
	}
}

// A token that is bound to a key is worth nothing without that key, and the broker
// would hand out what works without it.
func TestABoundTokenIsNoBearerToken(t *testing.T) {
	m := newJWTMount(t, nil)
	m.trustOurselves()
	m.must(m.write("roles/evidence", map[string]any{"provider": "oauth2/p", "scopes": "read", "subject_issuers": "idp"}))
	m.must(m.write("roles/theirs", map[string]any{"provider": "oauth2/p", "mode": "exchange", "scopes": "read", "subject_issuers": "idp"}))
	m.must(m.write("roles/acting", map[string]any{
		"provider": "jwt/p", "mode": "exchange", "audiences": jwtAPI, "scopes": "read", "subject_issuers": "idp", "actor": "token", "actor_issuers": "idp",
	}))
	free := m.trustedToken("free")
	for name, cnf := range map[string]any{
		"DPoP": map[string]any{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
		"mTLS": map[string]any{"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"},
		"else": map[string]any{"kid": "k1"},
		"null": nil,
	} {
		bound := m.subjectToken(name, map[string]any{"cnf": cnf})
		m.server.Trust(bound, authserver.Bearer{Subject: "user-1"})
		for role, tokens := range map[string]map[string]any{
			"evidence": {"subject_token": bound},
			"theirs":   {"subject_token": bound},
			"x":        {"subject_token": bound},
			"acting":   {"subject_token": free, "actor_token": bound},
		} {
			_, err := m.credsBy(call{path: "creds/" + role, entity: bob, data: tokens})
			requireCode(t, err, fault.InvalidGrant, "cnf", "bring a token that is not bound")
		}
	}
	ours := m.signedTo(alice, "j", map[string]any{"dpop_jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "audiences": jwtAPI})
	_, err := m.exchange(ours.token)
	requireCode(t, err, fault.InvalidGrant, "cnf")
	require.Equal(t, []string{ours.grantID}, m.allGrants())
}

// What the broker signs names nobody for whom no issuer vouches: keys that no iss is
// bound to could sign any name.
func TestTheBrokerSignsNoNameThatNobodyVouchesFor(t *testing.T) {
	m := newJWTMount(t, nil)
	loose := map[string]any{"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_audiences": "broker"}
	resp := m.must(m.write("issuers/loose", loose))
	require.Contains(t, strings.Join(resp.Warnings, " "), "bound_issuer")
	exchange := map[string]any{"provider": "jwt/p", "mode": "exchange", "audiences": jwtAPI, "scopes": "read"}
	acting := func(subject, actor string) map[string]any {
		role := map[string]any{"subject_issuers": subject, "actor": "token", "actor_issuers": actor}
		for name, value := range exchange {
			role[name] = value
		}
		return role
	}
	for _, role := range []map[string]any{acting("loose", "idp"), acting("idp", "loose"), acting("idp,loose", "idp")} {
		_, err := m.write("roles/y", role)
		requireCode(t, err, fault.InvalidRequest, "bound_issuer", "issuers/loose")
	}

	// The issuer may lose its binding after the role was written.
	user := m.subjectToken("one", nil)
	for _, bound := range []string{m.server.URL, ""} {
		m.must(m.write("issuers/loose", map[string]any{"bound_issuer": bound}))
		if bound != "" {
			m.must(m.write("roles/subject", acting("loose", "idp")))
			m.must(m.write("roles/actor", acting("idp", "loose")))
		}
		m.clock.advance(time.Second)
		for _, path := range []string{"subject", "actor"} {
			_, err := m.credsBy(call{path: "creds/" + path, entity: alice, data: map[string]any{"subject_token": user, "actor_token": user}})
			if bound != "" {
				require.NoError(t, err)
				continue
			}
			requireCode(t, err, fault.InvalidGrant, "bound_issuer", "issuers/loose")
		}
	}
	// Where nobody is named by the broker, such an issuer's word is evidence as before.
	m.must(m.write("roles/evidence", map[string]any{"provider": "oauth2/p", "scopes": "read", "subject_issuers": "loose"}))
	_, err := m.credsBy(call{path: "creds/evidence", entity: alice, data: map[string]any{"subject_token": user}})
	require.NoError(t, err)
}

// Whatever Vault uses as an entity's id, no other issuer's subject has it: the ids of a
// namespace's entities end with the namespace's own.
func TestAForeignSubIsNoEntityOfANamespace(t *testing.T) {
	m := newJWTMount(t, nil)
	merged := "33333333-cccc-4ccc-8ccc-333333333333"
	ids := []string{alice, alice + ".Xk4d2", "not-a-uuid_at~all"}
	m.vault.change(func(v *vaultView) {
		for _, id := range ids[1:] {
			v.entities[id] = &logical.Entity{ID: id}
		}
		v.entities[merged] = &logical.Entity{ID: alice} // merged into her
	})
	for _, id := range append(ids, merged) {
		_, err := m.exchange(m.subjectToken(id, map[string]any{"sub": id}))
		requireCode(t, err, fault.AccessDenied, "the id of a Vault entity")
	}
	require.Empty(t, m.allGrants())
}

// No other issuer says that an entity acts either: by an actor token, nor by the act of
// a subject token where the role names nobody.
func TestNoOtherIssuerSaysThatAnEntityActs(t *testing.T) {
	m := newTrustingMount(t)
	ask := func(role, subject, actor string) error {
		data := map[string]any{"subject_token": subject}
		if actor != "" {
			data["actor_token"] = actor
		}
		_, err := m.credsBy(call{path: "creds/" + role, entity: bob, data: data})
		return err
	}
	user := m.of(m.server.URL, "user-1")
	requireCode(t, ask("a", user, m.of("https://agents.test", alice)), fault.AccessDenied, "the actor token's sub is the id of a Vault entity")
	require.NoError(t, ask("a", user, m.of("https://agents.test", "agent-1")))

	acted := func(act map[string]any) string {
		return m.subjectToken(newID(t), map[string]any{"act": act})
	}
	m.must(m.write("roles/n", map[string]any{
		"provider": "jwt/p", "mode": "exchange", "audiences": jwtAPI, "scopes": "read", "subject_issuers": "idp", "actor": "none",
	}))
	requireCode(t, ask("n", acted(map[string]any{"iss": ownURL, "sub": "anybody"}), ""), fault.AccessDenied, "act is of this broker's issuer")
	requireCode(t, ask("n", acted(map[string]any{"sub": alice}), ""), fault.AccessDenied, "the sub of the subject token's act is the id of a Vault entity")
	require.NoError(t, ask("n", acted(map[string]any{"sub": "agent-1"}), ""))
	require.NoError(t, ask("x", acted(map[string]any{"iss": ownURL, "sub": alice}), ""), "who acted before is the subject's issuer's affair")
}

// Whom Vault has just called a stranger it is not asked about again, and never about
// what can be no id.
func TestVaultIsNotAskedAboutOrdinarySubjects(t *testing.T) {
	m := newJWTMount(t, nil)
	ask := func(sub string) int {
		return m.vault.whileAsked(func() {
			_, err := m.exchange(m.subjectToken(sub, map[string]any{"sub": sub}))
			require.NoError(t, err)
		})["EntityInfo"]
	}
	ask("user-1") // who is calling is known from now on
	require.Zero(t, ask("user-1"))
	require.Zero(t, ask("repo:acme/shop:ref:refs/heads/main"), "no id has a slash")
	require.Zero(t, ask(strings.Repeat("x", maxName+1)))
	require.Equal(t, 1, ask("user-2"), "asked once")
	require.Zero(t, ask("user-2"))
	m.clock.advance(strangerFor)
	require.Equal(t, 2, ask("user-2"), "who calls, and who is meant")
}

// An issuer's keys that are in use are fetched anew about once an hour, whether or not
// anybody asks.
func TestThePeriodicCallKeepsKeysFresh(t *testing.T) {
	m := withSubject(t)
	_, err := m.creds(map[string]any{"subject_token": m.subjectToken("one", nil)})
	require.NoError(t, err)
	fetched := func() int { return m.server.Counts().Requests[authserver.EndpointJWKS] }
	before := fetched()
	m.clock.advance(jwks.StaleAfter)
	require.NoError(t, m.periodic())
	require.Eventually(t, func() bool { return fetched() == before+1 }, promptly, time.Millisecond)
}
