package backend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// oldScene is a mount that this build has found in storage.
type oldScene struct {
	*mount
	old     oldMount
	systems *counterparts
}

// openOldMount gives this build what an earlier one has left, at the time and with the
// server of then, at another address.
func openOldMount(t *testing.T, file string) *oldScene {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var old oldMount
	require.NoError(t, json.Unmarshal(raw, &old))
	require.NotEmpty(t, old.Storage, "there must be something to be judged")
	require.NotEmpty(t, old.Reads)
	require.NotEmpty(t, old.Leases)
	require.NotEmpty(t, old.Asks)
	require.NotEmpty(t, old.Refused)
	scene := &oldScene{old: old}
	m := &mount{t: t, storage: &flakyStorage{}, clock: &clock{at: old.At}, log: &lockedBuffer{}, vault: newVaultView()}
	m.secrets = []string{parentSecret}
	m.peopleOfBefore()
	m.server = authserver.Resume(t, old.Server, authserver.Options{Now: m.clock.Now})
	moved := []string{old.Server.URL, m.server.URL, inJSON(t, old.Server.CAPEM), inJSON(t, m.server.CAPEM)}
	if old.Systems != nil {
		scene.systems = startSystems(t, func() *mount { return m }, old.Systems)
		moved = append(moved, scene.systems.moved(old.Systems)...)
	}
	move := strings.NewReplacer(moved...).Replace
	for key, value := range old.Storage {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(move(value))}))
	}
	shown, err := json.Marshal(old.Reads)
	require.NoError(t, err)
	scene.old.Reads = nil
	require.NoError(t, json.Unmarshal([]byte(move(string(shown))), &scene.old.Reads))
	m.start()
	t.Cleanup(func() {
		if !t.Failed() {
			m.deadline()
			m.end()
		}
	})
	scene.mount = m
	return scene
}

// inJSON is text as it stands within a JSON string.
func inJSON(t testing.TB, text string) string {
	t.Helper()
	raw, err := json.Marshal(text)
	require.NoError(t, err)
	return strings.Trim(string(raw), `"`)
}

func (s *oldScene) ask(a oldAsk) (*lease, error) {
	s.t.Helper()
	return s.credsBy(call{path: "creds/" + a.Role, entity: a.Entity, data: a.Data, addr: "10.1.2.3"})
}

// leaseOf is what Vault gives back of a lease.
func (l oldLease) lease() *lease {
	id, _ := l.Internal["grant_id"].(string)
	return &lease{token: l.Token, grantID: id, secret: &logical.Secret{
		LeaseOptions: logical.LeaseOptions{TTL: l.TTL, IssueTime: l.IssuedAt, Renewable: true}, InternalData: l.Internal,
	}}
}

func isJWT(token string) bool { return strings.HasPrefix(token, "eyJ") }

// lives reports whether the token is good for anything: at its server, or at the broker
// that signed it.
func (s *oldScene) lives(token string) bool {
	if _, known := s.server.Lookup(token); known {
		return s.server.Active(token)
	}
	if s.systems != nil {
		if lives, known := s.systems.lives(token); known {
			return lives
		}
	}
	return s.introspected(token)["active"] == true
}

// unkillable is a token that nothing kills and whose grant is on record until it ends.
func (s *oldScene) unkillable(token string) bool {
	known, _ := s.server.Lookup(token)
	return known.Client == "expiring"
}

// stopped are the leases on what was not to go on.
func (s *oldScene) stopped(l oldLease) bool {
	return slices.Contains(s.old.Doomed, l.Token) || slices.Contains(s.old.Ordered, l.Token) || l.Name == "of what is frozen"
}

// TestMountsFromBefore: whatever a build has ever stored, this one reads, serves and
// kills.
func TestMountsFromBefore(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(mountsDir, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		for name, check := range map[string]func(*oldScene){
			"everything lives":       (*oldScene).everythingLives,
			"shows the same":         (*oldScene).showsTheSame,
			"serves":                 (*oldScene).serves,
			"refuses":                (*oldScene).refuses,
			"renews":                 (*oldScene).renews,
			"is written again":       (*oldScene).isWrittenAgain,
			"is switched off":        (*oldScene).isSwitchedOff,
			"leases end":             (*oldScene).leasesEnd,
			"is swept":               (*oldScene).isSwept,
			"is killed by grant":     (*oldScene).isKilledByGrant,
			"is killed by role":      (*oldScene).isKilledByRole,
			"is killed by provider":  (*oldScene).isKilledByProvider,
			"is killed by entity":    (*oldScene).isKilledByEntity,
			"the mount is disabled":  (*oldScene).isDisabled,
			"the keys go on":         (*oldScene).keysGoOn,
			"is of persons":          (*oldScene).isOfPersons,
			"is told of events":      (*oldScene).isToldOfEvents,
			"keeps records":          (*oldScene).keepsRecords,
			"all is over in the end": (*oldScene).endsByItself,
		} {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".json")+"/"+name, func(t *testing.T) {
				check(openOldMount(t, file))
			})
		}
	}
}

func (s *oldScene) everythingLives() {
	require.Empty(s.t, s.b.ledger.Unreadable())
	for _, l := range s.old.Leases {
		require.True(s.t, s.lives(l.Token), l.Name)
		s.must(s.read("grants/" + l.lease().grantID))
	}
	require.Len(s.t, s.allGrants(), len(s.allKeysBelow(grant.StoragePrefix)))
}

func (s *oldScene) showsTheSame() {
	for path, before := range s.old.Reads {
		now := throughJSON(s.t, s.must(s.read(path)).Data)
		raw, err := json.Marshal(now)
		require.NoError(s.t, err)
		require.NoError(s.t, json.Unmarshal(raw, &now)) // numbers as in the file
		for name, value := range before {
			if name == "entity_id" && strings.Contains(path, namespaced) {
				value = namespaced // v0.1.0-2843258 took half of it for the whole
			}
			require.Equal(s.t, value, now[name], "%s: %s", path, name)
		}
	}
	frozen := s.keys("frozen", nil)
	for _, what := range []string{"role/frozen", "provider/oauth2/stopped", "entity/" + frozenUser} {
		require.Contains(s.t, frozen, what)
	}
	if s.systems != nil {
		require.Equal(s.t, s.old.Systems.Frozen, frozen)
	}
}

func (s *oldScene) serves() {
	for _, a := range append(s.old.Asks, oldAsk{Name: "forwarded", Role: "forward", Entity: alice, Data: map[string]any{"subject_token": s.forwardable("new")}}) {
		if a.Role == "limited" {
			continue // at its limit, see refuses
		}
		l, err := s.ask(a)
		require.NoError(s.t, err, a.Name)
		require.True(s.t, s.lives(l.token), a.Name)
		require.NoError(s.t, s.revoke(l), a.Name)
		require.True(s.t, !s.lives(l.token) || s.unkillable(l.token), a.Name)
	}
}

func (s *oldScene) refuses() {
	for _, a := range s.old.Refused {
		_, err := s.ask(a)
		require.Error(s.t, err, a.Name)
		require.True(s.t, strings.HasPrefix(err.Error(), a.Code+": "), "%s: %s", a.Name, err)
	}
	// What stopped them ends as it would have ended then.
	for _, what := range []string{"role/frozen", "provider/oauth2/stopped"} {
		s.must(s.write("revoke/"+what, map[string]any{"freeze": false}))
	}
	s.thaws()
	for _, l := range s.old.Leases {
		if l.Name == "limited" {
			require.NoError(s.t, s.revoke(l.lease()))
		}
	}
	s.clock.advance(time.Minute)
	for _, a := range s.old.Refused {
		thawed := a.Entity == dave || slices.Contains([]string{"a frozen subject", "on a frozen person's behalf"}, a.Name)
		if thawed || slices.Contains([]string{"frozen", "stopped", "limited", "rated"}, a.Role) {
			_, err := s.ask(a)
			require.NoError(s.t, err, a.Name)
		}
	}
}

func (s *oldScene) renews() {
	for _, l := range s.old.Leases {
		_, err := s.renew(l.lease(), 5*time.Minute)
		if s.stopped(l) && !slices.Contains(s.old.Ordered, l.Token) && l.Name != "of a provider that goes" {
			require.Error(s.t, err, l.Name)
			continue
		}
		if !s.stopped(l) && l.TTL > 10*time.Minute {
			require.NoError(s.t, err, l.Name)
		}
	}
}

func (s *oldScene) isWrittenAgain() {
	for path := range s.old.Reads {
		switch folder, _, _ := strings.Cut(path, "/"); {
		case strings.HasPrefix(path, "providers/oauth2"):
			s.must(s.write(path, map[string]any{"timeout": 19}))
		case folder == "providers":
			s.must(s.write(path, map[string]any{"max_ttl": "3h"}))
		case folder == "roles":
			s.must(s.write(path, map[string]any{"max_ttl": "3h"}))
		case folder == "issuers":
			s.must(s.write(path, map[string]any{"clock_skew": 29}))
		case folder == "signals":
			s.must(s.write(path, map[string]any{"poll_interval": 29}))
		case folder == "config":
			s.must(s.write(path, map[string]any{"max_token_ttl": "23h"}))
		}
	}
	s.start()
	s.serves()
}

// isSwitchedOff: what does not change where grants die is written while they live, and
// what does is refused.
func (s *oldScene) isSwitchedOff() {
	live := 0
	for path := range s.old.Reads {
		if !strings.HasPrefix(path, "providers/oauth2") {
			continue
		}
		s.must(s.write(path, map[string]any{"disabled": true}))
		if path != "providers/oauth2/p" && path != "providers/oauth2/confirmed" {
			continue
		}
		fields := map[string]any{"issuer": s.server.URL, "client_secret": parentSecret, "max_ttl": "1h", "revocation_url": ""}
		s.must(s.write(path, fields))
		for name, value := range map[string]string{
			"revocation_url": s.server.Endpoint(authserver.EndpointRevoke), "client_id": "other",
		} {
			_, err := s.write(path, map[string]any{name: value, "client_secret": parentSecret})
			requireCode(s.t, err, fault.InvalidRequest, "live grants")
		}
		live++
	}
	require.Equal(s.t, 2, live)
	s.start()
	s.must(s.write("providers/oauth2/p", map[string]any{"disabled": false})) // whoever borrows of it needs it to kill
	s.leasesEnd()
}

func (s *oldScene) leasesEnd() {
	shares := map[string]int{}
	for _, l := range s.old.Leases {
		shares[l.Token]++
	}
	for _, l := range s.old.Leases {
		require.NoError(s.t, s.revoke(l.lease()), l.Name)
		shares[l.Token]--
		if s.unkillable(l.Token) {
			continue
		}
		require.Equal(s.t, shares[l.Token] > 0, s.lives(l.Token), l.Name)
		require.NoError(s.t, s.revoke(l.lease()), "Vault may repeat it")
	}
	s.sweep()
	s.requireAllDead()
}

// requireAllDead: no token lives that anything can kill, and none is on record.
func (s *oldScene) requireAllDead() {
	s.t.Helper()
	s.waitForKills()
	if s.systems != nil {
		s.deadline() // what only an intent knows of
		s.sweep()
		s.must(s.write("revoke/entity/broker", nil)) // what is borrowed has no lease
		s.waitForKills()
		require.Zero(s.t, s.systems.living())
	}
	for _, l := range s.old.Leases {
		require.True(s.t, !s.lives(l.Token) || s.unkillable(l.Token), l.Name)
	}
	for _, token := range s.server.Live() {
		require.True(s.t, s.unkillable(token), token)
	}
	for _, id := range s.allGrants() {
		require.Equal(s.t, "expiry", s.must(s.read("grants/" + id)).Data["revocation"], id)
	}
}

func (s *oldScene) isSwept() {
	s.sweep()
	s.waitForKills()
	for _, token := range append(slices.Clone(s.old.Doomed), s.old.Ordered...) {
		require.False(s.t, s.lives(token), "the outbox, and the kill under way, go on")
	}
	require.Empty(s.t, s.allKeysBelow(ending.OrderPrefix))
	require.NotContains(s.t, s.keys("providers/oauth2", nil), "leaving", "it waited for that")
	for _, l := range s.old.Leases {
		if l.TTL > 10*time.Minute && !s.stopped(l) {
			require.True(s.t, s.lives(l.Token), l.Name)
		}
	}
	s.clock.advance(grant.Overstay + time.Second)
	require.NoError(s.t, s.periodic())
	s.waitForKills()
	for _, l := range s.old.Leases {
		if l.IssuedAt.Add(l.TTL+grant.Overstay).Before(s.clock.Now()) && l.Name != "renewed" {
			require.True(s.t, !s.lives(l.Token) || s.unkillable(l.Token), l.Name)
		}
	}
}

func (s *oldScene) isKilledByGrant() {
	ids := s.allGrants()
	require.NotEmpty(s.t, ids)
	for _, id := range ids {
		s.must(s.write("revoke/grant/"+id, nil))
	}
	s.requireAllDead()
}

func (s *oldScene) isKilledByRole() {
	for _, name := range s.keys("roles", nil) {
		s.must(s.write("revoke/role/"+name, nil))
	}
	s.requireAllDead()
}

func (s *oldScene) isKilledByProvider() {
	for _, typ := range []string{"github", "gitlab", "http", "oauth2", "jwt"} {
		for _, name := range s.keys("providers/"+typ, nil) {
			s.must(s.write("revoke/provider/"+typ+"/"+name, nil))
		}
	}
	s.requireAllDead()
}

func (s *oldScene) isKilledByEntity() {
	for _, holder := range s.keys("grants/entity", nil) {
		s.must(s.write("revoke/entity/"+strings.TrimSuffix(holder, "/"), nil))
	}
	s.requireAllDead()
}

func (s *oldScene) isDisabled() {
	s.deadline() // until then a mint may be under way
	s.vault.change(func(v *vaultView) { v.tainted = true })
	require.NoError(s.t, s.periodic(), "each is killed, by the kind of provider that it is of")
	s.waitForKills()
	for _, l := range s.old.Leases {
		require.NoError(s.t, s.revoke(l.lease()), l.Name)
	}
	s.vault.change(func(v *vaultView) { v.tainted = false })
	s.requireAllDead()
}

func (s *oldScene) keysGoOn() {
	kids := map[string]bool{}
	for _, key := range s.published().Keys {
		kids[key.KeyID] = true
	}
	for _, l := range s.old.Leases {
		if isJWT(l.Token) && l.Name != "forwarded" {
			require.True(s.t, kids[kidOf(s.t, l.Token)], l.Name)
			s.requireActive(l.Token)
		}
	}
	first := s.signedTo(alice, "signed", nil)
	s.clock.advance(keyring.Lead)
	require.NoError(s.t, s.periodic())
	second := s.signedTo(alice, "signed", nil)
	require.NotEqual(s.t, kidOf(s.t, first.token), kidOf(s.t, second.token), "the key that waited signs now")
	require.True(s.t, kids[kidOf(s.t, second.token)], "and was published before")
	s.must(s.write("issuer/rotate", nil))
	s.requireActive(second.token)
	s.clock.advance(2 * grant.ExpiryGrace) // what lived for an hour is certainly dead
}

func (s *oldScene) endsByItself() {
	s.clock.advance(24 * time.Hour)
	for range 2 {
		require.NoError(s.t, s.periodic())
		s.waitForKills()
	}
	s.sweep()
	require.Empty(s.t, s.allGrants())
	for _, prefix := range []string{grant.StoragePrefix, usedPrefix, ratePrefix, ending.OrderPrefix} {
		require.Empty(s.t, s.allKeysBelow(prefix), prefix)
	}
	s.endsOfBefore()
}
