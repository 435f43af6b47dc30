package backend

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// during runs other when storage is about to do op on key for the first time from
// now on, and lets that go on as soon as other is done, or waits for it.
func (m *mount) during(op, key string, other func()) (wait func()) {
	done := make(chan struct{})
	var once sync.Once
	m.storage.on(func(o, k string) error {
		if o == op && k == key {
			once.Do(func() {
				go func() {
					defer close(done)
					other()
				}()
				select {
				case <-done:
				case <-time.After(200 * time.Millisecond): // it waits for us
				}
			})
		}
		return nil
	})
	return func() {
		m.t.Helper()
		within(m.t, func() { <-done })
		m.storage.on(nil)
	}
}

func TestAnUpdateDoesNotResurrectADeletedRole(t *testing.T) {
	m := newMount(t, setup{})
	wait := m.during("put", "role/r", func() {
		_, err := m.delete("roles/r", nil)
		assert.NoError(t, err)
	})
	m.must(m.write("roles/r", map[string]any{"ttl": "5m"}))
	wait()
	require.Nil(t, m.must(m.read("roles/r")), "the deletion came after the update or before it, and not in its middle")
	_, err := m.creds(nil)
	requireCode(t, err, fault.InvalidRequest, "there is no role")
}

func TestConcurrentWritesOfAnIssuerLoseNothing(t *testing.T) {
	m := newMount(t, setup{})
	fields := map[string]any{"oidc_discovery_url": m.server.URL, "bound_audiences": "broker"}
	for what, other := range map[string]func(){
		"another write": func() {
			_, err := m.write("issuers/i", map[string]any{"bound_audiences": "narrower"})
			assert.NoError(t, err)
		},
		"a deletion": func() {
			_, err := m.delete("issuers/i", nil)
			assert.NoError(t, err)
		},
		"a deletion and another of that name": func() {
			_, err := m.delete("issuers/i", nil)
			assert.NoError(t, err)
			_, err = m.write("issuers/i", map[string]any{"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": "https://other.test", "bound_audiences": "other"})
			assert.NoError(t, err)
		},
	} {
		t.Run(what, func(t *testing.T) {
			m.must(m.delete("issuers/i", nil))
			m.must(m.write("issuers/i", fields))
			m.server.Break(authserver.EndpointOIDC, authserver.Once(authserver.Before(other)))
			_, err := m.write("issuers/i", map[string]any{"oidc_discovery_url": m.server.URL, "clock_skew": "7s"})
			requireCode(t, err, fault.InvalidRequest, "changed by somebody else")
			after := m.must(m.read("issuers/i"))
			if what == "a deletion" {
				require.Nil(t, after)
				return
			}
			require.NotEqual(t, []string{"broker"}, after.Data["bound_audiences"])
			require.NotEqualValues(t, 7, after.Data["clock_skew"])
		})
	}
}

// TestAWriteDoesNotMixTwoProvidersOfOneName: the secret of the one must not go to the
// endpoints of the other.
func TestAWriteDoesNotMixTwoProvidersOfOneName(t *testing.T) {
	m := newMount(t, setup{})
	other := authserver.New(t, authserver.Options{Now: m.clock.Now}, authserver.Client{ID: "other", Secrets: []string{nextSecret}, Scopes: []string{"read"}})
	m.server.Break(authserver.EndpointMetadata, authserver.Once(authserver.Before(func() {
		_, err := m.delete("providers/oauth2/p", nil)
		assert.NoError(t, err)
		_, err = m.write("providers/oauth2/p", map[string]any{"issuer": other.URL, "client_id": "other", "client_secret": nextSecret})
		assert.NoError(t, err)
	})))
	_, err := m.write("providers/oauth2/p", map[string]any{"issuer": m.server.URL, "timeout": 21})
	requireCode(t, err, fault.InvalidRequest, "changed by somebody else")
	shown := m.must(m.read("providers/oauth2/p")).Data
	require.Equal(t, other.URL, shown["issuer"])
	m.must(m.delete("providers/oauth2/p", nil))
	m.must(m.write("providers/oauth2/p", m.providerFields(nil)))
}

// TestADeletionTakesNoLaterWriteAlong: what was written after a provider was judged
// to have no grants is another provider.
func TestADeletionTakesNoLaterWriteAlong(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	m.server.Break(authserver.EndpointRevoke, authserver.Once(authserver.Before(func() {
		// It is being killed, and somebody wants the provider back.
		_, err := m.write("providers/oauth2/p", map[string]any{"disabled": false, "timeout": 21})
		assert.NoError(t, err)
	})))
	_, err := m.delete("providers/oauth2/p", map[string]any{"force": true})
	requireCode(t, err, fault.InvalidRequest, "changed by somebody else")
	require.False(t, m.server.Active(l.token))
	require.EqualValues(t, 21, m.must(m.read("providers/oauth2/p")).Data["timeout"])
}

// TestAWriteThatFailedIsNotForgotten: a storage may fail and have written all the
// same; what is in memory must not go on without it.
func TestAWriteThatFailedIsNotForgotten(t *testing.T) {
	m := newMount(t, setup{})
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	m.must(m.write("issuers/i", map[string]any{"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": m.server.URL, "bound_audiences": "broker"}))
	_, err := m.b.issuers.opened(t.Context(), "i")
	require.NoError(t, err)
	for _, c := range []call{
		{op: logical.UpdateOperation, path: "revoke/role/r", data: map[string]any{"freeze": true}},
		{op: logical.DeleteOperation, path: "roles/r"},
		{op: logical.DeleteOperation, path: "issuers/i"},
		{op: logical.DeleteOperation, path: "providers/oauth2/p"},
	} {
		m.storage.on(func(op, key string) error {
			switch {
			case op == "delete":
				require.NoError(t, m.storage.InmemStorage.Delete(t.Context(), key))
			case op == "put" && strings.HasPrefix(key, ending.FrozenPrefix):
				other := ending.NewFreezer(&m.storage.InmemStorage, m.clock.Now)
				require.NoError(t, other.Freeze(t.Context(), thingOf("role/r"), "test"))
			default:
				return nil
			}
			return errStorage
		})
		_, err := m.do(c)
		requireCode(t, err, fault.TemporarilyUnavailable)
		m.storage.on(nil)
		_, err = m.creds(nil)
		if c.path == "roles/r" {
			requireCode(t, err, fault.InvalidRequest, "there is no role")
		} else if c.op == logical.UpdateOperation {
			requireCode(t, err, fault.AccessDenied, "frozen")
		}
	}
	_, err = m.b.issuers.opened(t.Context(), "i")
	require.ErrorIs(t, err, stored.ErrAbsent)
	_, err = m.b.providers.Open(t.Context(), "oauth2/p")
	require.ErrorIs(t, err, stored.ErrAbsent)
}

// TestADeletedProviderIsSaidToBeGone, whether or not what was compiled against it is in
// memory.
func TestADeletedProviderIsSaidToBeGone(t *testing.T) {
	m := newMount(t, setup{})
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	m.must(m.delete("providers/oauth2/p", nil))
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "an operator must write providers/oauth2/p")
	m.start()
	_, err = m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "an operator must write providers/oauth2/p")
}

// TestGrantsDieByADeletedRoleAlone, and by nothing else that is wrong with a role.
func TestGrantsDieByADeletedRoleAlone(t *testing.T) {
	stored := func(value string) func(m *mount) {
		return func(m *mount) {
			require.NoError(m.t, m.storage.Put(m.t.Context(), &logical.StorageEntry{Key: "role/r", Value: []byte(value)}))
		}
	}
	for what, trouble := range map[string]func(m *mount){
		"it cannot be decoded":           stored("{"),
		"it is no role any more":         stored(`{"provider":"oauth2/p","mode":"impersonate"}`),
		"its condition does not compile": stored(`{"provider":"oauth2/p","mode":"mint","on_excess":"strip","scopes":["read","write"],"condition":"nobody.knows"}`),
		"its provider is another type's": stored(`{"provider":"gone/p","mode":"mint","on_excess":"strip","scopes":["read","write"]}`),
		"its provider does not exist":    stored(`{"provider":"oauth2/gone","mode":"mint","on_excess":"strip","scopes":["read","write"]}`),
		"its provider does not fit":      stored(`{"provider":"oauth2/p","mode":"mint","on_excess":"strip","scopes":["read","write"],"permissions":{"a":"b"}}`),
		"its provider cannot be opened": func(m *mount) {
			entry, err := m.b.providers.Read(m.t.Context(), "oauth2/p")
			require.NoError(m.t, err)
			entry.Settings.CAPEM = "no certificate"
			m.putProvider("oauth2/p", entry)
		},
	} {
		t.Run(what, func(t *testing.T) {
			m := newMount(t, setup{})
			l, err := m.credsBy(call{entity: alice})
			require.NoError(t, err)
			before := map[string]*logical.StorageEntry{"role/r": m.storedAt("role/r"), "provider/oauth2/p": m.storedAt("provider/oauth2/p")}
			trouble(m)
			m.start()
			m.sweep()
			m.waitForKills()
			require.True(t, m.server.Active(l.token))
			_, err = m.renew(l, time.Minute)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "does not exist any more", "the role is still there")
			for _, entry := range before {
				require.NoError(t, m.storage.Put(t.Context(), entry))
			}
			m.start()
			m.must(m.delete("roles/r", nil))
			_, err = m.renew(l, time.Minute)
			requireCode(t, err, fault.AccessDenied, "does not exist any more")
			m.sweep()
			m.waitForKills()
			require.False(t, m.server.Active(l.token))
		})
	}
}
