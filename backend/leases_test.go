package backend

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestALeaseIsRevokedOnceAndForAll(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	require.NoError(t, m.revoke(l))
	require.NoError(t, m.revoke(l), "already gone counts as revoked")
	require.Equal(t, 1, m.server.Counts().Requests[authserver.EndpointRevoke])

	gone := m.mustCreds(nil)
	m.server.Kill(gone.token)
	require.NoError(t, m.revoke(gone))

	killed := m.mustCreds(nil)
	require.EqualValues(t, 1, m.must(m.write("revoke/grant/"+killed.grantID, nil)).Data["revoked"])
	require.NoError(t, m.revoke(killed))
	_, err := m.renew(killed, time.Hour)
	requireCode(t, err, fault.AccessDenied, "dead")
}

func TestAForeignLeaseIsRefused(t *testing.T) {
	m := newMount(t, setup{})
	for _, internal := range []map[string]any{
		{"secret_type": childTokenType},
		{"secret_type": childTokenType, "grant_id": 7},
		{"secret_type": childTokenType, "grant_id": nil},
	} {
		l := &lease{secret: &logical.Secret{InternalData: internal}}
		requireCode(t, m.revoke(l), fault.InvalidRequest)
		_, err := m.renew(l, 0)
		requireCode(t, err, fault.InvalidRequest)
	}
	for _, id := range []string{"", ".", "none", "none.", ".x", "none.x", "../provider/oauth2/p", "none/../../provider.oauth2/p", "a/b.c"} {
		l := &lease{secret: &logical.Secret{InternalData: map[string]any{"secret_type": childTokenType, "grant_id": id}}}
		require.NoError(t, m.revoke(l), id)
		_, err := m.renew(l, 0)
		requireCode(t, err, fault.AccessDenied)
	}
	m.must(m.read("providers/oauth2/p"))
	m.mustCreds(nil)
}

func TestAFailedRevocationIsRetriedUntilItSucceeds(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", "no"))
	requireCode(t, m.revoke(l), fault.TemporarilyUnavailable, l.grantID, "not dead yet")
	g := m.must(m.read("grants/" + l.grantID)).Data
	require.Equal(t, true, g["pending"])
	require.Equal(t, "lease_ended", g["cause"])
	require.EqualValues(t, 1, g["attempts"])
	_, err := m.renew(l, time.Hour)
	requireCode(t, err, fault.AccessDenied, "being killed")

	m.periodicallyUntil(m.b.ledger.Loaded)
	require.NoError(t, m.periodic())
	require.EqualValues(t, 1, m.must(m.read("grants/" + l.grantID)).Data["attempts"], "not before its time")
	m.clock.advance(6 * time.Second)
	require.NoError(t, m.periodic())
	require.EqualValues(t, 2, m.must(m.read("grants/" + l.grantID)).Data["attempts"])
	requireCode(t, m.revoke(l), fault.TemporarilyUnavailable)
	require.EqualValues(t, 1, m.sweep()["pending"])
	require.EqualValues(t, 4, m.must(m.read("grants/" + l.grantID)).Data["attempts"], "a sweep by hand ignores the backoff")

	m.start() // and it survives a restart
	m.server.Break(authserver.EndpointRevoke, nil)
	m.clock.advance(2 * time.Minute)
	m.periodicallyUntil(func() bool { return len(m.server.Live()) == 0 })
	require.NoError(t, m.revoke(l), "Vault's own retry finds it done")
	require.Nil(t, m.must(m.read("grants/"+l.grantID)))
}

// periodicallyUntil calls the periodic function, whose kills and whose loading of
// the ledger go on in the background, until it has led to done.
func (m *mount) periodicallyUntil(done func() bool) {
	m.t.Helper()
	require.Eventually(m.t, func() bool {
		require.NoError(m.t, m.periodic())
		return done()
	}, promptly, 5*time.Millisecond)
}

func TestTheServersRetryAfterIsHeeded(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	m.server.Break(authserver.EndpointRevoke, authserver.Busy(30*time.Minute))
	requireCode(t, m.revoke(l), fault.TemporarilyUnavailable)
	m.server.Break(authserver.EndpointRevoke, nil)
	m.clock.advance(downstream.MaxPause - time.Second)
	require.NoError(t, m.periodic())
	require.True(t, m.server.Active(l.token))
	m.clock.advance(2 * time.Second) // a token must not live for as long as the server likes
	m.periodicallyUntil(func() bool { return !m.server.Active(l.token) })
}

func TestADoomedTokenIsForgottenOnceItHasExpired(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{WithoutIntrospection: true}})
	l := m.mustCreds(nil)
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", "no"))
	requireCode(t, m.revoke(l), fault.TemporarilyUnavailable)
	m.clock.advance(time.Hour + 30*time.Second)
	m.sweep()
	require.Equal(t, []string{l.grantID}, m.allGrants(), "the provider's clock may be behind")
	m.clock.advance(31 * time.Second)
	require.EqualValues(t, 1, m.sweep()["expired"])
	require.Empty(t, m.allGrants())
	require.NoError(t, m.revoke(l))
}

func TestALeaseWithoutVaultIsEndedByTheSweep(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"ttl": "5m"}})
	l := m.mustCreds(nil)
	m.start() // Vault lost the lease in a crash, say
	m.clock.advance(5*time.Minute + time.Minute)
	m.periodicallyUntil(m.b.ledger.Loaded)
	require.NoError(t, m.periodic())
	require.True(t, m.server.Active(l.token), "Vault has some time to end it first")
	m.clock.advance(time.Minute + time.Second)
	m.periodicallyUntil(func() bool { return !m.server.Active(l.token) })
}

func TestRenewalEndsWhereTheGrantEnds(t *testing.T) {
	for name, c := range map[string]struct {
		setup     setup
		ttl, max  time.Duration // of the lease as it is issued
		after     time.Duration
		increment time.Duration
		want      time.Duration // 0 is a refusal
	}{
		"within the token's life":     {setup{}, time.Hour, time.Hour, 10 * time.Minute, 0, 50 * time.Minute},
		"a wish within":               {setup{}, time.Hour, time.Hour, 10 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		"a wish beyond":               {setup{}, time.Hour, time.Hour, 10 * time.Minute, 99 * time.Hour, 50 * time.Minute},
		"a negative wish":             {setup{}, time.Hour, time.Hour, 10 * time.Minute, -time.Hour, 50 * time.Minute},
		"at the token's end":          {setup{}, time.Hour, time.Hour, time.Hour, 0, 0},
		"after the token's end":       {setup{}, time.Hour, time.Hour, 2 * time.Hour, 0, 0},
		"the role's max_ttl":          {setup{role: map[string]any{"ttl": "10m", "max_ttl": "30m"}}, 10 * time.Minute, 30 * time.Minute, 25 * time.Minute, time.Hour, 5 * time.Minute},
		"after the role's max_ttl":    {setup{role: map[string]any{"ttl": "10m", "max_ttl": "30m"}}, 10 * time.Minute, 30 * time.Minute, 30 * time.Minute, time.Hour, 0},
		"the provider's max_ttl":      {setup{provider: map[string]any{"max_ttl": "20m"}}, 20 * time.Minute, 20 * time.Minute, 15 * time.Minute, time.Hour, 5 * time.Minute},
		"the mount's limit":           {setup{server: authserver.Options{Lifetime: 100 * time.Hour}}, time.Hour, 24 * time.Hour, 23*time.Hour + 30*time.Minute, time.Hour, 30 * time.Minute},
		"after the mount's limit":     {setup{server: authserver.Options{Lifetime: 100 * time.Hour}}, time.Hour, 24 * time.Hour, 24 * time.Hour, time.Hour, 0},
		"no end that anybody told":    {setup{server: authserver.Options{Lifetime: 100 * time.Hour}}, time.Hour, 24 * time.Hour, 23 * time.Hour, 9 * time.Hour, time.Hour},
		"a role that is only one ttl": {setup{role: map[string]any{"ttl": "10m"}}, 10 * time.Minute, 10 * time.Minute, 9 * time.Minute, time.Hour, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, c.setup)
			if name == "no end that anybody told" {
				m.server.Break(authserver.EndpointToken, authserver.Drop("expires_in"))
			}
			l := m.mustCreds(nil)
			require.Equal(t, c.ttl, l.secret.TTL)
			require.Equal(t, c.max, l.secret.MaxTTL)
			require.True(t, l.secret.Renewable)
			issued := m.clock.Now()
			m.clock.advance(c.after)
			s, err := m.renew(l, c.increment)
			if c.want == 0 {
				requireCode(t, err, fault.AccessDenied)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, s.TTL)
			require.LessOrEqual(t, m.clock.Now().Add(s.TTL).Sub(issued), s.MaxTTL)
			g, err := m.b.ledger.Get(t.Context(), l.grantID)
			require.NoError(t, err)
			require.Equal(t, m.clock.Now().Add(c.want), g.LeaseEnds, "recorded before it is answered")
		})
	}
}

func TestRenewalJudgesAgain(t *testing.T) {
	setRole := func(fields map[string]any) func(m *mount) {
		return func(m *mount) { m.must(m.write("roles/r", fields)) }
	}
	for name, c := range map[string]struct {
		role   map[string]any
		change func(m *mount)
		code   fault.Code
	}{
		"nothing":                  {nil, func(*mount) {}, ""},
		"the role is deleted":      {nil, func(m *mount) { m.must(m.delete("roles/r", nil)) }, fault.AccessDenied},
		"the ceiling is lowered":   {nil, setRole(map[string]any{"scopes": "read"}), fault.AccessDenied},
		"the ceiling is raised":    {nil, setRole(map[string]any{"scopes": "read,write,admin"}), ""},
		"the ceiling is taken off": {nil, setRole(map[string]any{"scopes": ""}), fault.AccessDenied},
		"another entity is wanted": {nil, setRole(map[string]any{"bound_entity_ids": bob}), fault.AccessDenied},
		"a group is wanted":        {nil, setRole(map[string]any{"bound_group_names": "ops"}), ""},
		"another group is wanted":  {nil, setRole(map[string]any{"bound_group_names": "dev"}), fault.AccessDenied},
		"metadata is wanted":       {nil, setRole(map[string]any{"bound_entity_metadata": map[string]any{"team": "hr"}}), fault.AccessDenied},
		"a condition that holds":   {nil, setRole(map[string]any{"condition": `identity.metadata["team"] == "payments"`}), ""},
		"a condition that fails":   {nil, setRole(map[string]any{"condition": `identity.name == "bob"`}), fault.AccessDenied},
		"the address counts not":   {nil, setRole(map[string]any{"bound_cidrs": "192.0.2.0/24"}), ""},
		"the role serves another": {nil, func(m *mount) {
			m.must(m.write("providers/oauth2/q", m.providerFields(nil)))
			m.must(m.write("roles/r", map[string]any{"provider": "oauth2/q"}))
		}, fault.AccessDenied},
		"left the group": {map[string]any{"bound_group_names": "ops"}, func(m *mount) {
			m.vault.change(func(v *vaultView) { v.groups[alice] = nil })
		}, fault.AccessDenied},
		"the entity is deleted":    {nil, func(m *mount) { m.vault.change(func(v *vaultView) { delete(v.entities, alice) }) }, fault.AccessDenied},
		"the entity is disabled":   {nil, func(m *mount) { m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = true }) }, fault.AccessDenied},
		"the entity is frozen":     {nil, freezeOnly("entity/" + alice), fault.AccessDenied},
		"the role is frozen":       {nil, freezeOnly("role/r"), fault.AccessDenied},
		"the provider is frozen":   {nil, freezeOnly("provider/oauth2/p"), fault.AccessDenied},
		"Vault cannot say":         {nil, func(m *mount) { m.vault.failWith(errors.New("core is busy")) }, fault.TemporarilyUnavailable},
		"the provider is disabled": {nil, func(m *mount) { m.must(m.write("providers/oauth2/p", map[string]any{"disabled": true})) }, ""},
		"the provider has new fields": {nil, func(m *mount) {
			m.must(m.write("providers/oauth2/p", map[string]any{"timeout": 2, "client_secret": parentSecret}))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{role: c.role})
			l, err := m.credsBy(call{entity: alice, addr: "10.0.0.1"})
			require.NoError(t, err)
			m.clock.advance(time.Minute)
			c.change(m)
			_, err = m.renew(l, time.Hour)
			if c.code == "" {
				require.NoError(t, err)
			} else {
				requireCode(t, err, c.code)
			}
			if c.code == fault.TemporarilyUnavailable {
				m.sweep()
				require.NoError(t, m.periodic())
				require.True(t, m.server.Active(l.token), "an error while asking is never \"gone\"")
				m.heal()
				_, err = m.renew(l, time.Hour)
				require.NoError(t, err)
			}
			require.NoError(t, m.revoke(l), "whatever has changed, the grant can be killed")
			require.False(t, m.server.Active(l.token))
		})
	}
}

// freezeOnly freezes without the kill that comes with it.
func freezeOnly(what string) func(m *mount) {
	return func(m *mount) {
		require.NoError(m.t, m.b.freezer.Freeze(m.t.Context(), thingOf(what), "test"))
	}
}

func TestTheSweepKillsForHoldersWhoAreNot(t *testing.T) {
	for name, change := range map[string]func(m *mount){
		"deleted":  func(m *mount) { m.vault.change(func(v *vaultView) { delete(v.entities, alice) }) },
		"disabled": func(m *mount) { m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = true }) },
		"unfit":    func(m *mount) { m.vault.change(func(v *vaultView) { v.groups[alice] = nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{role: map[string]any{"bound_group_names": "ops,dev"}})
			m.vault.change(func(v *vaultView) { v.groups[bob] = []*logical.Group{{Name: "dev"}} })
			hers, err := m.credsBy(call{entity: alice})
			require.NoError(t, err)
			his, err := m.credsBy(call{entity: bob})
			require.NoError(t, err)
			m.vault.failWith(errors.New("core is busy"))
			change(m)
			m.sweep()
			require.True(t, m.server.Active(hers.token), "an error while asking kills nobody")
			m.vault.failWith(nil)
			m.sweep()
			require.False(t, m.server.Active(hers.token))
			require.True(t, m.server.Active(his.token))
			require.NoError(t, m.revoke(hers))
			_, err = m.credsBy(call{entity: alice})
			requireCode(t, err, fault.AccessDenied)
		})
	}
}

func TestClassExpiry(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{WithoutRevocation: true}})
	l := m.mustCreds(nil)
	require.Equal(t, "expiry", l.data["revocation"])
	require.NoError(t, m.revoke(l), "no retry would do more")
	require.Equal(t, []string{l.grantID}, m.allGrants(), "nobody must take it for dead")
	resp := m.must(m.write("revoke/role/r", nil))
	require.EqualValues(t, 1, resp.Data["expiry_only"])
	require.EqualValues(t, 3600, resp.Data["residual_exposure_seconds"])
	require.NoError(t, m.periodic())
	require.Len(t, m.allGrants(), 1)
	_, err := m.write("roles/strict", map[string]any{"provider": "oauth2/p", "scopes": "read", "require_revocable": true})
	requireCode(t, err, fault.InvalidRequest, "require_revocable")

	_, err = m.delete("providers/oauth2/p", nil)
	requireCode(t, err, fault.InvalidRequest, "1 grants")
	m.clock.advance(time.Hour + 61*time.Second)
	m.sweep()
	require.Empty(t, m.allGrants())
}

func TestRenewalNeverBringsBackWhatWasKilled(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{Lifetime: 10 * time.Hour}})
	for range 20 {
		l := m.mustCreds(nil)
		var wg sync.WaitGroup
		for range 4 {
			wg.Add(2)
			go func() { defer wg.Done(); _, _ = m.renew(l, time.Hour) }()
			go func() { defer wg.Done(); _ = m.revoke(l) }()
		}
		wg.Wait()
		require.NoError(t, m.revoke(l))
		require.False(t, m.server.Active(l.token))
		_, err := m.b.ledger.Get(t.Context(), l.grantID)
		require.ErrorIs(t, err, grant.ErrGone)
	}
	require.Empty(t, m.allKeysBelow(grant.StoragePrefix))
}

func (m *mount) allKeysBelow(prefix string) []string {
	m.t.Helper()
	return slices.DeleteFunc(m.allKeys(), func(k string) bool { return len(k) < len(prefix) || k[:len(prefix)] != prefix })
}

func TestListingGrants(t *testing.T) {
	m := newMount(t, setup{})
	var ids []string
	for i := range 25 {
		c := call{}
		if i%5 == 0 {
			c.entity = []string{alice, bob}[i/5%2]
		}
		l, err := m.credsBy(c)
		require.NoError(t, err)
		ids = append(ids, l.grantID)
	}
	slices.Sort(ids)
	require.Equal(t, ids, m.keys("grants", nil))
	require.Equal(t, ids[:7], m.keys("grants", map[string]any{"limit": "7"}))
	require.Equal(t, ids[7:14], m.keys("grants/", map[string]any{"limit": 7, "after": ids[6]}))
	require.Empty(t, m.keys("grants", map[string]any{"after": ids[24]}))
	require.Equal(t, ids[10:], m.keys("grants", map[string]any{"after": ids[9] + "0"}), "what comes after need not exist")
	require.Equal(t, ids, m.keys("grants", map[string]any{"after": ""}))
	for _, bad := range []any{0, -1, 1001, "x"} {
		_, err := m.list("grants", map[string]any{"limit": bad})
		requireCode(t, err, fault.InvalidRequest)
	}
	require.Equal(t, []string{alice, bob, "none"}, m.keys("grants/entity", nil))
	require.Equal(t, []string{bob}, m.keys("grants/entity/", map[string]any{"after": alice, "limit": 1}))
	require.Len(t, m.keys("grants/entity/"+alice, nil), 3)
	require.Len(t, m.keys("grants/entity/none", map[string]any{"limit": 2}), 2)
	require.Empty(t, m.keys("grants/entity/nobody", nil))

	info, _ := m.must(m.list("grants", nil)).Data["key_info"].(map[string]any)
	require.Len(t, info, 25)
	m.start()
	require.Equal(t, ids, m.keys("grants", nil), "as before the restart")
}

func TestARestartChangesNothing(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	before := m.must(m.read("grants/" + l.grantID)).Data
	for range 3 {
		m.start()
		require.Equal(t, before, m.must(m.read("grants/"+l.grantID)).Data)
	}
	_, err := m.renew(l, time.Hour)
	require.NoError(t, err)
	m.mustCreds(nil)
	require.NoError(t, m.revoke(l))
	require.Len(t, m.allGrants(), 1)
}

func TestAnOrderSurvivesACrash(t *testing.T) {
	for _, give := range []func(m *mount){
		func(m *mount) { _, _ = m.write("revoke/role/r", nil) },
		func(m *mount) { _, _ = m.write("revoke/entity/none", nil) },
		func(m *mount) { _, _ = m.delete("providers/oauth2/p", map[string]any{"force": true}) },
	} {
		m := newMount(t, setup{})
		for range 5 {
			m.mustCreds(nil)
		}
		m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", "no"))
		m.storage.on(func(op, key string) error {
			if op == "put" && len(key) > 6 && key[:6] == grant.StoragePrefix {
				return errStorage // the outbox
			}
			return nil
		})
		give(m)
		m.waitForKills()
		require.Len(t, m.server.Live(), 5)
		m.start() // all that was in memory only is gone
		m.heal()
		m.sweep()
		m.waitForKills()
		require.Empty(t, m.server.Live())
		require.Empty(t, m.allGrants())
	}
}

func TestATaintedMountKillsWhatLives(t *testing.T) {
	m := newMount(t, setup{})
	var leases []*lease
	for range 3 {
		leases = append(leases, m.mustCreds(nil))
	}
	m.vault.change(func(v *vaultView) { v.tainted = true })
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", "no"))
	require.ErrorContains(t, m.periodic(), "3 grants still live")
	requireCode(t, m.revoke(leases[0]), fault.TemporarilyUnavailable, "3 grants still live", leases[0].grantID, "vault secrets move")
	m.server.Break(authserver.EndpointRevoke, nil)
	require.NoError(t, m.periodic())
	require.Empty(t, m.server.Live())
	for _, l := range leases {
		require.NoError(t, m.revoke(l))
	}
}

// withSubject is a mount whose role takes single-use subject tokens of the
// server itself.
func withSubject(t testing.TB) *mount {
	t.Helper()
	m := newMount(t, setup{})
	m.must(m.write("issuers/i", map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": m.server.URL, "bound_audiences": "broker",
	}))
	m.must(m.write("roles/r", map[string]any{"subject_issuers": "i", "subject_single_use": true}))
	return m
}

func (m *mount) subjectToken(jti string, different map[string]any) string {
	claims := map[string]any{
		"iss": m.server.URL, "sub": "user-1", "aud": "broker", "jti": jti,
		"iat": m.clock.Now().Unix(), "exp": m.clock.Now().Add(10 * time.Minute).Unix(),
	}
	for name, value := range different {
		claims[name] = value
	}
	return m.hide(m.server.SignClaims("JWT", claims))
}

func TestASubjectTokenIsUsedOnce(t *testing.T) {
	m := withSubject(t)
	token := m.subjectToken("one", nil)
	l, err := m.creds(map[string]any{"subject_token": token})
	require.NoError(t, err)
	require.Equal(t, "user-1", l.data["subject"])
	require.Equal(t, 10*time.Minute, l.secret.TTL, "no lease outlives the subject token")
	for range 2 {
		_, err = m.creds(map[string]any{"subject_token": token})
		requireCode(t, err, fault.InvalidGrant, "used already")
		m.start() // remembered across a restart
	}
	_, err = m.creds(map[string]any{"subject_token": m.subjectToken("one", map[string]any{"sub": "user-2"})})
	requireCode(t, err, fault.InvalidGrant, "used already")

	m.clock.advance(9 * time.Minute)
	m.sweep()
	_, err = m.creds(map[string]any{"subject_token": token})
	requireCode(t, err, fault.InvalidGrant, "used already")
	m.clock.advance(10 * time.Minute)
	m.sweep()
	require.Empty(t, m.allKeysBelow(usedPrefix), "forgotten once it could not be accepted any more")
	_, err = m.creds(map[string]any{"subject_token": token})
	requireCode(t, err, fault.InvalidGrant)
}

func TestOneOfManyWinsASubjectToken(t *testing.T) {
	m := withSubject(t)
	token := m.subjectToken("raced", nil)
	var mu sync.Mutex
	var won int
	var wg sync.WaitGroup
	for range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := m.creds(map[string]any{"subject_token": token})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
				return
			}
			requireCode(t, err, fault.InvalidGrant)
		}()
	}
	wg.Wait()
	require.Equal(t, 1, won)
	require.Equal(t, 1, m.server.Counts().Minted)
}

func TestASubjectTokenIsGivenBackOnlyIfNothingWasMinted(t *testing.T) {
	for name, c := range map[string]struct {
		fault authserver.Fault
		again bool
		lost  int
	}{
		"refused":         {authserver.Answer(400, "application/json", `{"error":"invalid_scope"}`), true, 0},
		"overloaded":      {authserver.Answer(429, "text/plain", ""), true, 0},
		"who knows":       {authserver.Answer(503, "text/plain", ""), false, 0},
		"answer lost":     {authserver.Hangup(), false, 1},
		"half an answer":  {authserver.Cut(5), false, 1},
		"granted more":    {authserver.Set("scope", "admin"), false, 0},
		"something else":  {authserver.HTML(), false, 0},
		"an expired one":  {authserver.Set("expires_in", 0), false, 0},
		"gateway timeout": {authserver.Answer(504, "text/html", ""), false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := withSubject(t)
			token := m.subjectToken("x", nil)
			m.server.Break(authserver.EndpointToken, c.fault)
			_, err := m.creds(map[string]any{"subject_token": token})
			require.Error(t, err)
			m.lost = c.lost
			m.server.Break(authserver.EndpointToken, nil)
			_, err = m.creds(map[string]any{"subject_token": token})
			if c.again {
				require.NoError(t, err)
			} else {
				requireCode(t, err, fault.InvalidGrant, "used already")
			}
		})
	}
}

func TestBadSubjectTokens(t *testing.T) {
	m := withSubject(t)
	later := m.clock.Now().Add(time.Hour).Unix()
	for name, token := range map[string]string{
		"expired":           m.subjectToken("a", map[string]any{"exp": m.clock.Now().Add(-time.Hour).Unix(), "iat": m.clock.Now().Add(-2 * time.Hour).Unix()}),
		"for another":       m.subjectToken("b", map[string]any{"aud": "somebody else"}),
		"of another issuer": m.subjectToken("c", map[string]any{"iss": "https://evil.example.com"}),
		"not yet valid":     m.subjectToken("d", map[string]any{"nbf": later}),
		"without a jti":     m.subjectToken("", map[string]any{"jti": nil}),
		"forged":            m.subjectToken("e", nil) + "A",
		"no JWT":            m.hide("NOT-a-JWT-canary-0123456789"),
		"a huge one":        m.hide(fmt.Sprintf("%060000d", 0)),
	} {
		_, err := m.creds(map[string]any{"subject_token": token})
		require.Error(t, err, name)
		requireCode(t, err, fault.InvalidGrant)
	}
	_, err := m.creds(nil)
	requireCode(t, err, fault.InvalidRequest, "subject_token")
	_, err = m.do(call{op: logical.ReadOperation, path: "creds/r", data: map[string]any{"subject_token": m.subjectToken("f", nil)}})
	requireCode(t, err, fault.InvalidRequest)
	require.Zero(t, m.server.Counts().Minted)
}

// Core reckons in whole seconds, and warns whoever renews if they fall short.
func TestARenewalFallsShortOfNothing(t *testing.T) {
	issued := time.Now().Add(-10 * time.Second).Truncate(time.Second).Add(999 * time.Millisecond)
	for fraction := range 10 {
		asked := time.Now().Truncate(time.Second).Add(time.Duration(fraction) * 100 * time.Millisecond)
		if fraction == 0 { // core reckons in the next second
			asked = asked.Add(-time.Millisecond)
		}
		now := asked.Add(3 * time.Millisecond) // the record was written meanwhile
		for name, c := range map[string]struct {
			increment time.Duration
			left      time.Duration
			warned    bool
		}{
			"as much as was wanted":    {time.Minute, time.Minute, false},
			"whatever the broker says": {0, time.Minute + 7*time.Millisecond, false},
			"until the token's end":    {0, 1234 * time.Millisecond, false},
			"less than was wanted":     {time.Hour, time.Minute, true},
		} {
			ends := asked.Add(c.left)
			s := &logical.Secret{LeaseOptions: logical.LeaseOptions{IssueTime: issued, Increment: c.increment}}
			s = renewed(s, issued, asked, now, ends)
			ttl, warnings, err := framework.CalculateTTL(newVaultView(), c.increment, s.TTL, 0, s.MaxTTL, 0, issued)
			require.NoError(t, err)
			require.Equal(t, c.warned, len(warnings) > 0, "%s, %d tenths: %q", name, fraction, warnings)
			require.LessOrEqual(t, ttl, c.left+time.Second, name)
		}
	}
}
