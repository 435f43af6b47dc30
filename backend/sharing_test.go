package backend

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func newSharingMount(t *testing.T, role map[string]any) *mount {
	t.Helper()
	m := newMount(t, setup{role: map[string]any{"sharing": "entity", "ttl": "10m", "max_ttl": "20m"}})
	if role != nil {
		m.must(m.write("roles/r", role))
	}
	return m
}

func (m *mount) minted() int { return m.server.Counts().Requests[authserver.EndpointToken] }

// together is n requests of alice's that come at the same time.
func (m *mount) together(n int) []*lease {
	m.t.Helper()
	leases := make([]*lease, n)
	var wg sync.WaitGroup
	for i := range leases {
		wg.Go(func() {
			l, err := m.credsBy(call{entity: alice})
			if err != nil {
				m.t.Errorf("creds: %v", err)
				return
			}
			leases[i] = l
		})
	}
	wg.Wait()
	require.False(m.t, m.t.Failed())
	return leases
}

func TestAHundredIdenticalRequestsShareOneToken(t *testing.T) {
	m := newSharingMount(t, nil)
	leases := m.together(100)
	require.Equal(t, 1, m.minted())
	for _, l := range leases {
		require.Equal(t, leases[0].token, l.token)
		require.Equal(t, leases[0].grantID, l.grantID)
	}
	require.Len(t, m.allGrants(), 1)
	for i, l := range leases {
		require.True(t, m.server.Active(l.token), "lease %d of %d still lives", i, len(leases))
		require.NoError(t, m.revoke(l))
		require.NoError(t, m.revoke(leases[0]), "Vault may repeat it")
	}
	require.False(t, m.server.Active(leases[0].token), "it dies with the last of its leases")
	require.Empty(t, m.allGrants())
	require.NotEqual(t, leases[0].token, m.together(1)[0].token)
}

// Whoever found no token to join, and comes to mint one when somebody else has just done so,
// joins that.
func TestWhoComesTooLateForAMintJoinsWhatItBrought(t *testing.T) {
	m := newSharingMount(t, nil)
	d, err := m.b.decide(t.Context(), ask{role: "r", entityID: alice})
	require.NoError(t, err)
	key, err := m.b.shareKey(t.Context(), d)
	require.NoError(t, err)
	first, err := m.b.mintShared(t.Context(), d, key)
	require.NoError(t, err)
	second, err := m.b.mintShared(t.Context(), d, key)
	require.NoError(t, err)
	require.Same(t, first, second)
	require.Equal(t, 1, m.minted())
}

func TestWhatIsNotShared(t *testing.T) {
	m := newSharingMount(t, nil)
	m.must(m.write("roles/other", map[string]any{"provider": "oauth2/p", "scopes": "read,write", "sharing": "entity", "ttl": "10m"}))
	m.must(m.write("roles/alone", map[string]any{"provider": "oauth2/p", "scopes": "read,write", "ttl": "10m"}))
	seen := map[string]string{}
	for name, c := range map[string]call{
		"the entity's":     {entity: alice},
		"another entity's": {entity: bob},
		"another role's":   {entity: alice, path: "creds/other"},
		"narrower":         {entity: alice, data: map[string]any{"scopes": "read"}},
		"unshared":         {entity: alice, path: "creds/alone"},
		"unshared again":   {entity: alice, path: "creds/alone"},
	} {
		l, err := m.credsBy(c)
		require.NoError(t, err, name)
		require.Empty(t, seen[l.token], "%s and %s", name, seen[l.token])
		seen[l.token] = name
	}
	_, err := m.credsBy(call{})
	requireCode(t, err, fault.AccessDenied, "this token has no entity")
	again, err := m.credsBy(call{entity: alice, data: map[string]any{"scopes": "write,read", "ttl": "5m"}})
	require.NoError(t, err)
	require.Equal(t, "the entity's", seen[again.token], "the same in other words, and for a shorter time")
}

func TestASharedTokenThatEndsTooSoonIsNotJoined(t *testing.T) {
	m := newSharingMount(t, nil)
	first := m.together(1)[0]
	m.clock.advance(51 * time.Minute) // the server's tokens live for an hour
	second := m.together(1)[0]
	require.NotEqual(t, first.token, second.token)
	third, err := m.credsBy(call{entity: alice, data: map[string]any{"ttl": "5m"}})
	require.NoError(t, err)
	require.Equal(t, second.token, third.token)

	m = newMount(t, setup{server: authserver.Options{Lifetime: 5 * time.Minute}, role: map[string]any{"sharing": "entity", "ttl": "10m"}})
	leases := m.together(20)
	require.LessOrEqual(t, m.minted(), 20)
	for _, l := range leases {
		require.LessOrEqual(t, l.secret.TTL, 5*time.Minute, "no lease outlives its token")
		require.NoError(t, m.revoke(l))
	}
	m.balance()
}

// Who waits for somebody else's mint gets older meanwhile, and the subject token too.
func TestASharedLeaseDoesNotOutliveItsSubject(t *testing.T) {
	m := withSubject(t)
	m.must(m.write("roles/r", map[string]any{"subject_single_use": false, "sharing": "entity", "ttl": "10m"}))
	ask := ask{role: "r", entityID: alice, subjectToken: secret.New(m.subjectToken("one", nil))}
	d, err := m.b.decide(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, 10*time.Minute, d.Lifetime.TTL)
	key, err := m.b.shareKey(t.Context(), d)
	require.NoError(t, err)
	s, err := m.b.mintShared(t.Context(), d, key)
	require.NoError(t, err)

	m.clock.advance(time.Minute)
	resp, err := m.b.join(t.Context(), d, s)
	require.NoError(t, err)
	require.Equal(t, 9*time.Minute, resp.Secret.TTL)
	require.LessOrEqual(t, resp.Secret.MaxTTL, 9*time.Minute)
	m.clock.advance(9 * time.Minute)
	_, err = m.b.join(t.Context(), d, s)
	require.Equal(t, fault.InvalidGrant, fault.CodeOf(err))
}

func TestSharesOutliveARestart(t *testing.T) {
	m := newSharingMount(t, nil)
	leases := m.together(3)
	m.start()
	later := m.together(1)[0]
	require.NotEqual(t, leases[0].token, later.token, "tokens are in memory only")
	for _, l := range leases {
		require.True(t, m.server.Active(l.token))
		require.NoError(t, m.revoke(l))
		require.NoError(t, m.revoke(l))
	}
	require.False(t, m.server.Active(leases[0].token))
	require.True(t, m.server.Active(later.token))
	require.Equal(t, []string{later.grantID}, m.allGrants())
}

func TestASharedTokenIsRenewedForOneLeaseAndEndsWithTheLastOne(t *testing.T) {
	m := newSharingMount(t, nil)
	leases := m.together(2)
	m.clock.advance(9 * time.Minute)
	renewed, err := m.renew(leases[0], 10*time.Minute)
	require.NoError(t, err)
	require.Equal(t, 10*time.Minute, renewed.TTL)
	m.clock.advance(4 * time.Minute) // both leases were lost, one of them has not ended yet
	m.sweep()
	m.waitForKills()
	require.True(t, m.server.Active(leases[0].token))
	require.NoError(t, m.revoke(leases[1]))
	require.True(t, m.server.Active(leases[0].token))
	m.clock.advance(10 * time.Minute)
	m.sweep()
	m.waitForKills()
	require.False(t, m.server.Active(leases[0].token), "what outlives its last lease is killed")
	_, err = m.renew(leases[0], 0)
	requireCode(t, err, fault.AccessDenied)
}

func TestAKilledTokenIsNotJoined(t *testing.T) {
	m := newSharingMount(t, nil)
	for _, path := range []string{"revoke/entity/" + alice, "revoke/role/r", "revoke/provider/oauth2/p"} {
		before := m.together(2)
		m.must(m.write(path, nil))
		m.waitForKills()
		require.False(t, m.server.Active(before[0].token), path)
		after := m.together(2)
		require.NotEqual(t, before[0].token, after[0].token)
		for _, l := range slices.Concat(before, after) {
			require.NoError(t, m.revoke(l))
		}
	}
	l := m.together(1)[0]
	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": true}))
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.AccessDenied)
	require.False(t, m.server.Active(l.token))
}

func TestTheSharesOfOneTokenAreBounded(t *testing.T) {
	m := newSharingMount(t, nil)
	tokens := map[string]int{}
	for range maxShares + 1 {
		tokens[m.together(1)[0].token]++
	}
	require.Len(t, tokens, 2)
	require.Equal(t, 2, m.minted())
}

func TestQuotasCountASharedTokenOnce(t *testing.T) {
	m := newSharingMount(t, map[string]any{"max_grants_per_entity": 1, "max_issue_rate": 1})
	m.together(10)
	_, err := m.credsBy(call{entity: alice, data: map[string]any{"scopes": "read"}})
	requireCode(t, err, fault.SlowDown)
}

func TestAFailedMintFailsForAllWhoWaitForIt(t *testing.T) {
	m := newSharingMount(t, nil)
	m.server.Break(authserver.EndpointToken, authserver.Answer(503, "text/plain", "down"))
	for range 3 {
		_, err := m.credsBy(call{entity: alice})
		requireCode(t, err, fault.TemporarilyUnavailable)
	}
	m.server.Break(authserver.EndpointToken, nil)
	m.together(2)
}

func TestStorageFailsWhileATokenIsShared(t *testing.T) {
	m := newSharingMount(t, nil)
	first := m.together(1)[0]
	m.storage.fail("put")
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.storage.heal()
	second := m.together(1)[0]
	require.Equal(t, first.token, second.token)
	for _, l := range []*lease{first, second} {
		require.NoError(t, m.revoke(l))
	}
	require.False(t, m.server.Active(first.token), "what was not handed out holds nothing alive")
}

// TestSharingUnderAStorm: leases come and go at once, some of them twice; whatever is
// held at the end is alive, and all else is dead.
func TestSharingUnderAStorm(t *testing.T) {
	m := newSharingMount(t, nil)
	var wg sync.WaitGroup
	held := make([]*lease, 8)
	for w := range held {
		wg.Go(func() {
			for i := range 40 {
				l, err := m.credsBy(call{entity: []string{alice, bob}[w%2], ctx: context.Background()})
				if err != nil {
					t.Errorf("creds: %v", err)
					return
				}
				if !m.server.Active(l.token) {
					t.Errorf("a dead token was handed out")
				}
				if i == 39 && w < 4 {
					held[w] = l
					return
				}
				for range 1 + i%2 {
					if err := m.revoke(l); err != nil {
						t.Errorf("revoke: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	alive := map[string]bool{}
	for _, l := range held[:4] {
		require.True(t, m.server.Active(l.token))
		alive[l.grantID] = true
	}
	require.Len(t, m.allGrants(), len(alive))
	m.balance()
}

func TestSharingContradictsWhatIsForOneRequest(t *testing.T) {
	m := newSharingMount(t, nil)
	for words, fields := range map[string]map[string]any{
		"sharing must be":       {"sharing": "everybody"},
		"subject_single_use":    {"sharing": "entity", "subject_issuers": "ci", "subject_single_use": true},
		"mode=forward: a token": {"sharing": "entity", "subject_issuers": "ci", "mode": "forward", "audiences": "https://api.test"},
	} {
		fields["provider"] = "oauth2/p"
		_, err := m.write("roles/x", fields)
		requireCode(t, err, fault.InvalidRequest, words)
	}
	require.Equal(t, "entity", m.must(m.do(call{op: logical.ReadOperation, path: "roles/r"})).Data["sharing"])
}
