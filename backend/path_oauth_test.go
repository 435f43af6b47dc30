package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

const jwtAPI = "https://api.test"

// newJWTMount is an issuing mount with the provider jwt/p, its role j, and the role x
// that exchanges tokens of the test's server and of the broker itself.
func newJWTMount(t testing.TB, fields map[string]any) *mount {
	t.Helper()
	m := newIssuingMount(t, nil)
	m.must(m.write("providers/jwt/p", fields))
	m.must(m.write("roles/j", map[string]any{"provider": "jwt/p", "audiences": jwtAPI + ",https://next.test", "scopes": "read,write", "default_scopes": "read", "ttl": "10m", "max_ttl": "1h"}))
	m.must(m.write("issuers/idp", map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": m.server.URL, "bound_audiences": "broker",
	}))
	m.must(m.write("roles/x", map[string]any{
		"provider": "jwt/p", "mode": "exchange", "audiences": jwtAPI, "scopes": "read", "ttl": "10m", "subject_issuers": "idp",
	}))
	return m
}

// trustOurselves makes the role x take the broker's own children.
func (m *mount) trustOurselves() {
	m.t.Helper()
	keys := m.must(m.read(".well-known/jwks.json")).Data[logical.HTTPRawBody].([]byte)
	m.must(m.write("issuers/self", map[string]any{"jwks_pem": string(keys), "bound_issuer": ownURL, "bound_audiences": jwtAPI}))
	m.must(m.write("roles/x", map[string]any{"subject_issuers": "idp,self"}))
}

// signedTo is a child of the role for the entity.
func (m *mount) signedTo(entity, role string, data map[string]any) *lease {
	m.t.Helper()
	l, err := m.credsBy(call{path: "creds/" + role, entity: entity, data: data})
	require.NoError(m.t, err)
	return l
}

// introspected is the answer as it goes over the wire; what Vault's clients see must
// be the same.
func (m *mount) introspected(token string) map[string]any {
	m.t.Helper()
	resp := m.must(m.write("oauth/introspect", map[string]any{"token": token}))
	require.Equal(m.t, "application/json", resp.Data[logical.HTTPContentType])
	require.Equal(m.t, http.StatusOK, resp.Data[logical.HTTPStatusCode])
	require.Equal(m.t, "no-store", resp.Data[logical.HTTPCacheControlHeader])
	answer := map[string]any{}
	require.NoError(m.t, json.Unmarshal(resp.Data[logical.HTTPRawBody].([]byte), &answer))
	inner := answer["data"]
	delete(answer, "data")
	require.Equal(m.t, inner, answer)
	return answer
}

func (m *mount) requireInactive(token string) {
	m.t.Helper()
	require.Equal(m.t, map[string]any{"active": false}, m.introspected(token), "and nothing more")
}

func (m *mount) requireActive(token string) map[string]any {
	m.t.Helper()
	answer := m.introspected(token)
	require.Equal(m.t, true, answer["active"])
	return answer
}

func TestIntrospectionSaysWhatTheTokenSays(t *testing.T) {
	m := newJWTMount(t, map[string]any{"claims": map[string]any{"team": "{{identity.entity.metadata.team}}"}})
	jkt := "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	l := m.signedTo(alice, "j", map[string]any{"dpop_jkt": jkt, "audiences": jwtAPI})
	now := m.clock.Now().Unix()
	require.Equal(t, map[string]any{
		"active": true, "token_type": "DPoP", "iss": ownURL, "sub": alice, "client_id": alice, "aud": []any{jwtAPI}, "scope": "read",
		"jti": l.grantID, "iat": float64(now), "exp": float64(now + 600), "cnf": map[string]any{"jkt": jkt},
	}, m.introspected(l.token))
	require.Equal(t, "DPoP", l.data["token_type"])
	require.Equal(t, "expiry", l.data["revocation"])
	require.Equal(t, true, l.data["self_contained"])
	require.NotContains(t, l.data, "unverified", "the broker knows what it signed")
	require.Equal(t, 10*time.Minute, l.secret.TTL)
}

func TestTokensThatAreNotOurs(t *testing.T) {
	m := newJWTMount(t, nil)
	good := m.signedTo(alice, "j", nil).token
	elsewhere := newJWTMount(t, nil)
	for name, token := range map[string]string{
		"nonsense":               "nonsense",
		"dots":                   "..",
		"no signature":           good[:strings.LastIndex(good, ".")+1],
		"another signature":      good[:len(good)-8] + "AAAAAAAA",
		"another broker's":       elsewhere.signedTo(alice, "j", nil).token,
		"a user's":               m.subjectToken("one", nil),
		"an actor token":         m.hide(m.sign(keyring.Actor, time.Minute)),
		"a client assertion":     m.hide(m.sign(keyring.Assertion, time.Minute)),
		"a child without grant":  m.hide(m.sign(keyring.Child, time.Minute)),
		"as long as they can be": strings.Repeat("x", 16<<10),
	} {
		t.Run(name, func(t *testing.T) {
			m.requireInactive(token)
			m.must(m.write("oauth/revoke", map[string]any{"token": token}))
		})
	}
	m.requireActive(good)
	for _, path := range []string{"oauth/introspect", "oauth/revoke"} {
		for _, data := range []map[string]any{nil, {"token": ""}, {"token": strings.Repeat("x", 16<<10+1)}, {"token": strings.Repeat("x", 1<<20)}, {"token": []any{good}}, {"token": good, "client_secret": "s"}} {
			_, err := m.write(path, data)
			requireCode(t, err, fault.InvalidRequest)
		}
	}
}

// Each way in which a token can end makes it inactive at once, whatever its class.
func TestWhatEndsMakesInactive(t *testing.T) {
	for name, end := range map[string]func(*mount, *lease){
		"revoke/grant":    func(m *mount, l *lease) { m.must(m.write("revoke/grant/"+l.grantID, nil)) },
		"revoke/entity":   func(m *mount, _ *lease) { m.must(m.write("revoke/entity/"+alice, nil)) },
		"revoke/role":     func(m *mount, _ *lease) { m.must(m.write("revoke/role/j", nil)) },
		"revoke/provider": func(m *mount, _ *lease) { m.must(m.write("revoke/provider/jwt/p", nil)) },
		"oauth/revoke":    func(m *mount, l *lease) { m.must(m.write("oauth/revoke", map[string]any{"token": l.token})) },
		"the lease ends":  func(m *mount, l *lease) { require.NoError(m.t, m.revoke(l)) },
		"freeze": func(m *mount, _ *lease) {
			require.NoError(m.t, m.b.freezer.Freeze(m.t.Context(), thingOf("entity/"+alice), "test"))
		},
		"the holder is disabled": func(m *mount, _ *lease) {
			m.vault.change(func(v *vaultView) { v.entities[alice] = &logical.Entity{ID: alice, Disabled: true} })
		},
		"the holder is gone":    func(m *mount, _ *lease) { m.vault.change(func(v *vaultView) { v.entities[alice] = nil }) },
		"the holder is unfit":   func(m *mount, _ *lease) { m.must(m.write("roles/j", map[string]any{"bound_entity_ids": bob})) },
		"the role is gone":      func(m *mount, _ *lease) { m.must(m.delete("roles/j", nil)) },
		"the token expires":     func(m *mount, _ *lease) { m.clock.advance(10 * time.Minute) },
		"the issuer is another": func(m *mount, _ *lease) { m.must(m.write("config", map[string]any{"issuer": "https://other.test"})) },
	} {
		for _, class := range []provider.Class{provider.ClassExpiry, provider.ClassToken} {
			t.Run(fmt.Sprint(name, ", class ", class), func(t *testing.T) {
				m := newJWTMount(t, map[string]any{"revocation": string(class)})
				l := m.signedTo(alice, "j", nil)
				m.requireActive(l.token)
				end(m, l)
				m.requireInactive(l.token)
				m.waitForKills()
				m.requireInactive(l.token)
			})
		}
	}
}

// A renewal can also shorten a lease. From its end on the token is not the holder's
// any more, whether or not Vault has come to revoke it.
func TestALeaseThatEndsBeforeItsToken(t *testing.T) {
	m := newJWTMount(t, nil)
	l := m.signedTo(alice, "j", nil)
	_, err := m.renew(l, time.Minute)
	require.NoError(t, err)
	m.requireActive(l.token)
	m.clock.advance(2 * time.Minute)
	m.requireInactive(l.token)
}

func TestOthersStayActive(t *testing.T) {
	m := newJWTMount(t, nil)
	mine, theirs := m.signedTo(alice, "j", nil), m.signedTo(bob, "j", nil)
	m.must(m.write("revoke/entity/"+alice, nil))
	m.requireInactive(mine.token)
	m.requireActive(theirs.token)
	m.start() // as after a restart
	m.requireInactive(mine.token)
	m.requireActive(theirs.token)
}

func TestAKillOfWhatNothingKillsIsReportedAsThat(t *testing.T) {
	for class, want := range map[provider.Class]map[string]any{
		provider.ClassExpiry: {"revoked": 0, "pending": 0, "expiry_only": 1, "bystanders": 0, "frozen": false, "residual_exposure_seconds": int64(600)},
		provider.ClassToken:  {"revoked": 1, "pending": 0, "expiry_only": 0, "bystanders": 0, "frozen": false, "residual_exposure_seconds": int64(600)}, // whoever verifies offline
	} {
		m := newJWTMount(t, map[string]any{"revocation": string(class)})
		l := m.signedTo(alice, "j", nil)
		killed := m.must(m.write("revoke/entity/"+alice, nil)).Data
		delete(killed, "kill_id")
		require.Equal(t, want, killed)
		m.requireInactive(l.token)
	}
	m := newJWTMount(t, nil)
	_, err := m.write("roles/j", map[string]any{"require_revocable": true})
	requireCode(t, err, fault.InvalidRequest)
	m.must(m.write("providers/jwt/p", map[string]any{"revocation": "token"}))
	m.must(m.write("roles/j", map[string]any{"require_revocable": true}))
}

// An error while asking says neither that a token is good nor that it is not.
func TestIntrospectionWithoutVaultsHelp(t *testing.T) {
	m := newJWTMount(t, map[string]any{"revocation": "token"})
	l := m.signedTo(alice, "j", nil)
	m.vault.failWith(fmt.Errorf("no answer"))
	_, err := m.write("oauth/introspect", map[string]any{"token": l.token})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.vault.failWith(nil)
	m.requireActive(l.token)
	m.storage.on(func(op, key string) error {
		if op == "delete" && strings.HasPrefix(key, "grant/") {
			return fmt.Errorf("the disk is full")
		}
		return nil
	})
	_, err = m.write("oauth/revoke", map[string]any{"token": l.token})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.requireInactive(l.token)
	m.storage.heal()
}

func TestAnExchange(t *testing.T) {
	m := newJWTMount(t, nil)
	l := m.signedTo(alice, "x", map[string]any{"subject_token": m.subjectToken("one", map[string]any{"acr": "high"})})
	answer := m.requireActive(l.token)
	require.Equal(t, "user-1", answer["sub"])
	require.Equal(t, map[string]any{"format": "iss_sub", "iss": m.server.URL, "sub": "user-1"}, answer["sub_id"])
	require.Equal(t, map[string]any{"sub": alice, "iss": ownURL}, answer["act"])
	require.Equal(t, "high", answer["acr"])
	require.Equal(t, alice, answer["client_id"])
	require.Equal(t, "user-1", l.data["subject"])
	require.Equal(t, alice, l.data["actor"])
	require.Equal(t, "urn:ietf:params:oauth:token-type:access_token", l.data["issued_token_type"])

	short := m.subjectToken("two", map[string]any{"exp": m.clock.Now().Add(time.Minute).Unix()})
	require.Equal(t, time.Minute, m.signedTo(alice, "x", map[string]any{"subject_token": short}).secret.TTL)

	_, err := m.credsBy(call{path: "creds/x", entity: alice, data: map[string]any{"subject_token": m.subjectToken("three", map[string]any{"may_act": map[string]any{"sub": bob, "iss": ownURL}})}})
	requireCode(t, err, fault.AccessDenied, "may_act")
	_, err = m.credsBy(call{path: "creds/x", data: map[string]any{"subject_token": m.subjectToken("four", nil)}})
	requireCode(t, err, fault.AccessDenied, "entity")
}

// claimsOf is what a verifier reads.
func claimsOf(t testing.TB, token string) map[string]any {
	t.Helper()
	parsed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)
	claims := map[string]any{}
	require.NoError(t, json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &claims))
	return claims
}

// Beside the subject's sub nothing is said of the agent: a service would read it as the
// subject's. The provider was written by a build that knew no better.
func TestTheAgentsClaimsAreNotTheUsers(t *testing.T) {
	m := newJWTMount(t, map[string]any{"claims": map[string]any{
		"groups": "{{identity.entity.groups.names}}", "team": "{{identity.entity.metadata.team}}", "kind": "agent",
	}})
	require.Equal(t, "payments", claimsOf(t, m.signedTo(alice, "j", nil).token)["team"])
	exchanged := func(more map[string]any) map[string]any {
		t.Helper()
		return claimsOf(t, m.signedTo(alice, "x", map[string]any{"subject_token": m.subjectToken(newID(t), more)}).token)
	}
	answer := exchanged(map[string]any{"groups": []any{"staff"}})
	for _, name := range []string{"groups", "team", "kind"} {
		require.NotContains(t, answer, name)
	}
	require.Equal(t, map[string]any{"sub": alice, "iss": ownURL}, answer["act"])

	m.must(m.write("providers/jwt/p", map[string]any{"exchange_claims": map[string]any{
		"groups": "{{subject.claims.groups}}", "level": "{{subject.claims.level}}", "kind": "user", "act.team": "{{identity.entity.metadata.team}}",
	}}))
	require.Contains(t, m.must(m.read("providers/jwt/p")).Data, "exchange_claims")
	answer = exchanged(map[string]any{"groups": []any{"staff"}, "level": 3})
	require.Equal(t, []any{"staff"}, answer["groups"])
	require.EqualValues(t, 3, answer["level"])
	require.Equal(t, "user", answer["kind"])
	require.NotContains(t, answer, "team")
	require.Equal(t, map[string]any{"sub": alice, "iss": ownURL, "team": "payments"}, answer["act"])
	_, err := m.credsBy(call{path: "creds/x", entity: alice, data: map[string]any{"subject_token": m.subjectToken("none", nil)}})
	requireCode(t, err, fault.AccessDenied, "has no claim")
	_, err = m.write("providers/jwt/p", map[string]any{"exchange_claims": map[string]any{"team": "{{identity.entity.metadata.team}}"}})
	requireCode(t, err, fault.InvalidRequest, "is about the caller")
}

// A child of ours can be exchanged further, where the operator trusts the broker: the
// chain grows, the subject stays, and a child that was killed is good for nothing.
func TestAChainOfExchanges(t *testing.T) {
	m := newJWTMount(t, nil)
	m.trustOurselves()
	first := m.signedTo(alice, "x", map[string]any{"subject_token": m.subjectToken("one", nil)})
	second := m.signedTo(bob, "x", map[string]any{"subject_token": first.token})
	answer := m.requireActive(second.token)
	require.Equal(t, "user-1", answer["sub"])
	require.Equal(t, m.server.URL, answer["sub_id"].(map[string]any)["iss"], "the user's issuer, not ours")
	require.Equal(t, map[string]any{"sub": bob, "iss": ownURL, "act": map[string]any{"sub": alice, "iss": ownURL}}, answer["act"])

	token := second.token
	for range 2 {
		token = m.signedTo(alice, "x", map[string]any{"subject_token": token}).token
	}
	last := m.signedTo(bob, "x", map[string]any{"subject_token": token})
	_, err := m.credsBy(call{path: "creds/x", entity: alice, data: map[string]any{"subject_token": last.token}})
	requireCode(t, err, fault.InvalidGrant, "has passed through 5 actors")

	m.must(m.write("revoke/grant/"+first.grantID, nil))
	_, err = m.credsBy(call{path: "creds/x", entity: bob, data: map[string]any{"subject_token": first.token}})
	requireCode(t, err, fault.InvalidGrant, "revoked")
	m.requireActive(second.token)
}

// A trusted issuer whose users choose their own sub cannot pass one off as an entity.
func TestAForeignSubjectIsNoEntity(t *testing.T) {
	m := newJWTMount(t, nil)
	_, err := m.credsBy(call{path: "creds/x", entity: bob, data: map[string]any{"subject_token": m.subjectToken("one", map[string]any{"sub": alice})}})
	requireCode(t, err, fault.AccessDenied, "the id of a Vault entity")
	stranger := "00000000-0000-4000-8000-000000000000"
	m.signedTo(bob, "x", map[string]any{"subject_token": m.subjectToken("two", map[string]any{"sub": stranger})})
	m.clock.advance(strangerFor)
	m.vault.change(func(v *vaultView) { v.fail = errors.New("Vault is busy") })
	_, err = m.credsBy(call{path: "creds/x", data: map[string]any{"subject_token": m.subjectToken("three", map[string]any{"sub": stranger})}})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.vault.change(func(v *vaultView) { v.fail = nil })
}

// may_act goes with the subject: only the party that it names can exchange further.
func TestMayActIsNotLostOnTheWay(t *testing.T) {
	m := newJWTMount(t, nil)
	m.trustOurselves()
	user := m.subjectToken("one", map[string]any{"may_act": map[string]any{"sub": alice, "iss": ownURL}})
	first := m.signedTo(alice, "x", map[string]any{"subject_token": user})
	_, err := m.credsBy(call{path: "creds/x", entity: bob, data: map[string]any{"subject_token": first.token}})
	requireCode(t, err, fault.AccessDenied, "may_act")
	m.signedTo(alice, "x", map[string]any{"subject_token": first.token})
}

// An issuer that is trusted without a bound iss cannot speak for the broker, and what
// the broker signs for other purposes is nobody's subject token.
func TestOnlyOurOwnChildrenSpeakForUs(t *testing.T) {
	m := newJWTMount(t, nil)
	m.trustOurselves()
	m.must(m.write("issuers/loose", map[string]any{"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": "https://loose.test", "bound_audiences": "broker"}))
	m.must(m.write("roles/x", map[string]any{"subject_issuers": "loose"}))
	m.must(m.write("issuers/loose", map[string]any{"bound_issuer": ""}))
	forged := m.subjectToken("one", map[string]any{"iss": ownURL, "sub": bob})
	_, err := m.credsBy(call{path: "creds/x", entity: alice, data: map[string]any{"subject_token": forged}})
	requireCode(t, err, fault.InvalidGrant, "not one that this broker has signed")

	m.must(m.write("roles/x", map[string]any{"subject_issuers": "self"}))
	for _, purpose := range keyring.Purposes() {
		token := m.hide(m.sign(purpose, time.Minute))
		_, err := m.credsBy(call{path: "creds/x", entity: alice, data: map[string]any{"subject_token": token}})
		requireCode(t, err, fault.InvalidGrant)
	}
}

// An issuer that is trusted for some users chooses their sub freely, an entity's id
// included. The child keeps it beside sub_id, and must not act as that entity.
func TestAForeignSubActsForNobody(t *testing.T) {
	m := newJWTMount(t, nil)
	m.trustOurselves()
	m.must(m.write("roles/y", map[string]any{
		"provider": "jwt/p", "mode": "exchange", "audiences": jwtAPI, "scopes": "read", "subject_issuers": "idp",
		"actor": "token", "actor_issuers": "self",
	}))
	user := func(jti string) string {
		return m.subjectToken(jti, map[string]any{"may_act": map[string]any{"sub": bob, "iss": ownURL}})
	}
	var entity *logical.Entity // who is not known yet when somebody poses as them
	m.vault.change(func(v *vaultView) { entity, v.entities[bob] = v.entities[bob], nil })
	posing := m.signedTo(alice, "x", map[string]any{"subject_token": m.subjectToken("one", map[string]any{"sub": bob})})
	m.vault.change(func(v *vaultView) { v.entities[bob] = entity })
	_, err := m.credsBy(call{path: "creds/y", entity: alice, data: map[string]any{"subject_token": user("two"), "actor_token": posing.token}})
	requireCode(t, err, fault.InvalidGrant, "actor_token", "another issuer's subject")

	genuine := m.signedTo(bob, "j", map[string]any{"audiences": jwtAPI})
	l := m.signedTo(alice, "y", map[string]any{"subject_token": user("three"), "actor_token": genuine.token})
	require.Equal(t, map[string]any{"sub": bob, "iss": ownURL}, m.requireActive(l.token)["act"])

	_, err = m.renew(l, time.Minute)
	require.NoError(t, err)
	m.must(m.write("roles/y", map[string]any{"actor_issuers": "idp"}))
	_, err = m.renew(l, time.Minute)
	requireCode(t, err, fault.AccessDenied, "actor")
}

// A change of config issuer makes nothing good again: neither a killed child nor what
// the broker signed for another purpose.
func TestOurOwnAreKnownByTheirKeysToo(t *testing.T) {
	m := newJWTMount(t, nil)
	m.trustOurselves()
	m.must(m.write("roles/evidence", map[string]any{"provider": "oauth2/p", "scopes": "read", "subject_issuers": "self"}))
	child := m.signedTo(alice, "j", map[string]any{"audiences": jwtAPI})
	claims := m.claims(time.Minute)
	claims["iat"] = m.clock.Now().Unix()
	assertion, err := m.b.signToken(t.Context(), keyring.Assertion, claims)
	require.NoError(t, err)
	m.must(m.write("revoke/grant/"+child.grantID, nil))
	for _, issuer := range []string{ownURL, "https://moved.test/v1/broker", "", "https://after.test/v1/broker"} {
		m.must(m.write("config", map[string]any{"issuer": issuer}))
		if issuer == "https://after.test/v1/broker" { // verifiers may still have the stolen keys
			m.must(m.write("issuer/rotate", map[string]any{"emergency": true}))
			m.start()
		}
		for _, token := range []string{child.token, m.hide(assertion)} {
			_, err := m.credsBy(call{path: "creds/evidence", entity: alice, data: map[string]any{"subject_token": token}})
			requireCode(t, err, fault.InvalidGrant)
		}
	}
}

func TestAProviderWithoutAnIssuer(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("providers/jwt/p", nil))
	m.must(m.write("roles/j", map[string]any{"provider": "jwt/p", "audiences": jwtAPI}))
	_, err := m.credsBy(call{path: "creds/j", entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable, "config issuer")
	_, err = m.write("providers/jwt/p/check", nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "config issuer")
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	require.Empty(t, m.allGrants())
	m.signedTo(alice, "j", nil)
	for _, bad := range []map[string]any{{"audiences": ""}, {"permissions": map[string]any{"contents": "read"}}, {"mode": "forward"}, {"audiences": ownURL}} {
		_, err := m.write("roles/j", bad)
		requireCode(t, err, fault.InvalidRequest)
	}
}

func TestEveryIntrospectedClaimIsDocumented(t *testing.T) {
	m := newEmptyMount(t, setup{})
	documented := m.b.Route("oauth/introspect").Operations[logical.UpdateOperation].Properties().Responses[http.StatusOK][0].Fields
	for _, name := range slices.Concat(introspected, []string{"active", "token_type", "data"}) {
		require.Contains(t, documented, name)
	}
}
