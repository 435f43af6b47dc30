package backend

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// newSharingIssuer is an issuing mount whose role j shares tokens that say the caller's
// groups and team.
func newSharingIssuer(t *testing.T) *mount {
	t.Helper()
	m := newJWTMount(t, map[string]any{"claims": map[string]any{
		"groups": "{{identity.entity.groups.names}}", "team": "{{identity.entity.metadata.team}}",
	}})
	m.must(m.write("roles/j", map[string]any{"sharing": "entity"}))
	return m
}

func (m *mount) regroup(names ...string) {
	m.vault.change(func(v *vaultView) {
		v.groups[alice] = nil
		for _, name := range names {
			v.groups[alice] = append(v.groups[alice], &logical.Group{ID: name, Name: name})
		}
	})
}

func (m *mount) moveTo(team string) {
	m.vault.change(func(v *vaultView) {
		v.entities[alice] = &logical.Entity{ID: alice, Name: "alice", Metadata: map[string]string{"team": team}}
	})
}

// saying are a token's claims, unverified.
func saying(t testing.TB, token string) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	require.NoError(t, err)
	var claims map[string]any
	require.NoError(t, json.Unmarshal(raw, &claims))
	return claims
}

// What a shared token was made from is no more: the next request gets one that is true.
func TestASharedTokenIsJoinedOnlyWhileItIsTrue(t *testing.T) {
	config := func(fields map[string]any) func(m *mount) {
		return func(m *mount) { m.must(m.write("config", fields)) }
	}
	providerWrite := func(fields map[string]any) func(m *mount) {
		return func(m *mount) { m.must(m.write("providers/jwt/p", fields)) }
	}
	for name, c := range map[string]struct {
		change func(m *mount)
		says   map[string]any // of what differs
	}{
		"the holder leaves a group":    {func(m *mount) { m.regroup() }, map[string]any{"groups": []any{}}},
		"the holder joins a group":     {func(m *mount) { m.regroup("ops", "dev") }, map[string]any{"groups": []any{"dev", "ops"}}},
		"the holder changes teams":     {func(m *mount) { m.moveTo("fraud") }, map[string]any{"team": "fraud"}},
		"the operator takes a claim":   {providerWrite(map[string]any{"claims": map[string]any{}}), map[string]any{"groups": nil, "team": nil}},
		"the provider is written":      {providerWrite(map[string]any{"max_ttl": "1h"}), nil},
		"the provider is made anew":    {remake, nil},
		"the issuer is called another": {config(map[string]any{"issuer": ownURL + "/2"}), map[string]any{"iss": ownURL + "/2"}},
		"the keys rotate":              {func(m *mount) { m.must(m.write("issuer/rotate", nil)) }, nil},
		"the keys may be stolen":       {func(m *mount) { m.must(m.write("issuer/rotate", map[string]any{"emergency": true})) }, nil},
		"the role is written":          {func(m *mount) { m.must(m.write("roles/j", map[string]any{"max_ttl": "20m"})) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := newSharingIssuer(t)
			before := m.signedTo(alice, "j", nil)
			require.Equal(t, before.token, m.signedTo(alice, "j", nil).token)
			c.change(m)
			after := m.signedTo(alice, "j", nil)
			require.NotEqual(t, before.token, after.token)
			claims := saying(t, after.token)
			for name, value := range c.says {
				require.Equal(t, value, claims[name], name)
			}
			m.requireActive(after.token)
			require.Equal(t, after.token, m.signedTo(alice, "j", nil).token, "and that one is shared again")
		})
	}
}

func remake(m *mount) {
	m.must(m.write("revoke/provider/jwt/p", nil))
	m.waitForKills()
	m.clock.advance(2 * time.Hour)
	m.sweep()
	m.must(m.delete("providers/jwt/p", nil))
	m.must(m.write("providers/jwt/p", map[string]any{"claims": map[string]any{}}))
}

// What does not stand in a token does not end the joining.
func TestWhatATokenDoesNotSayDoesNotEndTheJoining(t *testing.T) {
	m := newSharingIssuer(t)
	m.must(m.write("providers/jwt/p", map[string]any{"claims": map[string]any{"team": "{{identity.entity.metadata.team}}"}}))
	before := m.signedTo(alice, "j", nil)
	m.regroup("dev")
	m.vault.change(func(v *vaultView) {
		v.entities[alice] = &logical.Entity{ID: alice, Name: "alice-2", Metadata: map[string]string{"team": "payments", "shoe": "42"}}
	})
	m.clock.advance(time.Second)
	require.Equal(t, before.token, m.signedTo(alice, "j", map[string]any{"ttl": "5m"}).token)
}

// At a provider that signs itself, what the operator writes or rotates ends the joining.
func TestATokenOfAParentOfBeforeIsNotJoined(t *testing.T) {
	for name, change := range map[string]func(m *mount){
		"written": func(m *mount) { m.must(m.write("providers/oauth2/p", map[string]any{"timeout": 19})) },
		"brought anew": func(m *mount) {
			m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret}))
		},
		"rotated": func(m *mount) {
			m.must(m.write("providers/oauth2/p", map[string]any{"client_secret_next": nextSecret}))
			m.together(1)
			m.must(m.write("providers/oauth2/p/rotate", nil))
		},
		"invalidated": func(m *mount) { m.b.invalidate(t.Context(), downstream.StoragePrefix+"oauth2/p") },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, setup{
				client: authserver.Client{ID: parentClient, Secrets: []string{parentSecret, nextSecret}, Scopes: []string{"read", "write"}},
				role:   map[string]any{"sharing": "entity", "ttl": "10m"},
			})
			first := m.together(2)
			minted := m.minted()
			change(m)
			last := m.together(1)[0]
			require.NotEqual(t, first[0].token, last.token)
			require.Greater(t, m.minted(), minted)
		})
	}
}

// The parent that a mint itself replaces is still the same parent.
func TestATokenOfARotatingParentIsShared(t *testing.T) {
	m := newRefreshMount(t)
	m.must(m.write("roles/r", map[string]any{"sharing": "entity"}))
	first := m.together(1)[0]
	require.Equal(t, first.token, m.together(1)[0].token)
}

// A lease on a token that the broker itself takes for its own no more is not renewed;
// whoever reads creds again gets one that is good.
func TestALeaseOnAWithdrawnTokenIsNotRenewed(t *testing.T) {
	forget := func(m *mount, id string) { // what a build of before did not note
		_, err := m.b.ledger.Update(t.Context(), id, func(g *grant.Grant) error {
			g.Issuer, g.KeyID = "", ""
			return nil
		})
		require.NoError(m.t, err)
	}
	for name, c := range map[string]struct {
		prepare   func(m *mount, id string)
		change    func(m *mount)
		withdrawn bool
	}{
		"nothing":                          {change: func(*mount) {}},
		"an emergency":                     {change: func(m *mount) { m.must(m.write("issuer/rotate", map[string]any{"emergency": true})) }, withdrawn: true},
		"an emergency, noted by no record": {prepare: forget, change: func(m *mount) { m.must(m.write("issuer/rotate", map[string]any{"emergency": true})) }, withdrawn: true},
		"a rotation":                       {change: func(m *mount) { m.must(m.write("issuer/rotate", nil)) }},
		"a rotation, noted by no record":   {prepare: forget, change: func(m *mount) { m.must(m.write("issuer/rotate", nil)) }},
		"another issuer":                   {change: func(m *mount) { m.must(m.write("config", map[string]any{"issuer": ownURL + "/2"})) }, withdrawn: true},
		"no issuer":                        {change: func(m *mount) { m.must(m.write("config", map[string]any{"issuer": ""})) }, withdrawn: true},
		"a rotation and an emergency later": {change: func(m *mount) {
			m.must(m.write("issuer/rotate", nil))
			m.must(m.write("issuer/rotate", map[string]any{"emergency": true}))
		}, withdrawn: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, sharing := range []string{"entity", "none"} {
				m := newSharingIssuer(t)
				m.must(m.write("roles/j", map[string]any{"sharing": sharing}))
				leases := []*lease{m.signedTo(alice, "j", nil), m.signedTo(alice, "j", nil)}
				for _, l := range leases {
					if c.prepare != nil {
						c.prepare(m, l.grantID)
					}
				}
				m.clock.advance(time.Minute)
				c.change(m)
				for _, l := range leases {
					_, err := m.renew(l, 10*time.Minute)
					if !c.withdrawn {
						require.NoError(t, err)
						m.requireActive(l.token)
						continue
					}
					requireCode(t, err, fault.AccessDenied, "withdrawn", "read creds again")
					m.requireInactive(l.token)
				}
			}
		})
	}
}

// An emergency that comes while a token is on its way keeps it from being handed out.
func TestATokenThatIsWithdrawnOnItsWayIsNotHandedOut(t *testing.T) {
	for _, sharing := range []string{"entity", "none"} {
		m := newSharingIssuer(t)
		m.must(m.write("roles/j", map[string]any{"sharing": sharing}))
		rotate := func() { m.must(m.write("issuer/rotate", map[string]any{"emergency": true})) }
		m.storage.on(func(op, key string) error {
			if op == "put" && strings.HasPrefix(key, grant.StoragePrefix) {
				m.storage.on(nil)
				rotate()
			}
			return nil
		})
		_, err := m.credsBy(call{path: "creds/j", entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable, "changed meanwhile")
		l := m.signedTo(alice, "j", nil)
		m.requireActive(l.token)
		if sharing == "none" {
			continue
		}
		// And while a lease joins it.
		m.storage.on(func(op, key string) error {
			if op == "put" && strings.HasPrefix(key, grant.StoragePrefix) {
				m.storage.on(nil)
				rotate()
			}
			return nil
		})
		_, err = m.credsBy(call{path: "creds/j", entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable, "changed meanwhile")
	}
}
