package backend

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// A mount from before is what a build had in storage, with the server at which its
// tokens live and the leases that Vault held. The files are made once, by the build
// that they are named after, and never changed: every later build must read them.
// When a stored form has changed, the new build adds a file of its own:
//
//	go test ./backend -run TestMakeAnOldMount -make-mount=v0.2.0-1a2b3c4
var makeMount = flag.String("make-mount", "", "write what this build stores to testdata/mounts/<name>.json")

const mountsDir = "../testdata/mounts"

// oldMount is one such file.
type oldMount struct {
	Build   string              `json:"build"`
	At      time.Time           `json:"at"`
	Server  authserver.Snapshot `json:"server"`
	Storage map[string]string   `json:"storage"`
	Leases  []oldLease          `json:"leases"`
	// Asks are creds requests that were served, Refused those that must not be, and
	// Reads what the paths that show something showed.
	Asks    []oldAsk                  `json:"asks"`
	Refused []oldAsk                  `json:"refused"`
	Reads   map[string]map[string]any `json:"reads"`
	// Ordered are the tokens of the kill that was under way, Doomed those in the outbox.
	Ordered []string `json:"ordered"`
	Doomed  []string `json:"doomed"`
	// Systems are the others.
	Systems *oldSystems `json:"systems,omitempty"`
}

// oldLease is what Vault kept of a creds response.
type oldLease struct {
	Name     string         `json:"name"`
	Token    string         `json:"token"`
	Internal map[string]any `json:"internal_data"`
	TTL      time.Duration  `json:"ttl"`
	IssuedAt time.Time      `json:"issued_at"`
}

// oldAsk is a creds request.
type oldAsk struct {
	Name   string         `json:"name"`
	Role   string         `json:"role"`
	Entity string         `json:"entity,omitempty"`
	Data   map[string]any `json:"data,omitempty"`
	// Code is the refusal.
	Code string `json:"code,omitempty"`
}

type mountMaker struct {
	*mount
	made    oldMount
	systems *counterparts
	old     oldSystems
}

func TestMakeAnOldMount(t *testing.T) {
	if *makeMount == "" {
		t.Skip("only with -make-mount=<name>")
	}
	m := &mountMaker{}
	m.systems = startSystems(t, func() *mount { return m.mount }, nil)
	m.mount = newEmptyMount(t, setup{server: authserver.Options{TLS: true, MutualTLS: true, RotateRefresh: true}})
	m.clock.mu.Lock()
	m.clock.at = time.Date(2026, 11, 28, 4, 0, 0, 0, time.UTC)
	m.clock.mu.Unlock()
	m.peopleOfBefore()
	m.start()
	m.makeConfiguration()
	m.makeSystems()
	m.makeGrants()
	m.makeEnds()
	m.makeIntents()
	m.takeReads()
	m.makeOutbox()
	m.makeOrder()
	m.takeSystems()
	m.made.Build, m.made.At, m.made.Server = *makeMount, m.clock.Now(), m.server.Snapshot(t)
	m.made.Storage = map[string]string{}
	for _, key := range m.allKeysBelow("") {
		entry, err := m.storage.Get(t.Context(), key)
		require.NoError(t, err)
		m.made.Storage[key] = string(entry.Value)
	}
	raw, err := json.MarshalIndent(m.made, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(mountsDir, 0o755))
	file := filepath.Join(mountsDir, *makeMount+".json")
	_, err = os.Stat(file)
	require.ErrorIs(t, err, os.ErrNotExist, "what a build has stored is never made again")
	require.NoError(t, os.WriteFile(file, append(raw, '\n'), 0o600))
	m.server.Break(authserver.EndpointRevoke, nil)
	m.deadline() // so that the mount can end
}

// client registers a client with the server, as a peer of the first one.
func (m *mountMaker) client(c authserver.Client) {
	c.Scopes, c.Audiences = []string{"read", "write", "admin"}, []string{jwtAPI}
	m.server.SetClient(c)
}

// signed is a subject token that lives all day, and that the server takes as well. Its
// issuer has a name that no test's server has.
func (m *mountMaker) signed(jti string, more map[string]any) string {
	claims := map[string]any{
		"iss": "https://idp.test", "sub": "user-1", "aud": "broker", "jti": jti, "team": "payments",
		"iat": m.clock.Now().Unix(), "exp": m.clock.Now().Add(12 * time.Hour).Unix(),
	}
	maps.Copy(claims, more)
	token := m.hide(m.server.SignClaims("JWT", claims))
	m.server.Trust(token, authserver.Bearer{Subject: claims["sub"].(string)})
	return token
}

func (m *mountMaker) makeConfiguration() {
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	m.must(m.write("issuers/idp", map[string]any{"jwks_pem": m.server.KeyPEM(m.t), "bound_issuer": "https://idp.test", "bound_audiences": "broker", "max_subject_lifetime": "24h"}))
	m.must(m.write("issuers/server", map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "ca_pem": m.server.CAPEM, "bound_issuer": m.server.URL, "bound_audiences": "broker",
	}))
	m.makeProviders()
	for name, fields := range map[string]map[string]any{
		"plain":     {"provider": "oauth2/p", "default_scopes": "read", "condition": "request.ttl <= duration('2h')"},
		"bound":     {"provider": "oauth2/p", "bound_entity_ids": alice, "bound_group_names": "ops", "bound_entity_metadata": map[string]any{"team": "payments"}, "bound_cidrs": "10.0.0.0/8,127.0.0.0/8", "on_excess": "refuse"},
		"details":   {"provider": "oauth2/p", "authorization_details": []any{map[string]any{"type": "pay", "actions": []any{"look"}}}},
		"shared":    {"provider": "oauth2/p", "sharing": "entity"},
		"limited":   {"provider": "oauth2/p", "max_grants_per_entity": 2},
		"rated":     {"provider": "oauth2/p", "max_issue_rate": 2},
		"once":      {"provider": "oauth2/p", "subject_issuers": "idp", "subject_single_use": true, "bound_subject_claims": map[string]any{"team": "pay*"}},
		"exchange":  {"provider": "oauth2/p", "mode": "exchange", "subject_issuers": "idp", "actor": "token", "actor_issuers": "idp"},
		"forward":   {"provider": "oauth2/p", "mode": "forward", "subject_issuers": "server", "audiences": "broker"},
		"keyed":     {"provider": "oauth2/keyed", "require_revocable": true},
		"certified": {"provider": "oauth2/certified"},
		"refresh":   {"provider": "oauth2/refresh"},
		"confirmed": {"provider": "oauth2/confirmed"},
		"expiring":  {"provider": "oauth2/expiring"},
		"leaving":   {"provider": "oauth2/leaving"},
		"stopped":   {"provider": "oauth2/stopped"},
		"frozen":    {"provider": "oauth2/p"},
		"ordered":   {"provider": "oauth2/p"},
		"signed":    {"provider": "jwt/p", "audiences": jwtAPI},
		"live":      {"provider": "jwt/live", "audiences": jwtAPI},
		"behalf":    {"provider": "jwt/live", "mode": "exchange", "audiences": jwtAPI, "subject_issuers": "idp", "actor": "entity"},
	} {
		role := map[string]any{"scopes": "read,write", "ttl": "1h", "max_ttl": "4h"}
		maps.Copy(role, fields)
		m.must(m.write("roles/"+name, role))
	}
}

func (m *mountMaker) makeProviders() {
	for _, name := range []string{"confirmed", "expiring", "leaving", "stopped"} {
		m.client(authserver.Client{ID: name, Secrets: []string{parentSecret}})
	}
	m.client(authserver.Client{ID: parentClient, Secrets: []string{parentSecret}})
	m.client(authserver.Client{ID: "refresh", Secrets: []string{parentSecret}})
	for name, fields := range map[string]map[string]any{
		"p":         {"client_id": parentClient, "rate_limit": 10000, "allowed_roles": "*"},
		"confirmed": {"verify": "introspect", "confirm_revocation": true, "max_ttl": "2h"},
		"expiring":  {"revocation": "expiry"},
		"leaving":   nil,
		"stopped":   nil,
		"refresh":   {"grant": "refresh_token", "refresh_token": m.hide(m.server.IssueRefreshToken("refresh")), "revocation": "token"},
		"keyed":     {"auth_method": "private_key_jwt", "client_secret": nil},
		"certified": {"auth_method": "self_signed_tls_client_auth", "client_secret": nil},
	} {
		merged := map[string]any{"client_id": name}
		maps.Copy(merged, fields)
		m.must(m.write("providers/oauth2/"+name, m.providerFields(merged)))
		if keys := m.must(m.read("providers/oauth2/" + name)).Data["client_jwks"]; keys != nil {
			raw, err := json.Marshal(keys)
			require.NoError(m.t, err)
			m.client(authserver.Client{ID: name, JWKS: string(raw), CertificateBound: name == "certified"})
		}
	}
	m.must(m.write("providers/jwt/p", map[string]any{"claims": map[string]any{"team": "{{identity.entity.metadata.team}}"}}))
	m.must(m.write("providers/jwt/live", map[string]any{"revocation": "token"}))
}

// lease takes a lease, and keeps what Vault would.
func (m *mountMaker) lease(name, role, entity string, data map[string]any) *lease {
	m.t.Helper()
	l, err := m.credsBy(call{path: "creds/" + role, entity: entity, data: data, addr: "10.1.2.3"})
	require.NoError(m.t, err, name)
	m.made.Leases = append(m.made.Leases, oldLease{
		Name: name, Token: l.token, Internal: l.stored(m.t).InternalData, TTL: l.secret.TTL, IssuedAt: m.clock.Now(),
	})
	return l
}

// makeGrants makes one grant of each kind, and says that its like is to be had later.
func (m *mountMaker) makeGrants() {
	m.lease("signed by the first key", "signed", alice, nil)
	m.must(m.write("issuer/rotate", nil))
	m.clock.advance(30 * time.Minute) // the next key is published, and does not sign yet
	subject := func(jti string) map[string]any { return map[string]any{"subject_token": m.signed(jti, nil)} }
	both := func(jti string) map[string]any {
		return map[string]any{"subject_token": m.signed(jti, nil), "actor_token": m.signed(jti+"-actor", map[string]any{"sub": "agent-1"})}
	}
	for _, one := range []struct {
		name, role, entity string
		data               map[string]any
	}{
		{"an entity's", "plain", alice, map[string]any{"scopes": "read", "ttl": "10m"}},
		{"nobody's", "plain", "", nil},
		{"a namespaced entity's", "plain", namespaced, nil},
		{"bound", "bound", alice, nil},
		{"with details", "details", alice, nil},
		{"shared once", "shared", alice, nil},
		{"shared twice", "shared", alice, nil},
		{"shared thrice", "shared", alice, nil},
		{"limited", "limited", alice, nil},
		{"exchanged", "exchange", alice, both("exchanged")},
		{"keyed", "keyed", alice, nil},
		{"certified", "certified", alice, nil},
		{"refreshed", "refresh", alice, nil},
		{"confirmed", "confirmed", bob, nil},
		{"expiring", "expiring", alice, nil},
		{"signed", "signed", alice, nil},
		{"live", "live", alice, nil},
		{"on behalf", "behalf", alice, subject("behalf")},
	} {
		m.lease(one.name, one.role, one.entity, one.data)
		m.made.Asks = append(m.made.Asks, oldAsk{Name: one.name, Role: one.role, Entity: one.entity, Data: one.data})
	}
	m.makeSystemGrants()
	m.lease("used up", "once", alice, subject("used"))
	m.made.Asks = append(m.made.Asks, oldAsk{Name: "a token not used yet", Role: "once", Entity: alice, Data: subject("unused")})
	renewed := m.lease("renewed", "plain", alice, nil)
	m.clock.advance(10 * time.Minute)
	_, err := m.renew(renewed, time.Hour)
	require.NoError(m.t, err)
	m.lease("forwarded", "forward", alice, map[string]any{"subject_token": m.forwardable("forwarded")})
	m.lease("limited again", "limited", alice, nil)
	for range 2 {
		m.lease("rated", "rated", alice, nil)
	}
}

// forwardable is a token of the server's own.
func (m *mount) forwardable(jti string) string {
	token := m.subjectToken(jti, map[string]any{"scope": "read", "client_id": parentClient})
	m.server.AddToken(authserver.Token{Value: token, Client: parentClient, Expires: m.clock.Now().Add(10 * time.Minute)})
	return token
}

// makeEnds freezes, and uses up what can be.
func (m *mountMaker) makeEnds() {
	m.lease("of what is frozen", "frozen", alice, nil)
	for _, what := range []string{"provider/oauth2/stopped", "entity/" + frozenUser} {
		m.must(m.write("revoke/"+what, map[string]any{"freeze": true}))
	}
	// Frozen, and its grant not killed yet: as if the node had gone in between.
	require.NoError(m.t, m.b.freezer.Freeze(m.t.Context(), thingOf("role/frozen"), "test"))
	used := m.signed("used", nil)
	m.made.Refused = append(m.makeSystemEnds(), []oldAsk{
		{Name: "a used token", Role: "once", Entity: alice, Data: map[string]any{"subject_token": used}, Code: "invalid_grant"},
		{Name: "a frozen role", Role: "frozen", Entity: alice, Code: "access_denied"},
		{Name: "a frozen provider", Role: "stopped", Entity: alice, Code: "access_denied"},
		{Name: "a frozen entity", Role: "plain", Entity: frozenUser, Code: "access_denied"},
		{Name: "too many grants", Role: "limited", Entity: alice, Code: "slow_down"},
		{Name: "too many within a minute", Role: "rated", Entity: alice, Code: "slow_down"},
		{Name: "an entity that is not bound", Role: "bound", Entity: bob, Code: "access_denied"},
		{Name: "a disabled provider", Role: "leaving", Entity: alice, Code: "access_denied"},
	}...)
	for _, ask := range m.made.Refused[:len(m.made.Refused)-1] {
		_, err := m.credsBy(call{path: "creds/" + ask.Role, entity: ask.Entity, data: ask.Data, addr: "10.1.2.3"})
		require.Error(m.t, err, ask.Name)
		require.True(m.t, strings.HasPrefix(err.Error(), ask.Code), "%s: %s", ask.Name, err)
	}
}

// takeReads keeps what the mount shows of itself.
func (m *mountMaker) takeReads() {
	m.made.Reads = map[string]map[string]any{}
	paths := []string{"config"}
	for _, folder := range []string{"roles", "issuers", "signals", "kills", "providers/oauth2", "providers/jwt", "providers/github", "providers/gitlab", "providers/http"} {
		for _, name := range m.keys(folder, nil) {
			paths = append(paths, folder+"/"+name)
		}
	}
	for _, id := range m.allGrants() {
		paths = append(paths, "grants/"+id)
	}
	for _, path := range paths {
		if path == "providers/oauth2/leaving" {
			continue // it is about to change
		}
		m.made.Reads[path] = throughJSON(m.t, m.must(m.read(path)).Data)
		maps.DeleteFunc(m.made.Reads[path], func(name string, _ any) bool {
			return slices.Contains([]string{"ca_pem", "client_jwks", "stream_status"}, name) || strings.HasPrefix(name, "health") || strings.HasPrefix(name, "last_")
		})
	}
}

// makeOutbox leaves revocations that failed: of a lease's end, twice, of a token that
// was never handed out, and of a provider that is being deleted.
func (m *mountMaker) makeOutbox() {
	before := m.server.Live()
	twice := m.lease("doomed", "plain", alice, nil)
	m.lease("of a provider that goes", "leaving", alice, nil)
	m.breakRevocation()
	for range 2 {
		require.Error(m.t, m.revoke(twice))
	}
	m.server.Break(authserver.EndpointToken, authserver.Set("scope", "read write admin"))
	for _, role := range []string{"plain", "expiring"} {
		_, err := m.credsBy(call{path: "creds/" + role, entity: alice})
		require.Error(m.t, err)
	}
	m.server.Break(authserver.EndpointToken, nil)
	_, _ = m.delete("providers/oauth2/leaving", map[string]any{"force": true})
	m.waitForKills()
	for _, token := range m.server.Live() {
		if known, _ := m.server.Lookup(token); !slices.Contains(before, token) && known.Client != "expiring" {
			m.made.Doomed = append(m.made.Doomed, token)
		}
	}
	require.Len(m.t, m.made.Doomed, 3)
}

// makeOrder leaves kills of a role, a subject and a person whose first attempts failed and could not be put
// into the outbox: the order alone stands for them.
func (m *mountMaker) makeOrder() {
	for range 3 {
		m.made.Ordered = append(m.made.Ordered, m.lease("ordered to die", "ordered", alice, nil).token)
	}
	for user, entity := range map[string]string{"user-ordered": bob, "erin": bob} {
		m.made.Ordered = append(m.made.Ordered, m.lease("of a subject who is to lose it", "delegated", entity, m.behalfOf(user, "ordered-"+user)).token)
	}
	m.made.Ordered = append(m.made.Ordered, m.lease("of a person who is to lose it", "plain", erin, nil).token)
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, "grant/") {
			return errStorage
		}
		return nil
	})
	m.must(m.write("revoke/role/ordered", nil))
	m.must(m.write("revoke/subject", map[string]any{"issuer": "idp", "subject": "user-ordered"}))
	m.person(map[string]any{"alias_name": "erin", "alias_mount": loginMount})
	m.waitForKills()
	m.storage.on(nil)
	require.Len(m.t, m.allKeysBelow(ending.OrderPrefix), 3)
}
