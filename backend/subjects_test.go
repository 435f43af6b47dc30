package backend

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
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
