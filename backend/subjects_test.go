package backend

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

const elsewhere = "https://elsewhere.test"

// withSubjects is a mount whose role r takes subject and actor tokens of two issuers, idp
// and other, of which the first is the server itself.
func withSubjects(t *testing.T) *mount {
	t.Helper()
	m := newMount(t, setup{})
	m.issuer("idp", m.server.URL)
	m.issuer("other", elsewhere)
	m.must(m.write("roles/r", map[string]any{"subject_issuers": "idp,other"}))
	return m
}

// issuer writes one whose keys are the server's.
func (m *mount) issuer(name, iss string) {
	m.t.Helper()
	m.must(m.write("issuers/"+name, map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": iss, "bound_audiences": "broker",
	}))
}

// on is a grant to the entity on a subject's behalf.
func (m *mount) on(entity, iss, sub string) *lease {
	m.t.Helper()
	l, err := m.tryOn(entity, iss, sub)
	require.NoError(m.t, err)
	return l
}

func (m *mount) tryOn(entity, iss, sub string) (*lease, error) {
	m.t.Helper()
	return m.credsBy(call{op: logical.UpdateOperation, path: "creds/r", entity: entity, data: map[string]any{
		"subject_token": m.subjectToken(newID(m.t), map[string]any{"iss": iss, "sub": sub}),
	}})
}

// ofSubject are the grants that a read shows of a subject.
func (m *mount) ofSubject(issuer, sub string, more ...string) []string {
	m.t.Helper()
	data := map[string]any{"issuer": issuer, "subject": sub}
	if len(more) > 0 {
		data["after"] = more[0]
	}
	resp := m.must(m.do(call{op: logical.ReadOperation, path: "grants/subject", data: data}))
	keys, _ := resp.Data["keys"].([]string)
	return keys
}

// killOf is the answer of a kill of a subject.
func (m *mount) killOf(issuer, sub string, freeze ...bool) *logical.Response {
	m.t.Helper()
	data := map[string]any{"issuer": issuer, "subject": sub}
	if len(freeze) > 0 {
		data["freeze"] = freeze[0]
	}
	return m.must(m.write("revoke/subject", data))
}

func (m *mount) requireLive(live bool, leases ...*lease) {
	m.t.Helper()
	for _, l := range leases {
		require.Equal(m.t, live, m.server.Active(l.token), l.grantID)
	}
}

func TestASubjectsGrantsDieWhoeverHoldsThem(t *testing.T) {
	for name, issuer := range map[string]func(*mount) string{
		"by the issuer's name": func(*mount) string { return "idp" },
		"by its iss":           func(m *mount) string { return m.server.URL },
	} {
		t.Run(name, func(t *testing.T) {
			m := withSubjects(t)
			hers, his, nobodys := m.on(alice, m.server.URL, "user-1"), m.on(bob, m.server.URL, "user-1"), m.on("", m.server.URL, "user-1")
			others := []*lease{m.on(alice, m.server.URL, "user-2"), m.on(alice, elsewhere, "user-1"), m.on(bob, m.server.URL, "user-10")}
			m.must(m.write("roles/r", map[string]any{"subject_issuers": ""}))
			others = append(others, m.to(alice))

			require.ElementsMatch(t, []string{hers.grantID, his.grantID, nobodys.grantID}, m.ofSubject(issuer(m), "user-1"))
			require.Equal(t, counts(3, 0, 0), counted(m.killOf(issuer(m), "user-1")))
			m.requireLive(false, hers, his, nobodys)
			m.requireLive(true, others...)
			require.Empty(t, m.ofSubject(issuer(m), "user-1"))
			require.Contains(t, m.metrics(), `broker_grants_killed_total{cause="revoke/subject",provider="oauth2/p"} 3`)

			again := m.killOf(issuer(m), "user-1")
			require.Equal(t, true, again.Data["unknown"])
			require.Contains(t, strings.Join(again.Warnings, " "), "no grant of the subject")
		})
	}
}

func TestASubjectsGrantsDieInWhichItActs(t *testing.T) {
	m := withSubjects(t)
	m.must(m.write("roles/r", map[string]any{"mode": "exchange", "actor": "token", "actor_issuers": "idp,other"}))
	exchange := func(sub, iss, actor string) *lease {
		subject := m.subjectToken(newID(t), map[string]any{"sub": sub})
		m.server.Trust(subject, authserver.Bearer{Subject: sub})
		act := m.subjectToken(newID(t), map[string]any{"iss": iss, "sub": actor})
		m.server.Trust(act, authserver.Bearer{Subject: actor})
		l, err := m.credsBy(call{op: logical.UpdateOperation, path: "creds/r", entity: alice, data: map[string]any{"subject_token": subject, "actor_token": act}})
		require.NoError(t, err)
		return l
	}
	acting, other := exchange("user-1", m.server.URL, "agent"), exchange("user-1", elsewhere, "agent")
	both := exchange("agent", m.server.URL, "agent")
	require.ElementsMatch(t, []string{acting.grantID, both.grantID}, m.ofSubject("idp", "agent"))
	require.Equal(t, counts(2, 0, 0), counted(m.killOf("idp", "agent", true)))
	m.requireLive(false, acting, both)
	m.requireLive(true, other)

	subject, act := m.subjectToken(newID(t), nil), m.subjectToken(newID(t), map[string]any{"sub": "agent"})
	_, err := m.credsBy(call{op: logical.UpdateOperation, path: "creds/r", entity: alice, data: map[string]any{"subject_token": subject, "actor_token": act}})
	requireCode(t, err, fault.AccessDenied, "the subject or actor is frozen")
}

// A sub holds whatever can be printed.
func TestASubjectIsWhateverATokenCallsIt(t *testing.T) {
	m := withSubjects(t)
	odd := []string{
		"repo:acme/api:environment:my env", "auth0|5f7c", "alice@acme.test", "spiffe://acme/ns/a/sa/b", "..", "../../roles/r", ".", "a.b..c", "*", "%2F", "ünïcode ☃", "a,b;c&d=e?f#g",
		strings.Repeat("a", 2048), strings.Repeat("ä", 1024), strings.Repeat("a", 2047) + "b", `"quoted"`, "{{identity.entity.id}}", "0",
	}
	leases := map[string]*lease{}
	for _, sub := range odd {
		leases[sub] = m.on(alice, elsewhere, sub)
	}
	for _, sub := range odd {
		l := leases[sub]
		require.Equal(t, []string{l.grantID}, m.ofSubject("other", sub))
		require.Equal(t, counts(1, 0, 0), counted(m.killOf(elsewhere, sub, true)), sub)
		m.requireLive(false, l)
		_, err := m.tryOn(bob, elsewhere, sub)
		requireCode(t, err, fault.AccessDenied, "frozen")
		m.killOf("other", sub, false)
		require.NoError(t, m.revoke(m.on(bob, elsewhere, sub)))
	}
	require.Empty(t, m.keys("frozen", nil))
	for name, data := range map[string]map[string]any{
		"nothing":             nil,
		"no subject":          {"issuer": "idp"},
		"no issuer":           {"subject": "user-1"},
		"a line break":        {"issuer": "idp", "subject": "a\nb"},
		"one in the issuer":   {"issuer": "id\np", "subject": "a"},
		"a NUL":               {"issuer": "idp", "subject": "a\x00"},
		"too long a one":      {"issuer": "idp", "subject": strings.Repeat("a", 2049)},
		"too long an issuer":  {"issuer": strings.Repeat("a", 2049), "subject": "a"},
		"a line of direction": {"issuer": "idp", "subject": "a\u202eb"},
	} {
		_, err := m.write("revoke/subject", data)
		requireCode(t, err, fault.InvalidRequest)
		_, err = m.do(call{op: logical.ReadOperation, path: "grants/subject", data: data})
		requireCode(t, err, fault.InvalidRequest)
		require.NotContains(t, err.Error(), "\n", name)
	}
}

// Who is frozen stays so by whatever name the issuer goes, and is found by it.
func TestAnIssuersNameHidesNobody(t *testing.T) {
	m := withSubjects(t)
	before := m.on(alice, m.server.URL, "user-1")
	m.issuer("twin", m.server.URL)
	require.Equal(t, []string{before.grantID}, m.ofSubject("twin", "user-1"), "two names with one iss")
	m.must(m.delete("issuers/idp", nil))
	m.must(m.write("roles/r", map[string]any{"subject_issuers": "other,twin"}))
	after := m.on(bob, m.server.URL, "user-1")
	require.ElementsMatch(t, []string{before.grantID, after.grantID}, m.ofSubject("twin", "user-1"), "renamed")
	require.ElementsMatch(t, []string{before.grantID, after.grantID}, m.ofSubject(m.server.URL, "user-1"))
	require.Equal(t, []string{before.grantID}, m.ofSubject("idp", "user-1"), "deleted")

	m.must(m.delete("issuers/twin", nil))
	require.ElementsMatch(t, []string{before.grantID, after.grantID}, m.ofSubject(m.server.URL, "user-1"), "nobody of that iss is there")
	require.Equal(t, counts(2, 0, 0), counted(m.killOf(m.server.URL, "user-1", true)))
	m.requireLive(false, before, after)
	m.issuer("anew", m.server.URL)
	m.must(m.write("roles/r", map[string]any{"subject_issuers": "other,anew"}))
	_, err := m.tryOn(alice, m.server.URL, "user-1")
	requireCode(t, err, fault.AccessDenied, "frozen")
	require.Equal(t, false, m.killOf("anew", "user-1", false).Data["frozen"])
	m.on(alice, m.server.URL, "user-1")

	// The name is another's now: what it vouched for before dies by the name all the same.
	mine := m.on(alice, elsewhere, "user-1")
	m.issuer("other", "https://another.test")
	require.Equal(t, []string{mine.grantID}, m.ofSubject("other", "user-1"))
	require.Equal(t, []string{mine.grantID}, m.ofSubject(elsewhere, "user-1"))
}

// Frozen by a name whose iss nobody knew is thawed by what it is called later.
func TestAFreezeIsThawedByWhateverNameTheIssuerHas(t *testing.T) {
	m := withSubjects(t)
	l := m.on(alice, m.server.URL, "user-1")
	m.must(m.delete("issuers/idp", nil))
	require.Equal(t, counts(1, 0, 0), counted(m.killOf("idp", "user-1", true)))
	m.requireLive(false, l)
	m.issuer("idp", m.server.URL)
	_, err := m.tryOn(alice, m.server.URL, "user-1")
	requireCode(t, err, fault.AccessDenied, "frozen")
	require.Equal(t, true, m.killOf("idp", "user-1").Data["frozen"])
	require.Equal(t, false, m.killOf(m.server.URL, "user-1", false).Data["frozen"])
	m.on(alice, m.server.URL, "user-1")
}

func TestASubjectIsFrozenBeforeItHasAGrant(t *testing.T) {
	m := withSubjects(t)
	resp := m.killOf("idp", "user-1", true)
	require.Equal(t, true, resp.Data["unknown"])
	require.Equal(t, true, resp.Data["frozen"])
	_, err := m.tryOn(alice, m.server.URL, "user-1")
	requireCode(t, err, fault.AccessDenied, "the subject or actor is frozen")
	explained := m.must(m.write("roles/r/explain", map[string]any{"entity_id": alice, "subject_token": m.subjectToken("x", nil)})).Data
	require.Equal(t, false, explained["allowed"])
	require.Contains(t, strings.Join(explained["reasons"].([]string), " "), "the subject or actor is frozen")

	name := "subject/" + base64.RawURLEncoding.EncodeToString([]byte(m.server.URL+"\nuser-1"))
	require.Equal(t, []string{name}, m.keys("frozen", nil))
	listed := m.must(m.list("frozen", nil)).Data["key_info"].(map[string]any)[name].(map[string]any)
	require.Equal(t, m.server.URL, listed["issuer"])
	require.Equal(t, "user-1", listed["subject"])
	require.Contains(t, m.metrics(), `broker_frozen{kind="subject"} 1`)

	m.start() // it is durable
	_, err = m.tryOn(alice, m.server.URL, "user-1")
	requireCode(t, err, fault.AccessDenied, "frozen")
	m.on(alice, elsewhere, "user-1")
	require.Equal(t, false, m.killOf("idp", "user-1", false).Data["frozen"])
	m.on(alice, m.server.URL, "user-1")

	_, err = m.write("revoke/subject", map[string]any{"issuer": "odp", "subject": "user-1", "freeze": true})
	requireCode(t, err, fault.InvalidRequest, `there is no issuer "odp"`, "did you mean idp?", "nothing was frozen or killed")
	unknown := m.killOf("https://nobody.test", "user-1")
	require.Equal(t, true, unknown.Data["unknown"])
	require.Contains(t, strings.Join(unknown.Warnings, " "), "vault list broker/issuers")
	require.Empty(t, m.keys("frozen", nil))
}

func TestALeaseOfAFrozenSubjectIsNotRenewed(t *testing.T) {
	m := withSubjects(t)
	l := m.on(alice, m.server.URL, "user-1")
	require.NoError(t, m.b.freezer.Freeze(t.Context(), ending.Subject(m.server.URL, "user-1"), "test"))
	_, err := m.renew(l, time.Minute)
	requireCode(t, err, fault.AccessDenied, "frozen")
}

// subjectRack is a rack whose role r takes the subject tokens of the test's server.
func subjectRack(t *testing.T, r *rack, lever string, role map[string]any) *mount {
	t.Helper()
	m := newRack(t, r, lever, nil)
	m.issuer("idp", m.server.URL)
	fields := map[string]any{"subject_issuers": "idp"}
	maps.Copy(fields, role)
	m.must(m.write("roles/r", fields))
	return m
}

// Where a mint is on record before it, a kill of its subject finds it; elsewhere a freeze
// keeps it from being handed out, also one that is over already.
func TestAMintUnderWayForASubjectIsNotHandedOut(t *testing.T) {
	for name, c := range map[string]struct {
		rack   *rack
		during func(m *mount)
	}{
		"a kill of one on record":      {&rack{}, func(m *mount) { m.killOf("idp", "user-1") }},
		"a freeze":                     {&rack{nameless: true}, func(m *mount) { m.killOf(m.server.URL, "user-1", true) }},
		"a freeze that is over":        {&rack{nameless: true}, func(m *mount) { m.killOf("idp", "user-1", true); m.killOf("idp", "user-1", false) }},
		"a kill of whom nobody knows":  {&rack{nameless: true}, func(m *mount) { m.killOf("idp", "user-1") }},
		"its issuer is killed, frozen": {&rack{nameless: true}, func(m *mount) { m.must(m.write("revoke/issuer/idp", map[string]any{"freeze": true})) }},
	} {
		t.Run(name, func(t *testing.T) {
			m := subjectRack(t, c.rack, "", nil)
			c.rack.set(func(r *rack) { r.before = func() { r.before = nil; c.during(m) } })
			_, err := m.tryOn(alice, m.server.URL, "user-1")
			requireCode(t, err, fault.AccessDenied)
			require.Empty(t, c.rack.live())
			other := m.subjectToken(newID(t), map[string]any{"sub": "user-2"})
			if name != "its issuer is killed, frozen" {
				_, err = m.credsBy(call{op: logical.UpdateOperation, path: "creds/r", entity: alice, data: map[string]any{"subject_token": other}})
				require.NoError(t, err)
			}
			m.deadline()
			m.sweep()
			m.waitForKills()
		})
	}
}

func TestWhatDiesWithASubjectsGrantIsCounted(t *testing.T) {
	r := &rack{}
	m := subjectRack(t, r, "login", nil)
	m.on(alice, m.server.URL, "user-1")
	m.on(bob, m.server.URL, "user-1")
	m.on(bob, m.server.URL, "user-2")
	require.Equal(t, counts(2, 0, 1), counted(m.killOf("idp", "user-1")))
	require.Empty(t, r.live())
	require.Empty(t, m.allGrants())
	revokes, _ := r.called()
	require.Equal(t, 1, revokes)
}

func TestASubjectsSharedTokenDiesForAllLeases(t *testing.T) {
	m := withSubjects(t)
	m.must(m.write("roles/r", map[string]any{"sharing": "entity"}))
	tokens := map[string]string{}
	for _, sub := range []string{"user-1", "user-2"} {
		tokens[sub] = m.subjectToken(newID(t), map[string]any{"sub": sub})
	}
	share := func(sub string) (*lease, error) {
		return m.credsBy(call{op: logical.UpdateOperation, path: "creds/r", entity: alice, data: map[string]any{"subject_token": tokens[sub]}})
	}
	must := func(sub string) *lease {
		l, err := share(sub)
		require.NoError(t, err)
		return l
	}
	first, second, other := must("user-1"), must("user-1"), must("user-2")
	require.Equal(t, first.grantID, second.grantID)
	require.NotEqual(t, first.grantID, other.grantID)
	require.Equal(t, counts(1, 0, 0), counted(m.killOf("idp", "user-1")))
	m.requireLive(false, first, second)
	m.requireLive(true, other)
	require.NotEqual(t, first.grantID, must("user-1").grantID)
	require.Equal(t, other.grantID, must("user-2").grantID)

	// Nobody joins what is frozen.
	require.NoError(t, m.b.freezer.Freeze(t.Context(), ending.Subject(m.server.URL, "user-2"), "test"))
	_, err := share("user-2")
	requireCode(t, err, fault.AccessDenied, "frozen")
}

// A token that was handed on is its subject's too.
func TestAForwardedTokenOfASubjectIsKilled(t *testing.T) {
	m := exchanging(t, nil)
	m.must(m.write("roles/r", map[string]any{"mode": "forward", "audiences": "broker"}))
	token := m.subjectToken("one", map[string]any{"scope": "read", "client_id": parentClient})
	m.server.AddToken(authserver.Token{Value: token, Client: parentClient, Expires: m.clock.Now().Add(10 * time.Minute)})
	resp := m.must(m.do(call{op: logical.UpdateOperation, path: "creds/r", data: map[string]any{"subject_token": token}}))
	require.Equal(t, []string{resp.Data["grant_id"].(string)}, m.ofSubject("i", "user-1"))
	require.Equal(t, counts(1, 0, 0), counted(m.killOf("i", "user-1", true)))
	require.False(t, m.server.Active(token))
}

// The entity that acts is one of the broker's own issuer, of whom no name in issuers speaks.
func TestAnEntityActsAsOneOfTheBrokersOwnIssuer(t *testing.T) {
	m := exchanging(t, map[string]any{"actor": "entity"})
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	acts := func(entity string) (*lease, error) {
		child := "a-child-in-which-acts-" + entity
		if _, made := m.server.Lookup(child); !made {
			m.server.AddToken(authserver.Token{Value: child, Client: parentClient, Expires: m.clock.Now().Add(time.Minute)})
		}
		m.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusOK, "application/json",
			`{"access_token":"`+child+`","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`))
		return m.credsBy(call{op: logical.UpdateOperation, path: "creds/r", entity: entity, data: map[string]any{"subject_token": m.trustedToken(newID(t)), "scopes": "read"}})
	}
	l, err := acts(alice)
	require.NoError(t, err)
	other, err := acts(bob)
	require.NoError(t, err)
	require.Equal(t, []string{l.grantID}, m.ofSubject(ownURL, alice))
	require.Equal(t, counts(1, 0, 0), counted(m.killOf(ownURL, alice, true)))
	m.requireLive(false, l)
	m.requireLive(true, other)
	_, err = acts(alice)
	requireCode(t, err, fault.AccessDenied, "frozen")
	require.Empty(t, m.ofSubject("i", alice))
}

// yesterdays writes a grant as a build did that knew of no parties.
func (m *mount) yesterdays(of *lease, change func(*grant.Grant)) string {
	m.t.Helper()
	g, err := m.b.ledger.Get(m.t.Context(), of.grantID)
	require.NoError(m.t, err)
	require.NoError(m.t, m.b.ledger.Remove(m.t.Context(), g))
	g.ID, err = grant.NewID(g.Holder)
	require.NoError(m.t, err)
	g.ActorIss = ""
	change(g)
	require.NoError(m.t, m.b.ledger.Record(m.t.Context(), g))
	m.start()
	return g.ID
}

func TestGrantsOfBuildsBeforeAreFoundBySubject(t *testing.T) {
	m := withSubjects(t)
	l := m.on(alice, m.server.URL, "user-1")
	id := m.yesterdays(l, func(g *grant.Grant) {})
	require.Equal(t, []string{id}, m.ofSubject("idp", "user-1"))
	require.Equal(t, []string{id}, m.ofSubject(m.server.URL, "user-1"))

	// Of an actor the record had the issuer's name alone.
	id = m.yesterdays(&lease{grantID: id}, func(g *grant.Grant) { g.Actor, g.ActorIssuer = "agent", "other" })
	require.Equal(t, []string{id}, m.ofSubject("other", "agent"))
	require.Equal(t, []string{id}, m.ofSubject(elsewhere, "agent"))
	require.Empty(t, m.ofSubject("idp", "agent"))
	require.Equal(t, counts(1, 0, 0), counted(m.killOf(elsewhere, "agent")))
	m.requireLive(false, l)

	// And of an entity that acts, nothing.
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	id = m.yesterdays(m.on(alice, m.server.URL, "user-1"), func(g *grant.Grant) { g.Actor = alice })
	require.Equal(t, []string{id}, m.ofSubject(ownURL, alice))
	require.Equal(t, counts(1, 0, 0), counted(m.killOf(ownURL, alice)))
}

func TestAKillOfASubjectIsDurable(t *testing.T) {
	m := withSubjects(t)
	hers, his := m.on(alice, m.server.URL, "user-1"), m.on(bob, elsewhere, "user-1")
	m.start()
	release := m.haltSearch()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	resp, err := m.do(call{op: logical.UpdateOperation, path: "revoke/subject", ctx: ctx, data: map[string]any{"issuer": "idp", "subject": "user-1"}})
	require.NoError(t, err)
	require.Contains(t, strings.Join(resp.Warnings, " "), "still being read")
	m.must(m.delete("issuers/idp", nil)) // the order knows who is meant
	m.start()
	release()
	m.sweep()
	m.waitForKills()
	m.requireLive(false, hers)
	m.requireLive(true, his)
	require.Empty(t, m.allKeysBelow(ending.OrderPrefix))
}

// One record that cannot be read hides no other, and whose it is nobody calls unknown.
func TestARecordThatCannotBeReadHidesNoneOfTheSubjects(t *testing.T) {
	m := withSubjects(t)
	broken, whole := m.on(alice, m.server.URL, "user-1"), m.on(bob, m.server.URL, "user-1")
	var key string
	for _, k := range m.allKeysBelow(grant.StoragePrefix) {
		if strings.Contains(k, alice) {
			key = k
		}
	}
	m.pushOut()
	m.storage.on(func(op, at string) error {
		if op == "get" && strings.HasSuffix(at, key) {
			return errors.New("storage is down")
		}
		return nil
	})
	_, err := m.write("revoke/subject", map[string]any{"issuer": "idp", "subject": "user-1"})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.storage.on(nil)
	m.waitForKills()
	m.requireLive(false, whole)
	m.sweep()
	m.waitForKills()
	m.requireLive(false, broken)
}

// A grant that was issued before the clock went back is meant.
func TestAClockThatGoesBackSparesNoSubject(t *testing.T) {
	m := withSubjects(t)
	l := m.on(alice, m.server.URL, "user-1")
	m.clock.advance(-time.Minute)
	require.Equal(t, counts(1, 0, 0), counted(m.killOf("idp", "user-1")))
	m.requireLive(false, l)
}

func TestASubjectsGrantsAreListedInPages(t *testing.T) {
	m := withSubjects(t)
	want := []string{}
	for i := range 7 {
		want = append(want, m.on([]string{alice, bob, ""}[i%3], m.server.URL, "user-1").grantID)
	}
	slices.Sort(want)
	require.Equal(t, want, m.ofSubject("idp", "user-1"))
	for i := range want {
		require.Equal(t, want[i+1:], append([]string{}, m.ofSubject("idp", "user-1", want[i])...))
	}
	resp := m.must(m.do(call{op: logical.ReadOperation, path: "grants/subject", data: map[string]any{"issuer": "idp", "subject": "user-1", "limit": 3}}))
	require.Equal(t, want[:3], resp.Data["keys"])
	require.Contains(t, strings.Join(resp.Warnings, " "), "after="+want[2])
	none := m.must(m.do(call{op: logical.ReadOperation, path: "grants/subject", data: map[string]any{"issuer": "idp", "subject": "nobody"}}))
	require.Contains(t, strings.Join(none.Warnings, " "), "no grant of the subject")
	require.Contains(t, none.Data, "keys")
}

// What came of exchanging the broker's own child once more is on behalf of whom that was for,
// and in it acts who acted in that.
func TestAPersonIsFoundBehindTheBrokersOwnChild(t *testing.T) {
	m := newJWTMount(t, map[string]any{"revocation": "token"})
	m.trustOurselves()
	m.must(m.write("roles/x", map[string]any{"actor": "entity"}))
	first := m.signedTo(alice, "x", map[string]any{"subject_token": m.subjectToken("one", nil)})
	m.must(m.write("roles/x", map[string]any{"actor": "none"}))
	second := m.signedTo(bob, "x", map[string]any{"subject_token": first.token})
	other := m.signedTo(bob, "x", map[string]any{"subject_token": m.subjectToken("two", map[string]any{"sub": "user-2"})})
	both := []string{first.grantID, second.grantID}
	slices.Sort(both)
	require.Equal(t, both, m.ofSubject("idp", "user-1"))
	require.Equal(t, both, m.ofSubject(ownURL, alice))
	require.Equal(t, []string{second.grantID}, m.ofSubject(ownURL, "user-1"), "as the token that was exchanged calls it")
	require.Equal(t, counts(2, 0, 0), counted(m.killOf("idp", "user-1", true)))
	require.Equal(t, map[string]any{"active": false}, m.introspected(second.token))
	m.requireActive(other.token)
}

// Whom a frozen subject's child speaks for is frozen too, whatever issuer the child has.
func TestAFrozenPersonGetsNothingByTheBrokersOwnChild(t *testing.T) {
	m := newJWTMount(t, map[string]any{"revocation": "token"})
	m.trustOurselves()
	first := m.signedTo(alice, "x", map[string]any{"subject_token": m.subjectToken("one", nil)})
	require.NoError(t, m.b.freezer.Freeze(t.Context(), ending.Subject(m.server.URL, "user-1"), "test"))
	_, err := m.credsBy(call{path: "creds/x", entity: bob, data: map[string]any{"subject_token": first.token}})
	require.Error(t, err) // its grant is frozen, so it is inactive
}
