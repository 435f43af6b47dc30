package backend

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// entra is a provider whose server trusts the broker's issuer and looks at another
// name than its own. Nothing is asked of it here.
func entra() map[string]any {
	return map[string]any{
		"token_url": "https://login.entra.test/tenant/oauth2/v2.0/token", "client_id": "app",
		"auth_method": "private_key_jwt", "assertion_signer": "broker", "assertion_audience": "api://AzureADTokenExchange", "verify_connection": false,
	}
}

// A child for any of these could be a client assertion of the broker's, a grant of
// jwt-bearer or a subject token, at the server of a provider.
func TestNoRoleSignsForWhereTheBrokerAuthenticates(t *testing.T) {
	m := newJWTMount(t, nil)
	m.must(m.write("providers/oauth2/entra", entra()))
	m.must(m.write("providers/oauth2/off", map[string]any{"token_url": "https://off.test/token", "client_id": "app", "client_secret": parentSecret, "disabled": true, "verify_connection": false}))
	for _, audience := range []string{
		m.server.URL, m.server.URL + "/", strings.ToUpper(m.server.URL), m.server.URL + "/token", m.server.URL + "//%74oken?x=y",
		"api://AzureADTokenExchange", "api://azureadtokenexchange/",
		"https://login.entra.test/tenant/oauth2/v2.0/token", "https://login.entra.test/tenant", "https://login.entra.test/tenant/", "https://login.entra.test", "http://login.entra.test.:80",
		"https://off.test/token", "https://off.test",
		ownURL, ownURL + "/", ownURL + "/oauth/introspect", ownURL + "/oauth/token", strings.ToUpper(ownURL), "https://vault.test:8200/v1/broker/.", "https://vault.test:8200/v1/broker/../broker",
	} {
		for _, fields := range []map[string]any{
			{"audiences": []any{jwtAPI, audience}},
			{"audiences": jwtAPI, "resources": []any{audience}},
			{"audiences": []any{jwtAPI, audience}, "mode": "exchange", "subject_issuers": "idp"},
		} {
			fields["provider"] = "jwt/p"
			_, err := m.write("roles/new", fields)
			require.Error(t, err, audience)
			requireCode(t, err, fault.InvalidRequest, "must not cover")
		}
		_, err := m.b.signToken(t.Context(), keyring.Child, map[string]any{"aud": []string{jwtAPI, audience}, "exp": m.clock.Now().Add(time.Minute).Unix()})
		require.Equal(t, fault.InvalidTarget, fault.CodeOf(err), audience)
	}
	for _, audience := range []string{"https://login.entra.test/tenant/api", "https://login.entra.test:8443", "api://other", "https://vault.test:8200/v1/brokers", "https://vault.test:8200"} {
		m.must(m.write("roles/new", map[string]any{"provider": "jwt/p", "audiences": []any{jwtAPI, audience}}))
	}
	for _, pattern := range []string{"https://**", "api://*", "https://*.entra.test"} {
		_, err := m.write("roles/new", map[string]any{"provider": "jwt/p", "audiences": pattern})
		requireCode(t, err, fault.InvalidRequest, "must not cover")
	}
	// What is for the broker alone it may sign.
	for _, purpose := range []keyring.Purpose{keyring.Actor, keyring.Assertion} {
		_, err := m.b.signToken(t.Context(), purpose, map[string]any{"aud": m.server.URL, "exp": m.clock.Now().Add(time.Minute).Unix()})
		require.NoError(t, err)
	}
	for _, odd := range []any{nil, 1, []any{jwtAPI}, []string{}} {
		_, err := m.b.signToken(t.Context(), keyring.Child, map[string]any{"aud": odd, "exp": m.clock.Now().Add(time.Minute).Unix()})
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
	}
}

// asks is whether a role of newJWTMount's gives alice a token.
func (m *mount) asks(role string, data map[string]any) error {
	if role != "j" {
		data["subject_token"] = m.subjectToken(newID(m.t), nil)
	}
	_, err := m.credsBy(call{path: "creds/" + role, entity: alice, data: data})
	return err
}

func TestAProviderThatComesAfterTheRole(t *testing.T) {
	m := newJWTMount(t, nil)
	m.must(m.write("roles/j", map[string]any{"audiences": jwtAPI + ",https://login.entra.test/tenant,api://AzureADTokenExchange"}))
	m.must(m.write("roles/x", map[string]any{"audiences": jwtAPI + ",https://login.*.test/*"}))
	m.must(m.write("roles/other", map[string]any{"provider": "jwt/p", "audiences": "https://login.entra.test/tenant/api"}))
	tenant := func() map[string]any { return map[string]any{"audiences": "https://login.entra.test/tenant"} }
	for _, role := range []string{"j", "x"} {
		require.NoError(t, m.asks(role, tenant()))
	}

	resp := m.must(m.write("providers/oauth2/entra", entra()))
	require.Len(t, resp.Warnings, 1)
	for _, words := range []string{"providers/oauth2/entra", "j (", "x (https://login.entra.test)"} {
		require.True(t, faulttest.Says(resp.Warnings[0], words), "%q does not say %q", resp.Warnings[0], words)
	}
	require.NotContains(t, resp.Warnings[0], "other")
	require.Nil(t, m.must(m.write("providers/oauth2/entra", map[string]any{"max_ttl": "1h"})), "it reserves what it did before")

	refuses := func() {
		t.Helper()
		for _, role := range []string{"j", "x"} {
			requireCode(t, m.asks(role, tenant()), fault.InvalidTarget, `"https://login.entra.test/tenant" is no audience`)
			require.NoError(t, m.asks(role, map[string]any{"audiences": jwtAPI}))
		}
		requireCode(t, m.asks("j", map[string]any{}), fault.InvalidTarget, "AzureADTokenExchange")
		requireCode(t, m.asks("x", map[string]any{"audiences": "https://login.ENTRA.test/tenant"}), fault.InvalidTarget)
		_, err := m.write("roles/j", map[string]any{"ttl": "5m"})
		requireCode(t, err, fault.InvalidRequest, "must not cover")
		told := m.must(m.do(call{op: logical.UpdateOperation, path: "roles/j/explain", entity: alice, data: tenant()}))
		require.Equal(t, false, told.Data["allowed"])
		require.NotEmpty(t, told.Data["reasons"])
		require.True(t, strings.HasPrefix(told.Data["reasons"].([]string)[0], "invalid_target: "), "%v", told.Data["reasons"])
	}
	refuses()
	m.must(m.write("providers/oauth2/entra", map[string]any{"disabled": true}))
	refuses()
	m.start()
	refuses()
	m.must(m.delete("providers/oauth2/entra", nil))
	require.NoError(t, m.asks("j", tenant()), "its server is no provider's any more")
}

// Another node writes the provider, and this one is told of the key alone. It is one
// of an earlier version's, which knew nothing of what it reserves.
func TestAProviderThatAnotherNodeWrote(t *testing.T) {
	m := newJWTMount(t, nil)
	m.must(m.write("roles/j", map[string]any{"audiences": jwtAPI + ",https://as.test,https://as.test/assertions"}))
	everything := map[string]any{}
	require.NoError(t, m.asks("j", everything))
	fields := json.RawMessage(`{"issuer":"https://as.test","client_id":"app","auth_method":"private_key_jwt","assertion_audience":"https://as.test/assertions"}`)
	entry, err := logical.StorageEntryJSON(downstream.StoragePrefix+"oauth2/elsewhere", downstream.Entry{
		Fields: fields, Version: 1, Pinned: provider.Pinned{
			Destinations: []string{"assertion for https://as.test/assertions", "https://as.test/token"}, Account: "a",
			Data: json.RawMessage(`{"issuer":"https://as.test","token":"https://as.test/token"}`),
		},
	})
	require.NoError(t, err)
	require.NoError(t, m.storage.Put(t.Context(), entry))
	m.b.invalidate(t.Context(), entry.Key)
	for _, audience := range []string{"https://as.test", "https://as.test/assertions"} {
		requireCode(t, m.asks("j", map[string]any{"audiences": audience}), fault.InvalidTarget, audience)
	}
	// One that cannot be opened keeps what was pinned.
	_, err = m.b.providers.Open(t.Context(), "oauth2/elsewhere")
	require.Error(t, err, "it has no key")
	require.NoError(t, m.storage.Delete(t.Context(), entry.Key))
	entry, err = logical.StorageEntryJSON(downstream.StoragePrefix+"future/type", downstream.Entry{Version: 1, Pinned: provider.Pinned{Destinations: []string{"https://as.test/assertions"}}})
	require.NoError(t, err)
	require.NoError(t, m.storage.Put(t.Context(), entry))
	m.b.invalidate(t.Context(), entry.Key)
	m.b.invalidate(t.Context(), downstream.StoragePrefix+"oauth2/elsewhere")
	requireCode(t, m.asks("j", map[string]any{"audiences": "https://as.test/assertions"}), fault.InvalidTarget)
	require.NoError(t, m.asks("j", map[string]any{"audiences": "https://as.test"}))
	require.NoError(t, m.storage.Delete(t.Context(), entry.Key))
}

// A type that reserves nothing has a parent that is no JWT of the broker's: where it
// sends that parent the broker's children may be good, as at a Kubernetes API server.
func TestATypeSaysWhatItReserves(t *testing.T) {
	m := newJWTMount(t, nil)
	entry, err := m.b.providers.Read(t.Context(), "jwt/p")
	require.NoError(t, err)
	entry.Pinned.Destinations = []string{"https://kubernetes.test:6443"}
	require.NoError(t, m.b.providers.Write(t.Context(), "jwt/p", entry))
	m.must(m.write("roles/k", map[string]any{"provider": "jwt/p", "audiences": "https://kubernetes.test:6443"}))
	require.Equal(t, []string{"https://kubernetes.test:6443"}, m.signedTo(alice, "k", nil).data["audiences"])
}

// A server may sign tokens for an API of its own that is called like its issuer. It
// knows them from its clients' assertions; the broker's are another matter.
func TestAnIssuerMaySignForItself(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"audience_parameter": "audience"}})
	m.must(m.write("roles/own", map[string]any{"provider": "oauth2/p", "audiences": m.server.URL}))
	_, err := m.write("roles/own", map[string]any{"audiences": m.server.URL + "/token/"})
	requireCode(t, err, fault.InvalidRequest, "an endpoint of a provider")
}

func TestWhatIsReservedIsNotRenewedNorShared(t *testing.T) {
	m := newJWTMount(t, nil)
	audience := map[string]any{"audiences": "https://login.entra.test"}
	m.must(m.write("roles/j", map[string]any{"audiences": "https://login.entra.test", "sharing": "entity"}))
	first := m.signedTo(alice, "j", audience)
	second := m.signedTo(alice, "j", audience)
	require.Equal(t, first.token, second.token)
	m.must(m.write("providers/oauth2/entra", entra()))
	_, err := m.renew(first, time.Minute)
	requireCode(t, err, fault.InvalidTarget, "is no audience for a child")
	requireCode(t, m.asks("j", audience), fault.InvalidTarget)
}

func TestConfigNamesTheRolesThatItsIssuerEnds(t *testing.T) {
	m := newJWTMount(t, nil)
	m.must(m.write("roles/j", map[string]any{"audiences": "https://new.test/broker/api"}))
	resp := m.must(m.write("config", map[string]any{"issuer": "https://new.test/broker"}))
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "j (https://new.test/broker)")
	requireCode(t, m.asks("j", map[string]any{}), fault.InvalidTarget)
}

// Signing reads nothing of storage: what is reserved is in memory.
func TestAnIssueThatIsSignedIsOneWrite(t *testing.T) {
	m := newJWTMount(t, nil)
	m.must(m.write("providers/oauth2/entra", entra()))
	m.signedTo(alice, "j", nil)
	var stored []string
	m.storage.on(func(op, _ string) error {
		stored = append(stored, op)
		return nil
	})
	m.signedTo(alice, "j", nil)
	m.storage.on(nil)
	require.Equal(t, []string{"put"}, stored)
}

// A stored provider that says nothing any more stops what the broker signs, because it
// may reserve anything; other providers' children it does not concern.
func TestAProviderThatCannotBeReadStopsNoOther(t *testing.T) {
	m := newJWTMount(t, nil)
	key := downstream.StoragePrefix + "oauth2/broken"
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}))
	m.b.invalidate(t.Context(), key)
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	requireCode(t, m.asks("j", map[string]any{}), fault.TemporarilyUnavailable, "providers/oauth2/broken cannot be read")
	require.NoError(t, m.storage.Delete(t.Context(), key))
	m.b.invalidate(t.Context(), key)
	require.NoError(t, m.asks("j", map[string]any{}))
}

// A write that storage reports as failed may have been made.
func TestAWriteThatHalfFailedReservesToo(t *testing.T) {
	m := newJWTMount(t, nil)
	m.must(m.write("roles/j", map[string]any{"audiences": "https://login.entra.test"}))
	require.NoError(t, m.asks("j", map[string]any{}))
	m.must(m.write("providers/oauth2/entra", entra()))
	entry, err := m.storage.Get(t.Context(), downstream.StoragePrefix+"oauth2/entra")
	require.NoError(t, err)
	m.must(m.delete("providers/oauth2/entra", nil))
	require.NoError(t, m.asks("j", map[string]any{}))
	m.storage.on(func(op, key string) error {
		if op == "put" && key == entry.Key {
			require.NoError(t, m.storage.InmemStorage.Put(t.Context(), entry))
			return errStorage
		}
		return nil
	})
	_, err = m.write("providers/oauth2/entra", entra())
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.storage.on(nil)
	requireCode(t, m.asks("j", map[string]any{}), fault.InvalidTarget)
}
