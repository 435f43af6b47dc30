package backend

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// keyServer is a system with an API for keys of projects, which knows the broker by two
// headers.
type keyServer struct {
	*httptest.Server
	apiKey, appKey string

	mu     sync.Mutex
	keys   map[string]map[string]any // by id
	made   int
	answer func(key map[string]any) // changes what a mint answers
	hangUp bool                     // instead of the answer to a mint
	bearer func(token string) bool  // takes tokens, too; nil for none
}

func newKeyServer(t *testing.T) *keyServer {
	t.Helper()
	s := &keyServer{apiKey: "api-0123456789abcdef", appKey: "app-fedcba9876543210", keys: map[string]map[string]any{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := r.Header.Get("X-Api-Key") == s.apiKey && r.Header.Get("X-App-Key") == s.appKey
	if token, has := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !keys && (!has || s.bearer == nil || !s.bearer(token)) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	say := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	segments := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/me":
		say(200, map[string]any{"id": "broker"})
	case r.Method == http.MethodPost && len(segments) == 3:
		var key map[string]any
		_ = json.NewDecoder(r.Body).Decode(&key)
		s.made++
		key["id"], key["project"] = fmt.Sprint(s.made), segments[1]
		key["key"] = fmt.Sprintf("key-%d-0123456789abcdef", s.made)
		s.keys[key["id"].(string)] = key
		if s.hangUp {
			panic(http.ErrAbortHandler)
		}
		if s.answer != nil {
			changed := map[string]any{}
			for name, value := range key {
				changed[name] = value
			}
			s.answer(changed)
			key = changed
		}
		say(201, key)
	case r.Method == http.MethodGet && len(segments) == 3:
		var all []any
		for _, key := range s.keys {
			if key["project"] == segments[1] {
				all = append(all, map[string]any{"name": key["name"], "id": key["id"]})
			}
		}
		say(200, map[string]any{"keys": all})
	case r.Method == http.MethodDelete && len(segments) == 4:
		if s.keys[segments[3]] == nil || s.keys[segments[3]]["project"] != segments[1] {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		delete(s.keys, segments[3])
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
}

func (s *keyServer) alive() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

func (s *keyServer) with(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

const keyDefinition = `{"class": "token",
	"access": {"scopes": {"ask": true, "check": true, "required": true}, "resources": {"ask": true, "required": true, "pattern": "[a-z-]+"}},
	"parameters": {"note": {"about": "What to write beside the key.", "pattern": "[a-z ]+", "optional": true}},
	"parent": {"headers": {"X-Api-Key": "{{secrets.api}}", "X-App-Key": "{{secrets.app}}"}},
	"mint": [{"method": "POST", "path": "projects/{{resources | one}}/keys", "json": {"name": "{{name}}", "scopes": "{{scopes}}", "seconds": "{{ttl | seconds}}", "note": "{{parameters.note?}}"},
		"success": {"status": [201]}, "take": {"key": "/key", "id": "/id", "scopes": "/scopes"},
		"undo": {"method": "DELETE", "path": "projects/{{resources | one}}/keys/{{taken.id}}", "success": {"status": [204]}, "gone": {"status": [404]}},
		"find": {"method": "GET", "path": "projects/{{resources | one}}/keys", "items": "/keys", "where": [{"at": "/name", "is": "{{name}}"}], "take": {"id": "/id"}}}],
	"child": {"secrets": {"key_secret": "{{taken.key}}"}, "shown": {"key_id": "{{taken.id}}"}, "expires": "asked", "granted": {"scopes": {"from": "scopes", "as": "list"}}},
	"check": {"method": "GET", "path": "me"}}`

// withKeys writes http/p, of a system of its own.
func (m *mount) withKeys(t *testing.T) *keyServer {
	t.Helper()
	s := newKeyServer(t)
	m.extra = append(m.extra, "key_secret", "key_id")
	m.hide(s.apiKey)
	m.hide(s.appKey)
	m.must(m.write("providers/http/p", m.keyFields(s)))
	return s
}

func (m *mount) keyFields(s *keyServer) map[string]any {
	return map[string]any{"base_url": s.URL, "definition": keyDefinition, "secrets": map[string]any{"api": s.apiKey, "app": s.appKey}}
}

func keyRole() map[string]any {
	return map[string]any{"provider": "http/p", "scopes": "read,write", "resources": "team-*", "parameters": map[string]any{"note": "for tests"}, "ttl": "10m", "max_ttl": "1h"}
}

func askKeys() map[string]any { return map[string]any{"resources": "team-a", "scopes": "read"} }

func TestADefinitionFromItsConfigurationToItsEnd(t *testing.T) {
	m := newEmptyMount(t, setup{})
	s := m.withKeys(t)
	m.must(m.write("roles/r", keyRole()))
	l := m.mustSession(call{data: askKeys()})
	require.Equal(t, "key-1-0123456789abcdef", l.data["key_secret"])
	require.Equal(t, "1", l.data["key_id"])
	require.Equal(t, "for tests", s.keys["1"]["note"])
	require.Equal(t, "token", l.data["revocation"])
	require.Equal(t, []string{"scope:read", "resource:team-a"}, l.data["granted"])
	require.Equal(t, []string{"resources"}, l.data["unverified"])
	require.Equal(t, m.clock.Now().Add(10*time.Minute).UTC().Format(time.RFC3339), l.data["expires_at"])
	require.NoError(t, m.revoke(l))
	require.Zero(t, s.alive())

	read := m.must(m.read("providers/http/p")).Data
	require.NotContains(t, read, "secrets")
	require.Len(t, read["secrets_sha256"], 64)
	require.Contains(t, read["definition"], "mint")
}

// Whoever changes what is done with the secrets, or where, must know them.
func TestADefinitionIsChangedByWhoKnowsTheSecrets(t *testing.T) {
	m := newEmptyMount(t, setup{})
	s := m.withKeys(t)
	another := strings.Replace(keyDefinition, `"path": "me"`, `"path": "projects/x/keys"`, 1)
	for name, data := range map[string]map[string]any{
		"the definition": {"definition": another},
		"base_url":       {"base_url": s.URL + "/elsewhere"},
		"a preset":       {"definition": "", "preset": "gitea"},
	} {
		_, err := m.write("providers/http/p", data)
		requireCode(t, err, fault.InvalidRequest)
		require.NotContains(t, err.Error(), "temporarily", name)
	}
	_, err := m.write("providers/http/p", map[string]any{"definition": another})
	requireCode(t, err, fault.InvalidRequest, "write secrets again with it")
	m.must(m.write("providers/http/p", map[string]any{"definition": another, "secrets": map[string]any{"api": s.apiKey, "app": s.appKey}}))
	// The same meaning is the same definition.
	m.must(m.write("providers/http/p", map[string]any{"definition": strings.ReplaceAll(another, ": ", ":  ")}))
}

// A part of the parent is found in a child, whichever part and however it is written.
func TestAChildWithAPartOfTheParentIsRefused(t *testing.T) {
	m := newEmptyMount(t, setup{})
	s := m.withKeys(t)
	m.must(m.write("roles/r", keyRole()))
	for name, change := range map[string]func(map[string]any){
		"itself":    func(key map[string]any) { key["key"] = s.appKey },
		"inside":    func(key map[string]any) { key["key"] = "x" + s.apiKey + "y" },
		"in Base64": func(key map[string]any) { key["key"] = "YXBwLWZlZGNiYTk4NzY1NDMyMTA" },
	} {
		s.with(func() { s.answer = change })
		_, err := m.session(call{data: askKeys()})
		requireCode(t, err, fault.ProviderViolation)
		require.NotContains(t, err.Error(), s.appKey, name)
	}
	m.clock.advance(intentLife + time.Minute) // what could not be used is found by its name
	m.must(m.write("sweep", nil))
	require.Empty(t, m.allGrants())
	require.Zero(t, s.alive())
}

// What a lost answer has left is found by its name where it was made, and dies.
func TestTheOrphanOfADefinitionIsFound(t *testing.T) {
	m := newEmptyMount(t, setup{})
	s := m.withKeys(t)
	m.must(m.write("roles/r", keyRole()))
	s.with(func() { s.hangUp = true })
	_, err := m.session(call{data: askKeys()})
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.Equal(t, 1, s.alive())
	s.with(func() { s.hangUp = false })
	m.clock.advance(intentLife + time.Minute)
	m.must(m.write("sweep", nil))
	require.Zero(t, s.alive())
}

// A system that calls a child by the parent's credential hides it from no kill.
func TestAChildThatIsCalledAsTheParentIsFound(t *testing.T) {
	m := newEmptyMount(t, setup{})
	s := m.withKeys(t)
	m.must(m.write("roles/r", keyRole()))
	s.with(func() { s.answer = func(key map[string]any) { key["id"] = s.apiKey } })
	_, err := m.session(call{data: askKeys()})
	requireCode(t, err, fault.ProviderViolation, "where the definition looks for a name")
	m.clock.advance(intentLife + time.Minute)
	m.must(m.write("sweep", nil))
	require.Zero(t, s.alive())
	require.Empty(t, m.allGrants())
}

// A definition that tells less than the one before leaves nothing alive: what has a handle
// dies by that, and while something may have to be found there is a find.
func TestADefinitionThatTellsLessLeavesNothingAlive(t *testing.T) {
	m := newEmptyMount(t, setup{})
	s := m.withKeys(t)
	m.must(m.write("roles/r", keyRole()))
	fields := m.keyFields(s)
	findless := keyDefinition[:strings.Index(keyDefinition, `,
		"find"`)] + keyDefinition[strings.Index(keyDefinition, `}],
	"child"`):]
	endless := strings.NewReplacer(`"class": "token"`, `"class": "expiry"`).Replace(findless[:strings.Index(findless, `,
		"undo"`)] + findless[strings.Index(findless, `}],
	"child"`):])

	s.with(func() { s.hangUp = true })
	_, err := m.session(call{data: askKeys()})
	requireCode(t, err, fault.TemporarilyUnavailable)
	s.with(func() { s.hangUp = false })
	for _, less := range []string{findless, endless} {
		fields["definition"] = less
		_, err = m.write("providers/http/p", fields)
		requireCode(t, err, fault.InvalidRequest, "could not all be killed, or found again")
	}
	m.clock.advance(intentLife + time.Minute)
	m.must(m.write("sweep", nil))
	require.Zero(t, s.alive())

	fields["definition"] = findless
	m.must(m.write("providers/http/p", fields))
	l := m.mustSession(call{data: askKeys()})
	fields["definition"] = endless
	m.must(m.write("providers/http/p", fields))
	require.Equal(t, "expiry", m.must(m.read("providers/http/p")).Data["revocation_class"])
	require.NoError(t, m.revoke(l))
	require.Zero(t, s.alive(), "it was minted to be killed")
}

// The definition says which parameters a role may have, and what they are like.
func TestTheParametersOfADefinition(t *testing.T) {
	m := newEmptyMount(t, setup{})
	m.withKeys(t)
	for name, c := range map[string]struct {
		parameters map[string]any
		says       string
	}{
		"unknown":    {map[string]any{"nota": "x"}, "they know note"},
		"of another": {map[string]any{"note": "../x"}, "must be as"},
	} {
		role := keyRole()
		role["parameters"] = c.parameters
		_, err := m.write("roles/r", role)
		requireCode(t, err, fault.InvalidRequest, c.says)
		_ = name
	}
	role := keyRole()
	delete(role, "resources")
	_, err := m.write("roles/r", role)
	requireCode(t, err, fault.InvalidRequest, "resources")
}

// A field is in the audit log in clear by its name: no secret has such a name.
func TestNoSecretIsCalledAsWhatIsShown(t *testing.T) {
	m := newEmptyMount(t, setup{})
	s := newKeyServer(t)
	for _, name := range []string{"username", "detail", "revoked"} {
		fields := m.keyFields(s)
		fields["definition"] = strings.Replace(keyDefinition, `"key_secret"`, `"`+name+`"`, 1)
		_, err := m.write("providers/http/p", fields)
		requireCode(t, err, fault.InvalidRequest, "cannot be called "+name)
	}
	fields := m.keyFields(s)
	fields["definition"] = strings.Replace(keyDefinition, `"key_id"`, `"access_token"`, 1)
	_, err := m.write("providers/http/p", fields)
	requireCode(t, err, fault.InvalidRequest, "cannot be called access_token")
	_, err = m.do(call{op: logical.ReadOperation, path: "providers/http/p"})
	require.NoError(t, err)
}

// Every preset says what it needs, and can be written with that.
func TestAPresetSaysWhatItNeeds(t *testing.T) {
	m := newEmptyMount(t, setup{})
	resp := m.must(m.list("presets", nil))
	names := resp.Data["keys"].([]string)
	require.Contains(t, names, "http/gitea")
	info := resp.Data["key_info"].(map[string]any)
	m.must(m.write("config", map[string]any{"issuer": "https://vault.test/v1/broker"}))
	for _, name := range names {
		about := info[name].(map[string]any)
		require.NotEmpty(t, about["about"], name)
		fields := map[string]any{"preset": strings.TrimPrefix(name, "http/"), "base_url": "https://system.test/api", "verify_connection": false}
		secrets := map[string]any{}
		for _, need := range about["needs"].([]string) {
			if key, ok := strings.CutPrefix(need, "secrets."); ok {
				secrets[key] = m.hide("secret-" + key + "-0123456789abcdef")
				fields["secrets"] = secrets
				continue
			}
			if _, given := fields[need]; !given && need != "settings" {
				fields[need] = m.hide("the-" + need + "-0123456789abcdef")
			}
		}
		if fields["username"] != nil {
			fields["username"] = "broker"
		}
		settings, _ := about["settings"].(map[string]string)
		var err error
		for _, value := range []string{"one", strings.Repeat("0a", 16), "0a1b2c3d-0123-4567-89ab-0123456789ab"} {
			given := map[string]any{}
			for setting, what := range settings {
				if !strings.HasSuffix(what, ")") { // neither optional nor of a default
					given[setting] = value
				}
			}
			fields["settings"] = given
			if _, err = m.write("providers/http/"+strings.TrimPrefix(name, "http/"), fields); err == nil {
				break
			}
		}
		require.NoError(t, err, name)
		read := m.must(m.read("providers/http/" + strings.TrimPrefix(name, "http/")))
		require.Equal(t, about["revocation_class"], read.Data["revocation_class"])
		require.NotEmpty(t, read.Data["definition"], "%s: what it does can be read", name)
	}
}
