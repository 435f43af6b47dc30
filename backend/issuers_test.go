package backend

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// newTrustingMount is a JWT mount with three issuers of the same keys, idp, agents and
// pem, and the roles s, which takes idp's and pem's subject tokens as evidence, and a,
// which exchanges idp's with an actor of agents or pem.
func newTrustingMount(t testing.TB) *mount {
	t.Helper()
	m := newJWTMount(t, nil)
	m.must(m.write("issuers/agents", map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": "https://agents.test", "bound_audiences": "broker",
	}))
	m.must(m.write("issuers/pem", map[string]any{"jwks_pem": m.serverKeys(), "bound_issuer": "https://pem.test", "bound_audiences": "broker"}))
	m.must(m.write("roles/s", map[string]any{"provider": "oauth2/p", "scopes": "read", "subject_issuers": "idp,pem", "ttl": "1m", "max_ttl": "10m"}))
	m.must(m.write("roles/a", map[string]any{
		"provider": "jwt/p", "mode": "exchange", "audiences": jwtAPI, "scopes": "read", "subject_issuers": "idp",
		"actor": "token", "actor_issuers": "agents,pem", "ttl": "1m", "max_ttl": "10m",
	}))
	return m
}

// serverKeys are the keys of the test's server, as an operator writes them down.
func (m *mount) serverKeys() string {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.server.Endpoint(authserver.EndpointJWKS), nil)
	require.NoError(m.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(m.t, err)
	defer func() { _ = resp.Body.Close() }()
	return readAll(m.t, resp.Body)
}

// of is a token of the issuer with that iss.
func (m *mount) of(iss, sub string) string {
	return m.subjectToken(sub, map[string]any{"iss": iss, "sub": sub})
}

// resting are a grant of the role s on a subject of idp, and one of the role a on a
// subject of idp and an actor of agents.
func (m *mount) resting() (subject, actor *lease) {
	m.t.Helper()
	subject = m.signedTo(alice, "s", map[string]any{"subject_token": m.of(m.server.URL, "user-1")})
	actor = m.signedTo(alice, "a", map[string]any{"subject_token": m.of(m.server.URL, "user-1"), "actor_token": m.of("https://agents.test", "agent-1")})
	return subject, actor
}

// TestARenewalWantsTheSameIssuer: a grant is renewed as long as those who vouched for its
// subject and actor are there, and are the ones that they were.
func TestARenewalWantsTheSameIssuer(t *testing.T) {
	const gone, changed = "does not exist any more", "is another one now"
	for name, c := range map[string]struct {
		change         func(m *mount)
		subject, actor string // what refuses; "" if nothing does
	}{
		"nothing":               {func(*mount) {}, "", ""},
		"the subject's is gone": {func(m *mount) { m.must(m.delete("issuers/idp", nil)) }, gone, gone},
		"the actor's is gone":   {func(m *mount) { m.must(m.delete("issuers/agents", nil)) }, "", gone},
		"another's is gone":     {func(m *mount) { m.must(m.delete("issuers/pem", nil)) }, "", ""},
		"the subject's iss":     {func(m *mount) { m.must(m.write("issuers/idp", map[string]any{"bound_issuer": "https://new.test"})) }, changed, changed},
		"the actor's iss":       {func(m *mount) { m.must(m.write("issuers/agents", map[string]any{"bound_issuer": ""})) }, "", changed},
		"where the keys are":    {func(m *mount) { m.must(m.write("issuers/idp", map[string]any{"jwks_url": "https://keys.test/jwks"})) }, changed, changed},
		"that they are written": {func(m *mount) {
			m.must(m.write("issuers/agents", map[string]any{"jwks_url": "", "jwks_pem": m.serverKeys()}))
		}, "", changed},
		"other terms on a token": {func(m *mount) {
			m.must(m.write("issuers/idp", map[string]any{"bound_audiences": "new", "clock_skew": 1, "timeout": 2}))
		}, "", ""},
		"gone and back":                {func(m *mount) { m.recreate("idp", m.server.URL) }, "", ""},
		"the role takes none any more": {func(m *mount) { m.must(m.write("roles/s", map[string]any{"subject_issuers": ""})) }, "does not trust the issuer", ""},
		"another one by the name":      {func(m *mount) { m.recreate("idp", "https://new.test") }, changed, changed},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTrustingMount(t)
			subject, actor := m.resting()
			c.change(m)
			for l, want := range map[*lease]string{subject: c.subject, actor: c.actor} {
				_, err := m.renew(l, time.Minute)
				if want == "" {
					require.NoError(t, err)
					continue
				}
				requireCode(t, err, fault.AccessDenied, want, "read creds again")
			}
		})
	}
}

func (m *mount) recreate(name, iss string) {
	m.must(m.delete("issuers/"+name, nil))
	m.must(m.write("issuers/"+name, map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": iss, "bound_audiences": "broker",
	}))
}

// TestARotatedKeyIsNoOtherIssuer: keys may change where they come from, which for keys
// that an operator writes down is the writing; but nothing else tells an issuer without
// an iss from another.
func TestARotatedKeyIsNoOtherIssuer(t *testing.T) {
	const other = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----`
	m := newTrustingMount(t)
	bound := m.signedTo(alice, "s", map[string]any{"subject_token": m.of("https://pem.test", "user-1")})
	m.must(m.write("issuers/pem", map[string]any{"jwks_pem": other}))
	_, err := m.renew(bound, time.Minute)
	require.NoError(t, err)

	m.must(m.write("issuers/pem", map[string]any{"jwks_pem": m.serverKeys(), "bound_issuer": ""}))
	unbound := m.signedTo(alice, "s", map[string]any{"subject_token": m.of("https://any.test", "user-1")})
	_, err = m.renew(unbound, time.Minute)
	require.NoError(t, err)
	m.must(m.write("issuers/pem", map[string]any{"jwks_pem": other}))
	_, err = m.renew(unbound, time.Minute)
	requireCode(t, err, fault.AccessDenied, "another one now")
}

// TestAnOlderGrantIsJudgedByItsIssuersName: a record of an earlier build says no more.
func TestAnOlderGrantIsJudgedByItsIssuersName(t *testing.T) {
	m := newTrustingMount(t)
	l, _ := m.resting()
	m.editRecord(l.grantID, func(record map[string]any) {
		require.NotEmpty(t, record["subject_issuer_print"])
		delete(record, "subject_issuer_print")
	})
	m.must(m.write("issuers/idp", map[string]any{"bound_issuer": "https://new.test"}))
	_, err := m.renew(l, time.Minute)
	require.NoError(t, err)
	m.must(m.delete("issuers/idp", nil))
	_, err = m.renew(l, time.Minute)
	requireCode(t, err, fault.AccessDenied, "does not exist any more")
}

// editRecord changes a grant's record in storage, and begins a new life on it.
func (m *mount) editRecord(id string, edit func(record map[string]any)) {
	m.t.Helper()
	for _, key := range m.allKeysBelow(grant.StoragePrefix) {
		raw, err := m.storage.Get(m.t.Context(), key)
		require.NoError(m.t, err)
		var record map[string]any
		require.NoError(m.t, json.Unmarshal(raw.Value, &record))
		if record["id"] != id {
			continue
		}
		edit(record)
		raw.Value, err = json.Marshal(record)
		require.NoError(m.t, err)
		require.NoError(m.t, m.storage.Put(m.t.Context(), raw))
		m.start()
		return
	}
	require.Fail(m.t, "no such record", id)
}

// TestAnIssuersKillReachesAllThatRestsOnItsTokens: as subject or as actor, by its name
// alone, whether or not it is still there.
func TestAnIssuersKillReachesAllThatRestsOnItsTokens(t *testing.T) {
	for name, c := range map[string]struct {
		issuer         string
		deleted        bool
		subject, actor bool // killed
	}{
		"the subjects'":          {"idp", false, true, true},
		"the actors'":            {"agents", false, false, true},
		"that is deleted":        {"idp", true, true, true},
		"that vouched for none":  {"pem", false, false, false},
		"that has never existed": {"nobody", false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTrustingMount(t)
			own := m.signedTo(alice, "j", map[string]any{"audiences": jwtAPI})
			subject, actor := m.resting()
			if c.deleted {
				m.must(m.delete("issuers/"+c.issuer, nil))
			}
			counts := m.must(m.write("revoke/issuer/"+c.issuer, nil)).Data
			killed := func(b bool) int {
				if b {
					return 1
				}
				return 0
			}
			require.Equal(t, killed(c.subject), counts["revoked"])
			require.Equal(t, killed(c.actor), counts["expiry_only"], "jwt/p's class is expiry")
			require.Equal(t, 0, counts["pending"])
			require.Equal(t, !c.subject, m.server.Active(subject.token))
			require.Equal(t, !c.actor, m.introspected(actor.token)["active"])
			m.requireActive(own.token)
			require.Empty(t, m.keys("frozen", nil))
		})
	}
}

// TestAFrozenIssuerVouchesForNothingNew: nor for what is renewed, introspected or being
// minted.
func TestAFrozenIssuerVouchesForNothingNew(t *testing.T) {
	m := newTrustingMount(t)
	subject, actor := m.resting()
	ask := func(role string) error {
		data := map[string]any{"subject_token": m.of(m.server.URL, "user-1")}
		if role == "a" {
			data["actor_token"] = m.of("https://agents.test", "agent-1")
		}
		_, err := m.credsBy(call{path: "creds/" + role, entity: alice, data: data})
		return err
	}
	freezeOnly("issuer/agents")(m)
	require.Equal(t, []string{"issuer/agents"}, m.keys("frozen", nil))
	require.NoError(t, ask("s"))
	requireCode(t, ask("a"), fault.AccessDenied, "the issuer is frozen")
	m.requireInactive(actor.token)
	_, err := m.renew(actor, time.Minute)
	requireCode(t, err, fault.AccessDenied, "the issuer is frozen")
	_, err = m.renew(subject, time.Minute)
	require.NoError(t, err)
	m.must(m.write("revoke/issuer/agents", map[string]any{"freeze": false}))
	require.Empty(t, m.keys("frozen", nil))
	require.NoError(t, ask("a"))

	m.must(m.write("revoke/issuer/idp", map[string]any{"freeze": true}))
	require.False(t, m.server.Active(subject.token))
	requireCode(t, ask("s"), fault.AccessDenied, "the issuer is frozen")
	requireCode(t, ask("a"), fault.AccessDenied, "the issuer is frozen")
	m.must(m.delete("issuers/idp", nil))
	m.recreate("idp", m.server.URL)
	requireCode(t, ask("s"), fault.AccessDenied, "the issuer is frozen")
	m.must(m.write("revoke/issuer/idp", map[string]any{"freeze": false}))

	live := len(m.server.Live())
	for _, thawed := range []bool{false, true} {
		m.server.Break(authserver.EndpointToken, authserver.Before(func() {
			m.must(m.write("revoke/issuer/idp", map[string]any{"freeze": true}))
			if thawed {
				m.must(m.write("revoke/issuer/idp", map[string]any{"freeze": false}))
			}
		}))
		requireCode(t, ask("s"), fault.AccessDenied, "frozen")
		m.server.Break(authserver.EndpointToken, nil)
		require.LessOrEqual(t, len(m.server.Live()), live, "the mint in flight left nothing alive")
		m.must(m.write("revoke/issuer/idp", map[string]any{"freeze": false}))
	}
}

// TestAnIssuersKillSurvivesACrash: it is an order like the others, and finds its grants
// among those of all holders.
func TestAnIssuersKillSurvivesACrash(t *testing.T) {
	m := newTrustingMount(t)
	for i := range 20 {
		holder := alice
		if i%2 == 0 {
			holder = bob
		}
		m.signedTo(holder, "s", map[string]any{"subject_token": m.of(m.server.URL, fmt.Sprint("user-", i))})
	}
	own := m.mustCreds(nil)
	m.pushOut()
	m.storage.on(func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, grant.StoragePrefix) {
			return errStorage // nothing can be found now
		}
		return nil
	})
	_, err := m.write("revoke/issuer/idp", nil)
	require.Error(t, err)
	m.storage.heal()
	require.Len(t, m.server.Live(), 21)
	m.start()
	m.sweep()
	m.waitForKills()
	require.Equal(t, []string{own.token}, m.server.Live())
	require.Empty(t, m.allKeysBelow(ending.OrderPrefix))
	require.NoError(t, m.revoke(own))
}

// TestASharedTokenIsJoinedWhileItsIssuerIsTheSame: who joined later could not renew, and
// would be told in vain to read creds again.
func TestASharedTokenIsJoinedWhileItsIssuerIsTheSame(t *testing.T) {
	m := newTrustingMount(t)
	m.must(m.write("roles/s", map[string]any{"sharing": "entity"}))
	ask := map[string]any{"subject_token": m.of("https://pem.test", "user-1")}
	first, second := m.signedTo(alice, "s", ask), m.signedTo(alice, "s", ask)
	require.Equal(t, first.grantID, second.grantID)
	m.must(m.write("issuers/pem", map[string]any{"jwks_pem": "", "jwks_url": m.server.Endpoint(authserver.EndpointJWKS)}))
	third := m.signedTo(alice, "s", ask)
	require.NotEqual(t, first.grantID, third.grantID)
	_, err := m.renew(second, time.Minute)
	requireCode(t, err, fault.AccessDenied, "another one now")
	_, err = m.renew(third, time.Minute)
	require.NoError(t, err)
}

// A key that the issuer has published a moment after we looked is no forgery.
func TestATokenOfAKeyThatIsNewIsAskedForAgain(t *testing.T) {
	m := withSubject(t)
	m.server.Break(authserver.EndpointJWKS, authserver.Answer(http.StatusOK, "application/json",
		`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"old","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	creds := func() error {
		_, err := m.creds(map[string]any{"subject_token": m.subjectToken("one", nil)})
		return err
	}
	requireCode(t, creds(), fault.InvalidGrant, "not among those")
	m.server.Break(authserver.EndpointJWKS, nil)
	requireCode(t, creds(), fault.TemporarilyUnavailable, "issuer i", "try again")
	m.clock.advance(time.Minute)
	require.NoError(t, creds())
}

// A file that holds a token ends with a line end, more often than not.
func TestALineEndAfterATokenIsNoPartOfIt(t *testing.T) {
	m := withSubject(t)
	for jti, after := range map[string]string{"one": "\n", "two": "\r\n"} {
		_, err := m.creds(map[string]any{"subject_token": m.subjectToken(jti, nil) + after})
		require.NoError(t, err)
		_, err = m.creds(map[string]any{"subject_token": m.subjectToken(jti, nil)})
		requireCode(t, err, fault.InvalidGrant, "used already")
	}
	for _, after := range []string{"\n\n", "\r", " ", "\n "} {
		_, err := m.creds(map[string]any{"subject_token": m.subjectToken("three", nil) + after})
		requireCode(t, err, fault.InvalidGrant, "characters other")
	}
}

// Groups that the issuer left out of the token are none that the role could judge.
func TestGroupsThatTheIssuerLeftOut(t *testing.T) {
	m := withSubject(t)
	m.must(m.write("roles/r", map[string]any{"bound_subject_claims": map[string]any{"groups": "admins"}}))
	creds := func(claims map[string]any) error {
		_, err := m.creds(map[string]any{"subject_token": m.subjectToken("one", claims)})
		return err
	}
	requireCode(t, creds(map[string]any{"_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "https://graph.test/"}}}),
		fault.AccessDenied, "bound_subject_claims: groups", "the issuer left groups out")
	requireCode(t, creds(map[string]any{"hasgroups": true}), fault.AccessDenied, "the issuer left groups out")
	err := creds(map[string]any{"groups": []string{"users"}})
	requireCode(t, err, fault.AccessDenied, "bound_subject_claims: groups")
	require.NotContains(t, err.Error(), "left")
	require.NoError(t, creds(map[string]any{"groups": []string{"admins"}, "hasgroups": true}))
}
