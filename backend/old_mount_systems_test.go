package backend

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	githubfake "github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	gitlabfake "github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

// The people of a mount from before beside alice and bob.
const (
	namespaced = "33333333-cccc-4ccc-8ccc-333333333333.Nsp1x" // as OpenBao names it
	frozenUser = "44444444-dddd-4ddd-8ddd-444444444444"
	dave       = "55555555-eeee-4eee-8eee-555555555555" // frozen as a person
	erin       = "66666666-ffff-4fff-8fff-666666666666" // whose kill is under way
	frank      = "77777777-0000-4000-8000-777777777777" // an entity and a subject
)

// peopleOfBefore are whom Vault knows.
func (m *mount) peopleOfBefore() {
	carol := entityWith(namespaced, nil)
	carol.Name = "carol"
	m.setEntity(carol)
	m.setEntity(entityWith(dave, nil, loginMount, "dave"))
	m.setEntity(entityWith(erin, nil, loginMount, "erin"))
	m.setEntity(entityWith(frank, map[string]string{"number": "7"}, loginMount, "frank"))
}

func franks() map[string]any { return map[string]any{"alias_name": "frank", "alias_mount": loginMount} }

// oldSystems are the systems of a mount from before, beside its authorization server. The
// first builds had none.
type oldSystems struct {
	GitHub      githubfake.Snapshot       `json:"github"`
	GitLab      gitlabfake.Snapshot       `json:"gitlab"`
	Keys        map[string]map[string]any `json:"keys"`
	KeysMade    int                       `json:"keys_made"`
	KeysURL     string                    `json:"keys_url"`
	Transmitter string                    `json:"transmitter"`
	// Person is who was found under frank's alias, Events are those that were heeded.
	Person []string `json:"person"`
	Events []string `json:"events"`
	Kills  []string `json:"kills"`
	Frozen []string `json:"frozen"`
}

// systems are these as they run.
type counterparts struct {
	github *githubfake.GitHub
	gitlab *gitlabfake.Server
	keys   *keyServer
	events *transmitter.Server
}

// startSystems starts them for the mount, as they were if some were before. They are to be
// there when the mount ends, and so come first.
func startSystems(t *testing.T, m func() *mount, old *oldSystems) *counterparts {
	t.Helper()
	now := func() time.Time { return m().clock.Now() }
	s := &counterparts{keys: newKeyServer(t), events: transmitter.New(t, transmitter.Options{Now: now, Tokens: []string{streamToken}, Exists: old != nil})}
	s.keys.bearer = func(token string) bool { return m().server.Active(token) }
	if old == nil {
		s.github, s.gitlab = githubfake.New(t, githubfake.Options{Now: now}), gitlabfake.New(t, now)
		return s
	}
	s.github, s.gitlab = githubfake.Resume(t, old.GitHub, githubfake.Options{Now: now}), gitlabfake.Resume(t, old.GitLab, now)
	s.keys.keys, s.keys.made = maps.Clone(old.Keys), old.KeysMade
	return s
}

// moved are the addresses of then and of now.
func (s *counterparts) moved(old *oldSystems) []string {
	return []string{old.GitHub.URL, s.github.URL, old.GitLab.URL, s.gitlab.URL, old.KeysURL, s.keys.URL, old.Transmitter, s.events.URL}
}

// lives reports whether one of them takes the token; known is false if none has made it.
func (s *counterparts) lives(token string) (lives, known bool) {
	switch {
	case strings.HasPrefix(token, "ghs_"):
		return s.github.Alive(token), true
	case strings.HasPrefix(token, "glpat-"):
		return s.gitlab.Alive(token), true
	case strings.HasPrefix(token, "key-"):
		s.keys.with(func() {
			for _, key := range s.keys.keys {
				lives = lives || key["key"] == token
			}
		})
		return lives, true
	}
	return false, false
}

// living is how many tokens of the broker's live there.
func (s *counterparts) living() int { return s.github.Living() + s.gitlab.Active() + s.keys.alive() }

// makeSystems configures what the systems are for.
func (m *mountMaker) makeSystems() {
	s := m.systems
	app := s.github.NewApp("the-broker")
	s.github.Install(app, "organization", "acme", githubPermissions, "api", "web")
	m.hide(app.PrivateKey)
	m.hide(streamToken)
	m.must(m.write("providers/github/p", map[string]any{"base_url": s.github.URL, "client_id": app.ClientID, "private_key": app.PrivateKey, "organization": "acme"}))
	parent := m.hide(s.gitlab.Personal(gitlabfake.Maintainer, 90, "api"))
	spare := m.hide(s.gitlab.Personal(gitlabfake.Maintainer, 60, "api"))
	m.must(m.write("providers/gitlab/p", map[string]any{"base_url": s.gitlab.URL, "token": parent, "token_next": spare}))
	definition := strings.Replace(keyDefinition, "key_secret", "access_token", 1)
	definition = strings.Replace(definition, `"shown": {"key_id": "{{taken.id}}"}, `, "", 1)
	m.must(m.write("providers/http/p", map[string]any{
		"base_url": s.keys.URL, "definition": definition, "secrets": map[string]any{"api": m.hide(s.keys.apiKey), "app": m.hide(s.keys.appKey)},
	}))
	m.must(m.write("providers/http/borrower", map[string]any{
		"base_url": s.keys.URL, "token_provider": "oauth2/p", "token_request": map[string]any{"scopes": []string{"read"}},
		"definition": strings.Replace(definition, `"headers": {"X-Api-Key": "{{secrets.api}}", "X-App-Key": "{{secrets.app}}"}`, `"headers": {"Authorization": "Bearer {{borrowed}}"}`, 1),
	}))
	m.must(m.write("issuers/idp", map[string]any{"entity_alias_mount": loginMount, "entity_metadata": map[string]any{"number": "employee"}}))
	m.must(m.write("signals/s", map[string]any{"issuer": s.events.URL, "token": streamToken, "events": map[string]any{"session-revoked": "kill", "account-disabled": "freeze"}}))
	for name, fields := range map[string]map[string]any{
		"repository": {"provider": "github/p", "resources": "acme/api", "permissions": map[string]any{"contents": "write"}},
		"project":    projectRole(),
		"key":        keyRole(),
		"borrowed":   keyRole(),
		"delegated":  {"provider": "oauth2/p", "mode": "exchange", "scopes": "read,write", "subject_issuers": "idp"},
	} {
		if name == "borrowed" {
			fields["provider"] = "http/borrower"
		}
		fields["ttl"], fields["max_ttl"] = "1h", "4h"
		m.must(m.write("roles/"+name, fields))
	}
}

func (m *mountMaker) behalfOf(user, jti string) map[string]any {
	return map[string]any{"subject_token": m.signed(jti, map[string]any{"sub": user})}
}

// makeSystemGrants makes one grant of each.
func (m *mountMaker) makeSystemGrants() {
	for _, one := range []oldAsk{
		{Name: "of a repository", Role: "repository", Entity: alice, Data: map[string]any{"permissions": map[string]any{"contents": "read"}}},
		{Name: "of a project", Role: "project", Entity: alice, Data: map[string]any{"resources": gitlabfake.Project, "scopes": "read_api"}},
		{Name: "of a definition", Role: "key", Entity: alice, Data: askKeys()},
		{Name: "by a borrowed token", Role: "borrowed", Entity: alice, Data: askKeys()},
		{Name: "delegated", Role: "delegated", Entity: bob, Data: m.behalfOf("user-2", "delegated")},
		{Name: "frank's own", Role: "plain", Entity: frank},
		{Name: "on frank's behalf", Role: "delegated", Entity: bob, Data: m.behalfOf("frank", "frank")},
	} {
		m.lease(one.Name, one.Role, one.Entity, one.Data)
		m.made.Asks = append(m.made.Asks, one)
	}
	m.sweep() // what ties people is written
	require.Equal(m.t, []string{personPrefix + frank}, m.allKeysBelow(personPrefix))
}

// makeIntents leaves two mints of which no answer has come.
func (m *mountMaker) makeIntents() {
	m.systems.gitlab.After("POST", "access_tokens", gitlabfake.HangUp)
	m.systems.keys.with(func() { m.systems.keys.hangUp = true })
	for _, role := range []string{"project", "key"} {
		data := map[string]any{"resources": gitlabfake.Project}
		if role == "key" {
			data = askKeys()
		}
		_, err := m.credsBy(call{path: "creds/" + role, entity: alice, data: data})
		require.Error(m.t, err)
	}
	m.systems.gitlab.After("POST", "access_tokens", nil)
	m.systems.keys.with(func() { m.systems.keys.hangUp = false })
}

// makeSystemEnds freezes a subject and a person, and heeds events.
func (m *mountMaker) makeSystemEnds() (refused []oldAsk) {
	for _, one := range []struct {
		name, user, entity, code string
	}{
		{"a frozen subject", "user-frozen", bob, "access_denied"},
		{"on a frozen person's behalf", "dave", bob, "access_denied"},
		{"a session that has ended", "user-gone", bob, "invalid_grant"},
		{"a disabled account", "user-disabled", bob, "access_denied"},
	} {
		ask := oldAsk{Name: one.name, Role: "delegated", Entity: one.entity, Data: m.behalfOf(one.user, one.name), Code: one.code}
		_, err := m.credsBy(call{path: "creds/delegated", entity: one.entity, data: ask.Data})
		require.NoError(m.t, err)
		refused = append(refused, ask)
	}
	_, err := m.credsBy(call{path: "creds/plain", entity: dave})
	require.NoError(m.t, err)
	refused = append(refused, oldAsk{Name: "a frozen person", Role: "plain", Entity: dave, Code: "access_denied"})

	m.must(m.write("revoke/subject", map[string]any{"issuer": "idp", "subject": "user-frozen", "freeze": true}))
	m.person(map[string]any{"entity_id": dave, "freeze": true})
	for _, e := range []transmitter.Event{
		transmitter.SessionRevoked(transmitter.IssSub("https://idp.test", "user-gone")),
		transmitter.AccountDisabled(transmitter.IssSub("https://idp.test", "user-disabled")),
	} {
		m.old.Events = append(m.old.Events, m.systems.events.Send(e))
	}
	m.poll()
	m.waitForKills()
	require.Subset(m.t, m.systems.events.Acknowledged(), m.old.Events)
	require.NotEmpty(m.t, m.allKeysBelow(logoffPrefix))
	require.NotEmpty(m.t, m.allKeysBelow(seenPrefix))
	return refused
}

// takeSystems keeps what they and the mount say of it.
func (m *mountMaker) takeSystems() {
	dry := franks()
	dry["dry_run"] = true
	m.old.Person = identified(m.person(dry))
	require.Equal(m.t, []string{frank, "frank"}, m.old.Person)
	m.old.Frozen, m.old.Kills = m.keys("frozen", nil), m.keys("kills", nil)
	require.GreaterOrEqual(m.t, len(m.old.Kills), 4)
	s := m.systems
	m.old.GitHub, m.old.GitLab, m.old.Transmitter = s.github.Snapshot(), s.gitlab.Snapshot(), s.events.URL
	s.keys.with(func() { m.old.Keys, m.old.KeysMade, m.old.KeysURL = maps.Clone(s.keys.keys), s.keys.made, s.keys.URL })
	require.Equal(m.t, 6, s.living(), "two of which nobody has seen the answer")
	m.made.Systems = &m.old
}

// isOfPersons: who is one person is known as before, and dies as one.
func (s *oldScene) isOfPersons() {
	if s.systems == nil {
		return
	}
	dry := franks()
	dry["dry_run"] = true
	require.Equal(s.t, s.old.Systems.Person, identified(s.person(dry)))
	require.NotEmpty(s.t, s.must(s.do(call{op: "read", path: "grants/subject", data: map[string]any{"issuer": "idp", "subject": "frank"}})).Data["keys"])
	// Once Vault knows him no more, what was stored of him alone ties the two.
	s.vault.change(func(v *vaultView) { delete(v.entities, frank) })
	s.start()
	s.person(franks())
	s.waitForKills()
	for _, l := range s.old.Leases {
		if !s.stopped(l) && l.Name != "an entity's" {
			require.Equal(s.t, !strings.Contains(l.Name, "frank"), s.lives(l.Token), l.Name)
		}
	}
}

// isToldOfEvents: one that was heeded before is not heeded again, and the stream goes on.
func (s *oldScene) isToldOfEvents() {
	if s.systems == nil {
		return
	}
	about := transmitter.IssSub("https://idp.test", "user-2")
	send := func(id string) {
		_, claims := s.systems.events.Claims(transmitter.SessionRevoked(about))
		claims["jti"] = id // a new server would begin with the same ones again
		s.systems.events.Deliver(id, s.systems.events.Sign("secevent+jwt", claims))
	}
	send(s.old.Systems.Events[0])
	require.Equal(s.t, "ok", s.poll()["health"])
	s.waitForKills()
	delegated := s.old.Leases[slices.IndexFunc(s.old.Leases, func(l oldLease) bool { return l.Name == "delegated" })]
	require.True(s.t, s.lives(delegated.Token), "it was heeded already")
	require.True(s.t, strings.Contains(s.metrics(), `event="other",outcome="duplicate",signal="s"}`))
	send("an event of today")
	s.poll()
	s.waitForKills()
	require.False(s.t, s.lives(delegated.Token))
	_, err := s.ask(oldAsk{Role: "delegated", Entity: bob, Data: map[string]any{"subject_token": s.dataOf("delegated")["subject_token"]}})
	requireCode(s.t, err, "invalid_grant", "session")
}

func (s *oldScene) dataOf(name string) map[string]any {
	return s.old.Asks[slices.IndexFunc(s.old.Asks, func(a oldAsk) bool { return a.Name == name })].Data
}

// keepsRecords: what was killed before is told as before, and what was under way is told of.
func (s *oldScene) keepsRecords() {
	if s.systems == nil {
		return
	}
	require.Subset(s.t, s.keys("kills", nil), s.old.Systems.Kills)
	s.sweep()
	s.waitForKills()
	ordered := map[string]bool{}
	for _, id := range s.keys("kills", nil) {
		record := s.killNamed(id)
		require.Equal(s.t, "complete", record["state"], "%s: %v", id, record["report"])
		for _, what := range record["what"].([]string) {
			ordered[what] = true
		}
	}
	for _, what := range []string{"role/ordered", "entity/" + erin, "subject user-ordered of https://idp.test"} {
		require.Contains(s.t, ordered, what)
	}
}

// endsOfBefore: what is kept of ends and of people does not stay for ever.
func (s *oldScene) endsOfBefore() {
	for range 4 {
		s.clock.advance(35 * 24 * time.Hour)
		require.NoError(s.t, s.periodic())
		s.waitForKills()
		s.sweep()
	}
	for _, prefix := range []string{logoffPrefix, personPrefix, "killed/", "killed-page/"} {
		require.Empty(s.t, s.allKeysBelow(prefix), prefix)
	}
}

// thaws ends the freezes of a subject and of a person.
func (s *oldScene) thaws() {
	if s.systems == nil {
		return
	}
	s.must(s.write("revoke/subject", map[string]any{"issuer": "idp", "subject": "user-frozen", "freeze": false}))
	s.person(map[string]any{"entity_id": dave, "freeze": false})
}

// breakRevocation has the authorization server end nothing.
func (m *mount) breakRevocation() {
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(http.StatusServiceUnavailable, "text/plain", "later"))
}
