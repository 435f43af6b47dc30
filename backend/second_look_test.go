package backend

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// A write that is refused kills no token that others hold.
func TestARefusedWriteEndsNoTokenOfOthers(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{OneToken: true}, provider: map[string]any{"revocation": "lever", "check_scopes": "read", "verify_connection": true}})
	m.sweep()
	l := m.mustCreds(map[string]any{"scopes": "read"})
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, "provider/") {
			return errStorage
		}
		return nil
	})
	_, err := m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret})
	require.Error(t, err)
	m.storage.heal()
	require.True(t, m.server.Active(l.token))
}

// A mint with the parent of before is refused, rightly, and says nothing of the next one.
func TestAMintOfTheParentBeforeCondemnsNotTheNext(t *testing.T) {
	m := newMount(t, setup{provider: proving})
	m.mustCreds(nil)
	m.server.SetClient(authserver.Client{ID: parentClient, Secrets: []string{nextSecret}, Scopes: []string{"read", "write"}})
	var once atomic.Bool
	m.server.Break(authserver.EndpointToken, authserver.Before(func() {
		if once.CompareAndSwap(false, true) {
			m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": nextSecret}))
		}
	}))
	_, err := m.creds(nil)
	require.Error(t, err)
	m.server.Break(authserver.EndpointToken, nil)
	for range 3 {
		m.mustCreds(nil)
	}
}

// What is rotated while a write of something else waits is what is proven.
func TestAProofDoesNotSpendAParentTwice(t *testing.T) {
	m := newRotatingMount(t)
	m.must(m.write("providers/oauth2/p", m.refreshFields(m.hide(m.server.IssueRefreshToken(parentClient)))))
	m.serves()
	var once atomic.Bool
	m.storage.on(func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, "successor/") && once.CompareAndSwap(false, true) {
			m.mustCreds(nil)
		}
		return nil
	})
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret}))
	m.storage.heal()
	m.mustCreds(nil)
}

// Who may only update creates nothing because storage failed when core asked.
func TestWhatCouldNotBeSeenIsNotCreated(t *testing.T) {
	m := newMount(t, setup{})
	for _, path := range []string{"roles/fresh", "issuers/fresh", "providers/oauth2/fresh"} {
		req := &logical.Request{ID: "request " + path, Operation: logical.UpdateOperation, Path: path, Storage: m.storage, Data: map[string]any{}}
		m.storage.fail("get")
		_, exists, err := m.b.HandleExistenceCheck(t.Context(), req)
		require.NoError(t, err)
		require.True(t, exists)
		m.storage.heal()
		_, err = m.b.HandleRequest(t.Context(), req)
		require.ErrorContains(t, err, "could not be seen")
	}
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "roles/fresh", Storage: m.storage}
	m.storage.fail("get")
	_, _, err := m.b.HandleExistenceCheck(t.Context(), req)
	require.Error(t, err, "a request that cannot be told from others is refused by core")
}

// A mint that is under way while its issuer is deleted is not handed out after a freeze that
// was refused, because nobody knows the name any more.
func TestAFreezeOfWhatIsGoneStopsTheMintInFlight(t *testing.T) {
	m := exchanging(t, nil)
	token := m.trustedToken("one")
	var once atomic.Bool
	m.server.Break(authserver.EndpointToken, authserver.Before(func() {
		if once.CompareAndSwap(false, true) {
			m.must(m.delete("issuers/i", nil))
			_, err := m.write("revoke/issuer/i", map[string]any{"freeze": true})
			requireCode(t, err, fault.InvalidRequest, "nothing was frozen")
		}
	}))
	_, err := m.creds(map[string]any{"subject_token": token, "scopes": "read"})
	requireCode(t, err, fault.AccessDenied, "frozen meanwhile")
	require.Empty(t, m.server.Live())
}

// An entity that a build of before froze by the beginning of its id is frozen, and said so.
func TestAnEntityFrozenByTheBeginningOfItsIDIsSaidToBe(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": true}))
	whole := alice + ".ns1"
	require.Equal(t, true, m.must(m.write("revoke/entity/"+whole, nil)).Data["frozen"])
	resp := m.must(m.write("revoke/entity/"+whole, map[string]any{"freeze": false}))
	require.Equal(t, true, resp.Data["frozen"])
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "entity/"+alice)
}

// What is signed while the order of a withdrawal is written dies too.
func TestAWithdrawalMeansWhatIsSignedMeanwhile(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("config", map[string]any{"issuer": "https://broker.test/v1/broker"}))
	m.must(m.write("providers/jwt/own", map[string]any{}))
	m.must(m.write("roles/own", map[string]any{"provider": "jwt/own", "audiences": "https://api.test"}))
	var once atomic.Bool
	var signed string
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.Contains(key, "signing") && once.CompareAndSwap(false, true) {
			m.clock.advance(20 * time.Millisecond)
			l, err := m.credsBy(call{path: "creds/own", entity: alice})
			if err == nil {
				signed = l.grantID
			}
		}
		return nil
	})
	m.must(m.write("issuer/rotate", map[string]any{"emergency": true}))
	m.storage.heal()
	m.waitForKills()
	if signed == "" {
		return // it was refused, which is as well
	}
	require.Equal(t, "keys_withdrawn", m.must(m.read("grants/" + signed)).Data["cause"])
}

// What opens a role is said: an empty value may come from an empty file.
func TestUnsettingATermOfARoleIsSaid(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"bound_cidrs": "10.0.0.0/8", "condition": "true", "require_entity": true}})
	resp := m.must(m.write("roles/r", map[string]any{"bound_cidrs": "\n", "condition": "", "require_entity": false, "ttl": "10m"}))
	require.Equal(t, []string{
		"bound_cidrs is unset now: the role does not ask for it any more",
		"condition is unset now: the role does not ask for it any more",
		"require_entity is unset now: the role does not ask for it any more",
	}, resp.Warnings)
	require.Nil(t, m.must(m.write("roles/r", map[string]any{"ttl": "11m"})))
}
