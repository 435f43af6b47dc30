package backend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// badURLs are none to which a secret may be sent.
var badURLs = []string{
	"http://auth.example.com", "http://10.0.0.1/token", "http://127.0.0.1.example.com/", "ftp://auth.example.com", "javascript:alert(1)",
	"auth.example.com", "//auth.example.com", "https://", "https:///token", "https://ho st/", "https://user:pw@auth.example.com",
	"https://auth.example.com/#x", "https://auth.example.com/?tenant=a#x", "https://auth.example.com/?%zz", "https://169.254.169.254/latest", "https://[fe80::1]/",
	"https://[fd00:ec2::254]/", "https://[::ffff:169.254.169.254]/", "http://169.254.169.254", "https://auth.example.com/\x00",
	"https://auth.example.com/" + strings.Repeat("a", 2100),
}

// badURLsFor are the bad ones of a field: an issuer's name has no query (RFC 8414 2), and
// that of an endpoint (RFC 6749 3.2) asks for nothing that the broker asks for.
func badURLsFor(field string) []string {
	switch field {
	case "issuer", "oidc_discovery_url":
		return append(slices.Clone(badURLs), "https://auth.example.com/?tenant=a")
	case "token_url", "revocation_url", "introspection_url":
		return append(slices.Clone(badURLs), "https://auth.example.com/?p=a&scope=admin", "https://auth.example.com/?CLIENT_ID=a")
	}
	return badURLs
}

func TestURLsOfIssuersAreJudged(t *testing.T) {
	m := newEmptyMount(t, setup{})
	for _, field := range []string{"oidc_discovery_url", "jwks_url"} {
		for _, bad := range badURLsFor(field) {
			within(t, func() {
				_, err := m.write("issuers/i", map[string]any{field: bad, "bound_audiences": "broker"})
				require.Error(t, err, "%s=%s", field, bad)
				requireCode(t, err, fault.InvalidRequest, field)
			})
		}
	}
	require.Empty(t, m.keys("issuers", nil))
}

func TestURLsOfProvidersAreJudged(t *testing.T) {
	m := newEmptyMount(t, setup{})
	for _, field := range []string{"issuer", "token_url", "revocation_url", "introspection_url", "jwks_url"} {
		for _, bad := range badURLsFor(field) {
			fields := m.providerFields(map[string]any{"token_url": "https://auth.example.com/token", "issuer": nil, field: bad})
			within(t, func() {
				_, err := m.write("providers/oauth2/p", fields)
				require.Error(t, err, "%s=%s", field, bad)
				requireCode(t, err, fault.InvalidRequest, field)
			})
		}
	}
	_, err := m.write("providers/oauth2/p", m.providerFields(map[string]any{"issuer": "http://169.254.169.254", "allow_http": true}))
	requireCode(t, err, fault.InvalidRequest)
	require.Empty(t, m.keys("providers", nil))
	require.Empty(t, m.server.Requests())
}

func TestPlainHTTPBeyondLoopbackIsTheOperatorsWord(t *testing.T) {
	m := newEmptyMount(t, setup{})
	fields := m.providerFields(map[string]any{"issuer": nil, "token_url": "http://auth.example.com/token", "allow_http": true})
	m.must(m.write("providers/oauth2/p", fields))
	_, err := m.write("providers/oauth2/p", map[string]any{"allow_http": false})
	requireCode(t, err, fault.InvalidRequest)
}

// discoveryFaults are servers whose metadata cannot be trusted.
func TestDiscoveryIsNotTrusted(t *testing.T) {
	for name, c := range map[string]struct {
		fault authserver.Fault
		code  fault.Code
	}{
		"another issuer":           {authserver.Set("issuer", "https://evil.example.com"), fault.InvalidRequest},
		"no issuer":                {authserver.Drop("issuer"), fault.InvalidRequest},
		"an issuer that is a list": {authserver.Set("issuer", []string{"a"}), fault.InvalidRequest},
		"HTML":                     {authserver.HTML(), fault.InvalidRequest},
		"an endless body":          {authserver.Endless(), fault.InvalidRequest},
		"a redirect":               {authserver.Redirect("https://evil.example.com/"), fault.InvalidRequest},
		"a slow server":            {authserver.Slow(time.Minute), fault.TemporarilyUnavailable},
		"a broken connection":      {authserver.Hangup(), fault.TemporarilyUnavailable},
		"half an answer":           {authserver.Cut(-10), fault.TemporarilyUnavailable},
		"an overloaded server":     {authserver.Busy(time.Minute), fault.TemporarilyUnavailable},
		"no document":              {authserver.Answer(404, "text/plain", "no"), fault.InvalidRequest},
		"an empty document":        {authserver.Answer(200, "application/json", ""), fault.InvalidRequest},
		"null":                     {authserver.Answer(200, "application/json", "null"), fault.InvalidRequest},
		"a plain token endpoint":   {authserver.Set("token_endpoint", "http://auth.example.com/token"), fault.InvalidRequest},
		"a link-local endpoint":    {authserver.Set("revocation_endpoint", "https://169.254.169.254/"), fault.InvalidRequest},
		"an endpoint with a user":  {authserver.Set("introspection_endpoint", "https://u:p@auth.example.com/"), fault.InvalidRequest},
		"an endpoint of no form":   {authserver.Set("token_endpoint", 7), fault.InvalidRequest},
		"no token endpoint":        {authserver.Drop("token_endpoint"), fault.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			m := newEmptyMount(t, setup{})
			m.server.Break(authserver.EndpointMetadata, c.fault)
			m.server.Break(authserver.EndpointOIDC, c.fault)
			within(t, func() {
				_, err := m.write("providers/oauth2/p", m.providerFields(map[string]any{"timeout": 2}))
				requireCode(t, err, c.code)
			})
			require.Empty(t, m.keys("providers", nil), "what was refused is not stored")
			m.requireNothingSecretSent()
		})
	}
}

func TestExpiredTLSAtDiscovery(t *testing.T) {
	m := newEmptyMount(t, setup{server: authserver.Options{ExpiredTLS: true}})
	_, err := m.write("providers/oauth2/p", m.providerFields(nil))
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.Empty(t, m.server.Requests())
}

func (m *mount) requireNothingSecretSent() {
	m.t.Helper()
	for _, r := range m.server.Requests() {
		m.clean("a request for metadata", fmt.Sprint(r.Header, r.Body))
		require.Empty(m.t, r.Header.Get("Authorization"))
	}
}

func TestSecretsGoNowhereElseUnnoticed(t *testing.T) {
	for _, next := range []string{"", nextSecret} {
		m := newMount(t, setup{server: authserver.Options{TLS: true}, provider: map[string]any{"introspection_url": "https://127.0.0.1:1/introspect", "revocation_url": "https://127.0.0.1:1/revoke"}})
		other := authserver.New(t, authserver.Options{TLS: true})
		expired := authserver.New(t, authserver.Options{ExpiredTLS: true})
		secrets := map[string]any{"client_secret": parentSecret}
		if next != "" {
			m.must(m.write("providers/oauth2/p", map[string]any{"client_secret_next": next}))
			secrets["client_secret_next"] = next
		}
		before := m.must(m.read("providers/oauth2/p")).Data
		for _, change := range []map[string]any{
			{"issuer": other.URL},
			{"token_url": "https://other.example.com/token"},
			{"revocation_url": "https://other.example.com/revoke"},
			{"revocation_url": ""},
			{"introspection_url": "https://other.example.com/introspect"},
			{"ca_pem": expired.CAPEM},
			{"ca_pem": ""},
		} {
			attempts := []map[string]any{{}}
			if next != "" {
				attempts = append(attempts, map[string]any{"client_secret": parentSecret}, map[string]any{"client_secret_next": next})
			}
			for _, brought := range attempts {
				fields := maps.Clone(change)
				maps.Copy(fields, brought)
				_, err := m.write("providers/oauth2/p", fields)
				require.Error(t, err, "%v", change)
				requireCode(t, err, fault.InvalidRequest, "again")
				require.Equal(t, before, m.must(m.read("providers/oauth2/p")).Data, "nothing changed")
			}
			fields := maps.Clone(change)
			maps.Copy(fields, secrets)
			m.must(m.write("providers/oauth2/p", fields))
			restored := m.providerFields(map[string]any{
				"token_url": "", "introspection_url": "https://127.0.0.1:1/introspect", "revocation_url": "https://127.0.0.1:1/revoke",
			})
			maps.Copy(restored, secrets)
			m.must(m.write("providers/oauth2/p", restored))
		}
		require.Empty(t, other.LastRequest(authserver.EndpointToken).Path)
	}
}

func TestUpdatesArePartial(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"client_secret_next": nextSecret, "max_ttl": "10m", "assumed_lifetime": "5m", "allowed_roles": "r,s", "rate_limit": 500}})
	fingerprint := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:])
	}
	m.must(m.write("providers/oauth2/p", map[string]any{"timeout": "3s"}))
	data := m.must(m.read("providers/oauth2/p")).Data
	require.Equal(t, fingerprint(parentSecret), data["client_secret_sha256"])
	require.Equal(t, fingerprint(nextSecret), data["client_secret_next_sha256"])
	require.EqualValues(t, 3, data["timeout"])
	require.EqualValues(t, 600, data["max_ttl"])
	m.mustCreds(nil)

	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret_next": "", "max_ttl": "", "assumed_lifetime": "", "allowed_roles": "", "rate_limit": 0, "timeout": 0, "verify": ""}))
	data = m.must(m.read("providers/oauth2/p")).Data
	require.NotContains(t, data, "client_secret_next_sha256")
	require.EqualValues(t, 0, data["max_ttl"])
	require.EqualValues(t, 10, data["timeout"])
	require.Equal(t, []string{"*"}, data["allowed_roles"])
	m.mustCreds(nil)

	_, err := m.write("providers/oauth2/p", map[string]any{"client_secret": ""})
	requireCode(t, err, fault.InvalidRequest, "client_secret")
	m.mustCreds(nil)
	require.Equal(t, 1, m.server.Counts().Requests[authserver.EndpointMetadata], "only a write that names an endpoint discovers again")
}

func TestPrivateKeysArePastedNowhere(t *testing.T) {
	m := newMount(t, setup{})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	private := m.hide(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	bundle := authserver.New(t, authserver.Options{TLS: true}).CAPEM + private
	_, err = m.write("providers/oauth2/p", map[string]any{"ca_pem": bundle, "client_secret": parentSecret})
	requireCode(t, err, fault.InvalidRequest, "ca_pem", "private key")
	_, err = m.write("issuers/i", map[string]any{"jwks_pem": private, "bound_audiences": "broker"})
	requireCode(t, err, fault.InvalidRequest)
	_, err = m.write("issuers/i", map[string]any{"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "ca_pem": bundle, "bound_audiences": "broker", "bound_issuer": m.server.URL})
	requireCode(t, err, fault.InvalidRequest, "ca_pem", "private key")
}

func TestProvidersOfRolesHaveTheirForm(t *testing.T) {
	m := newMount(t, setup{})
	for _, bad := range []string{"", "p", "/p", "oauth2/", "oauth2/../p", "oauth2/p/check", "../provider/oauth2/p", "oauth2/nobody", "github/p", "oauth2/p\n\n", "oauth2/" + strings.Repeat("p", 1000)} {
		_, err := m.write("roles/r", map[string]any{"provider": bad})
		require.Error(t, err, bad)
		requireCode(t, err, fault.InvalidRequest)
	}
	m.mustCreds(nil)
}

func TestEmptyValuesUnsetARolesFields(t *testing.T) {
	m := newMount(t, setup{})
	plain := m.must(m.read("roles/r")).Data
	m.must(m.write("roles/r", map[string]any{
		"mode": "mint", "on_excess": "refuse", "ttl": "5m", "max_ttl": "10m", "default_scopes": "read", "bound_entity_ids": alice,
		"bound_group_names": "ops", "bound_entity_metadata": map[string]any{"team": "payments"}, "bound_cidrs": "10.0.0.0/8",
		"condition": "true", "require_revocable": true, "max_grants_per_entity": 3, "max_issue_rate": 5,
		"authorization_details": []any{map[string]any{"type": "x"}},
	}))
	require.NotEqual(t, plain, m.must(m.read("roles/r")).Data)
	m.must(m.write("roles/r", map[string]any{
		"mode": "", "on_excess": "", "ttl": "", "max_ttl": 0, "default_scopes": "", "bound_entity_ids": []string{}, "bound_group_names": "",
		"bound_entity_metadata": map[string]any{}, "bound_cidrs": "", "condition": "", "require_revocable": false, "max_grants_per_entity": 0,
		"max_issue_rate": 0, "authorization_details": []any{},
	}))
	require.Equal(t, plain, m.must(m.read("roles/r")).Data)
}

func TestFieldsOfLaterVersionsAreRefused(t *testing.T) {
	m := newMount(t, setup{})
	for field, value := range map[string]any{
		"auth_method": "telepathy", "exchange": "barter", "grant": "password", "verify": "guess", "revocation": "sometimes",
		"audience_parameter": "aud", "rotation_period": "1h", "client_id": "line\nend",
	} {
		_, err := m.write("providers/oauth2/p", map[string]any{field: value})
		require.Error(t, err, field)
		requireCode(t, err, fault.InvalidRequest, field)
	}
	for field, value := range map[string]any{"mode": "impersonate", "sharing": "everybody", "on_excess": "ignore", "parameters": map[string]any{"x": "y"}, "permissions": map[string]any{"a": "b"}} {
		_, err := m.write("roles/r", map[string]any{field: value})
		require.Error(t, err, field)
		requireCode(t, err, fault.InvalidRequest, field)
	}
	m.mustCreds(nil)
}

func TestLongDurations(t *testing.T) {
	m := newMount(t, setup{})
	const longest = "9223372036s" // that time.Duration can hold
	for _, c := range []struct{ path, field string }{{"providers/oauth2/p", "timeout"}, {"providers/oauth2/p", "assumed_lifetime"}, {"issuers/i", "clock_skew"}} {
		_, err := m.write(c.path, map[string]any{c.field: longest})
		requireCode(t, err, fault.InvalidRequest)
	}
	m.must(m.write("providers/oauth2/p", map[string]any{"max_ttl": longest}))
	m.must(m.write("roles/r", map[string]any{"ttl": longest, "max_ttl": longest}))
	l := m.mustCreds(map[string]any{"ttl": longest})
	require.Equal(t, time.Hour, l.secret.TTL, "a wish can be any; it is capped by the token's own life")
	m.clock.advance(30 * time.Minute)
	renewed, err := m.renew(l, 9223372036*time.Second)
	require.NoError(t, err)
	require.Equal(t, 30*time.Minute, renewed.TTL)
}

func TestSettingsThatWouldLoseGrantsWaitForTheirEnd(t *testing.T) {
	m := newMount(t, setup{})
	other := authserver.New(t, authserver.Options{}, authserver.Client{ID: "other", Secrets: []string{parentSecret}, Scopes: []string{"read", "write"}})
	l := m.mustCreds(nil)
	for _, change := range []map[string]any{
		{"client_id": "other"},
		{"issuer": other.URL, "client_id": "other"},
		{"issuer": other.URL},
		{"revocation_url": m.server.URL + "/revoke2"},
		{"token_url": m.server.URL + "/token2", "issuer": ""},
	} {
		change["client_secret"] = parentSecret
		_, err := m.write("providers/oauth2/p", change)
		require.Error(t, err, "%v", change)
		requireCode(t, err, fault.InvalidRequest, "live grants")
	}
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret, "introspection_url": m.server.URL + "/introspect2"}))
	require.NoError(t, m.revoke(l))
	m.must(m.write("providers/oauth2/p", map[string]any{"issuer": other.URL, "client_id": "other", "client_secret": parentSecret}))
	l2 := m.mustCreds(nil)
	require.True(t, other.Active(l2.token))

	m.clock.advance(time.Hour + 2*time.Minute) // its end makes it harmless, too
	m.must(m.write("providers/oauth2/p", map[string]any{"issuer": m.server.URL, "client_id": parentClient, "client_secret": parentSecret}))
	m.mustCreds(nil)
}

// Where the issuer itself has moved its revocation endpoint, live grants are no reason to
// stay: they die at the new one.
func TestAKillFollowsWhereTheIssuerHasMoved(t *testing.T) {
	m := newMount(t, setup{})
	l := m.mustCreds(nil)
	const moved = "/mtls/revoke" // which the server takes for /revoke
	for _, e := range []authserver.Endpoint{authserver.EndpointMetadata, authserver.EndpointOIDC} {
		m.server.Break(e, authserver.Set("revocation_endpoint", m.server.URL+moved))
	}
	_, err := m.write("providers/oauth2/p", map[string]any{"issuer": m.server.URL})
	requireCode(t, err, fault.InvalidRequest, "write client_secret again")
	m.must(m.write("providers/oauth2/p", map[string]any{"issuer": m.server.URL, "client_secret": parentSecret}))
	require.NoError(t, m.revoke(l))
	require.False(t, m.server.Active(l.token))
	var at []string
	for _, r := range m.server.Requests() {
		if strings.HasSuffix(r.Path, "/revoke") {
			at = append(at, r.Path)
		}
	}
	require.Equal(t, []string{moved}, at)
}

// What an issuer has moved to is where the grants made since then die, so that going back
// to where he was before, by the operator's word, waits for their end.
func TestTheWayBackWaitsForTheGrants(t *testing.T) {
	m := newMount(t, setup{})
	for _, e := range []authserver.Endpoint{authserver.EndpointMetadata, authserver.EndpointOIDC} {
		m.server.Break(e, authserver.Set("revocation_endpoint", m.server.URL+"/mtls/revoke"))
	}
	m.must(m.write("providers/oauth2/p", m.providerFields(nil)))
	l := m.mustCreds(nil)
	_, err := m.write("providers/oauth2/p", m.providerFields(map[string]any{"revocation_url": m.server.URL + "/revoke"}))
	requireCode(t, err, fault.InvalidRequest, "live grants")
	m.must(m.write("providers/oauth2/p", map[string]any{"disabled": true}))
	require.NoError(t, m.revoke(l))
	require.False(t, m.server.Active(l.token))
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"revocation_url": m.server.URL + "/revoke", "disabled": false})))

	// And the operator's own place is given up only when nothing lives there any more.
	l = m.mustCreds(nil)
	_, err = m.write("providers/oauth2/p", m.providerFields(map[string]any{"revocation_url": ""}))
	requireCode(t, err, fault.InvalidRequest, "live grants")
	require.NoError(t, m.revoke(l))
	require.False(t, m.server.Active(l.token))
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"revocation_url": ""})))
}

func TestDeletingAProvider(t *testing.T) {
	m := newMount(t, setup{})
	m.mustCreds(nil)
	_, err := m.delete("providers/oauth2/p", nil)
	requireCode(t, err, fault.InvalidRequest, "1 grants", "force=true")
	_, err = m.delete("providers/oauth2/p", map[string]any{"force": "false"})
	requireCode(t, err, fault.InvalidRequest)

	m.server.Break(authserver.EndpointRevoke, authserver.Busy(time.Second))
	resp := m.must(m.delete("providers/oauth2/p", map[string]any{"force": "true"}))
	require.EqualValues(t, 1, resp.Data["pending"])
	require.NotEmpty(t, resp.Warnings)
	require.Equal(t, "deleting", m.must(m.read("providers/oauth2/p")).Data["health"])
	_, err = m.creds(nil)
	requireCode(t, err, fault.AccessDenied, "disabled")
	require.Len(t, m.server.Live(), 1)

	m.sweep()
	require.Equal(t, []string{"oauth2/p"}, m.keys("providers", nil), "it stays until none is pending")
	m.start()
	m.server.Break(authserver.EndpointRevoke, nil)
	m.clock.advance(time.Minute)
	m.sweep()
	require.Empty(t, m.server.Live())
	require.Empty(t, m.keys("providers", nil))
	require.Nil(t, m.must(m.delete("providers/oauth2/p", nil)), "deleting what is gone is no error")
}

func TestForceDeletesAtOnceWhatCanBeKilled(t *testing.T) {
	m := newMount(t, setup{})
	for range 40 {
		m.mustCreds(nil)
	}
	resp := m.must(m.delete("providers/oauth2/p", map[string]any{"force": true}))
	require.EqualValues(t, 40, resp.Data["revoked"])
	require.Empty(t, m.server.Live())
	require.Empty(t, m.keys("providers", nil))
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "does not exist")
}

func TestConcurrentWritesOfAProvider(t *testing.T) {
	m := newMount(t, setup{})
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, errs[i] = m.write("providers/oauth2/p", map[string]any{"allowed_roles": []string{"r", fmt.Sprint("role", i)}, "max_ttl": 600 + i})
		}()
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		requireCode(t, err, fault.InvalidRequest, "changed by somebody else")
	}
	require.Positive(t, won)
	data := m.must(m.read("providers/oauth2/p")).Data
	roles, _ := data["allowed_roles"].([]string)
	require.Len(t, roles, 2)
	require.Equal(t, roles[1], fmt.Sprint("role", data["max_ttl"].(int64)-600), "one write stands whole")
	m.mustCreds(nil)
}

func TestConcurrentCreationOfAProvider(t *testing.T) {
	m := newEmptyMount(t, setup{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := m.write("providers/oauth2/p", m.providerFields(nil)); err != nil {
				requireCode(t, err, fault.InvalidRequest, "changed by somebody else")
			}
		}()
	}
	wg.Wait()
	m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	m.mustCreds(nil)
}

func TestAWriteDoesNotUndoARotation(t *testing.T) {
	// The server replaces the refresh token while an operator's write of another
	// secret is between reading the provider and storing it.
	m := newEmptyMount(t, setup{server: authserver.Options{RotateRefresh: true}})
	first := m.hide(m.server.IssueRefreshToken(parentClient))
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"grant": "refresh_token", "refresh_token": first})))
	m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	before := m.must(m.read("providers/oauth2/p")).Data["refresh_token_sha256"]

	reads := 0
	m.storage.on(func(op, key string) error {
		if op != "get" || key != "provider/oauth2/p" {
			return nil
		}
		if reads++; reads == 3 { // after the existence check's and the handler's own
			m.storage.on(nil)
			m.rotateBehindTheBack(t)
		}
		return nil
	})
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret}))
	require.NotEqual(t, before, m.must(m.read("providers/oauth2/p")).Data["refresh_token_sha256"], "the rotated token was lost")
	m.mustCreds(nil)
	m.mustCreds(nil)
}

// rotateBehindTheBack stores the next refresh token as the provider itself does,
// without the lock that the write under way holds.
func (m *mount) rotateBehindTheBack(t *testing.T) {
	t.Helper()
	entry, err := m.b.providers.Read(t.Context(), "oauth2/p")
	require.NoError(t, err)
	resp, err := http.PostForm(m.server.Endpoint(authserver.EndpointToken), map[string][]string{
		"grant_type": {"refresh_token"}, "refresh_token": {entry.Secrets["refresh_token"]}, "client_id": {parentClient}, "client_secret": {parentSecret},
	})
	require.NoError(t, err)
	defer resp.Body.Close()
	var body map[string]any
	require.True(t, decodesTo(readAll(t, resp.Body), &body))
	m.lost++ // the child of this refresh is nobody's
	entry.Secrets["refresh_token"], _ = body["refresh_token"].(string)
	m.putProvider("oauth2/p", entry)
}

// putProvider stores a provider as another node does, which tells this one nothing yet.
func (m *mount) putProvider(ref string, entry *downstream.Entry) {
	m.t.Helper()
	raw, err := stored.Entry(form.Kind{Name: "provider"}, downstream.StoragePrefix+ref, entry)
	require.NoError(m.t, err)
	require.NoError(m.t, m.storage.Put(m.t.Context(), raw))
}

func TestRotatingTheClientSecret(t *testing.T) {
	m := newMount(t, setup{})
	_, err := m.write("providers/oauth2/p/rotate", nil)
	requireCode(t, err, fault.InvalidRequest, "client_secret_next")

	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret_next": nextSecret}))
	_, err = m.write("providers/oauth2/p/rotate", nil)
	requireCode(t, err, fault.ParentRefused, "client_secret stays")
	m.mustCreds(nil)

	m.server.SetClient(authserver.Client{ID: parentClient, Secrets: []string{parentSecret, nextSecret}, Scopes: []string{"read", "write"}})
	m.must(m.write("providers/oauth2/p/rotate", nil))
	m.server.SetClient(authserver.Client{ID: parentClient, Secrets: []string{nextSecret}, Scopes: []string{"read", "write"}})
	l := m.mustCreds(nil)
	require.NoError(t, m.revoke(l))
	require.NotContains(t, m.must(m.read("providers/oauth2/p")).Data, "client_secret_next_sha256")
}

func TestCheckLeavesNothingAlive(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("providers/oauth2/p/check", nil))
	require.Empty(t, m.server.Live())

	m.server.Break(authserver.EndpointRevoke, authserver.Hangup())
	m.must(m.write("providers/oauth2/p/check", nil))
	m.server.Break(authserver.EndpointRevoke, authserver.Busy(time.Second))
	m.must(m.write("providers/oauth2/p/check", nil))
	require.Len(t, m.allGrants(), 2, "one is dead without the broker's knowing it")
	require.Len(t, m.server.Live(), 1)
	m.clock.advance(time.Minute)
	m.heal()
	m.sweep()
	require.Empty(t, m.server.Live())

	m.server.SetClient(authserver.Client{ID: parentClient, Secrets: []string{"another"}})
	_, err := m.write("providers/oauth2/p/check", nil)
	requireCode(t, err, fault.ParentRefused, "refuses the parent credential")
	m.server.Break(authserver.EndpointToken, authserver.HTML())
	_, err = m.write("providers/oauth2/p/check", nil)
	requireCode(t, err, fault.ProviderViolation)
}

func TestCheckByACallerWhoHangsUp(t *testing.T) {
	for _, path := range []string{"providers/oauth2/p/check", "providers/oauth2/p/rotate"} {
		m := newMount(t, setup{provider: map[string]any{"client_secret_next": parentSecret + "-2"}, client: authserver.Client{
			ID: parentClient, Secrets: []string{parentSecret, parentSecret + "-2"}, Scopes: []string{"read", "write"},
		}})
		m.hangUpDuring(call{op: logical.UpdateOperation, path: path})
		m.balance()
		require.Empty(t, m.server.Live(), "a token that a check minted is killed, also when nobody waits for the answer")
	}
}
