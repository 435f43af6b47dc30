package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
)

// ownURL is the broker's own issuer in these tests.
const ownURL = "https://vault.test:8200/v1/broker"

// newIssuingMount is a mount whose issuer is ownURL.
func newIssuingMount(t testing.TB, more map[string]any) *mount {
	t.Helper()
	m := newMount(t, setup{})
	fields := map[string]any{"issuer": ownURL}
	for name, value := range more {
		fields[name] = value
	}
	m.must(m.write("config", fields))
	return m
}

func (m *mount) claims(life time.Duration) map[string]any {
	return map[string]any{"sub": alice, "aud": "https://api.test", "exp": m.clock.Now().Add(life).Unix()}
}

func (m *mount) sign(p keyring.Purpose, life time.Duration) string {
	m.t.Helper()
	token, err := m.b.signToken(context.Background(), p, m.claims(life))
	require.NoError(m.t, err)
	return token
}

// published is the key set as its readers get it.
func (m *mount) published() *jose.JSONWebKeySet {
	m.t.Helper()
	resp := m.must(m.read(".well-known/jwks.json"))
	require.Equal(m.t, "public, max-age=300", resp.Data[logical.HTTPCacheControlHeader])
	require.Equal(m.t, "application/json", resp.Data[logical.HTTPContentType])
	raw, ok := resp.Data[logical.HTTPRawBody].([]byte)
	require.True(m.t, ok, "over the plugin protocol only bytes arrive as they are")
	require.NotContains(m.t, string(raw), `"d"`)
	var set jose.JSONWebKeySet
	require.NoError(m.t, json.Unmarshal(raw, &set))
	return &set
}

func kidOf(t testing.TB, token string) string {
	t.Helper()
	parsed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	require.NoError(t, err)
	return parsed.Signatures[0].Protected.KeyID
}

// serve is Vault's HTTP server in front of the mount's public paths.
func (m *mount) serve() (issuer string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := m.read(strings.TrimPrefix(r.URL.Path, "/v1/broker/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body, _ := resp.Data[logical.HTTPRawBody].([]byte)
		_, _ = w.Write(body)
	}))
	m.t.Cleanup(server.Close)
	return server.URL + "/v1/broker"
}

// TestVerifiersFindTheKeysByDiscovery with coreos/go-oidc, which is also what
// Kubernetes' API server verifies with.
func TestVerifiersFindTheKeysByDiscovery(t *testing.T) {
	for _, alg := range keyring.Algorithms() {
		t.Run(alg, func(t *testing.T) {
			m := newMount(t, setup{})
			issuer := m.serve()
			m.must(m.write("config", map[string]any{"issuer": issuer, "signing_algorithm": alg}))
			provider, err := oidc.NewProvider(t.Context(), issuer)
			require.NoError(t, err)
			verifier := provider.Verifier(&oidc.Config{ClientID: "https://api.test", Now: m.clock.Now})

			verify := func() {
				token, err := verifier.Verify(t.Context(), m.sign(keyring.Child, time.Hour))
				require.NoError(t, err)
				require.Equal(t, alice, token.Subject)
				require.Equal(t, issuer, token.Issuer)
			}
			verify()
			m.must(m.write("issuer/rotate", nil))
			verify()
			m.clock.advance(keyring.Lead)
			verify()
			_, err = provider.Verifier(&oidc.Config{ClientID: "https://other.test", Now: m.clock.Now}).Verify(t.Context(), m.sign(keyring.Child, time.Hour))
			require.Error(t, err)
		})
	}
}

func TestDiscovery(t *testing.T) {
	m := newIssuingMount(t, nil)
	resp := m.must(m.read(".well-known/openid-configuration"))
	require.Equal(t, "public, max-age=300", resp.Data[logical.HTTPCacheControlHeader])
	require.JSONEq(t, `{
		"issuer": "https://vault.test:8200/v1/broker",
		"jwks_uri": "https://vault.test:8200/v1/broker/.well-known/jwks.json",
		"introspection_endpoint": "https://vault.test:8200/v1/broker/oauth/introspect",
		"revocation_endpoint": "https://vault.test:8200/v1/broker/oauth/revoke",
		"response_types_supported": ["id_token"],
		"subject_types_supported": ["public"],
		"id_token_signing_alg_values_supported": ["ES256"]
	}`, string(resp.Data[logical.HTTPRawBody].([]byte)))
	require.Subset(t, m.b.SpecialPaths().Unauthenticated, []string{".well-known/openid-configuration", ".well-known/jwks.json"})
	require.Len(t, m.b.SpecialPaths().Unauthenticated, 2, "and nothing else without a token")
}

func TestABrokerThatIsNoIssuer(t *testing.T) {
	m := newMount(t, setup{})
	for _, path := range []string{".well-known/openid-configuration", ".well-known/jwks.json"} {
		_, err := m.read(path)
		requireCode(t, err, fault.InvalidRequest, "config issuer")
	}
	_, err := m.write("issuer/rotate", nil)
	requireCode(t, err, fault.InvalidRequest, "config issuer")
	_, err = m.b.signToken(t.Context(), keyring.Child, m.claims(time.Hour))
	require.EqualError(t, err, "temporarily_unavailable: config issuer is not set: an operator must write config issuer=...")
	_, err = m.b.verifyOwn(t.Context(), "a.b.c")
	require.Equal(t, fault.InvalidGrant, fault.CodeOf(err))
	require.NoError(t, m.periodic())
	stored, err := m.storage.Get(t.Context(), signingKeysKey)
	require.NoError(t, err)
	require.Nil(t, stored, "no keys are made that nobody asked for")
	url, life, err := m.b.ownIssuer(t.Context())
	require.NoError(t, err)
	require.Empty(t, url)
	require.Equal(t, 24*time.Hour, life)
}

func TestConfig(t *testing.T) {
	m := newMount(t, setup{})
	require.Equal(t, map[string]any{"signing_algorithm": "ES256", "rotation_period": int64(2592000), "max_token_ttl": int64(86400), "kills_retention": int64(7776000)}, m.must(m.read("config")).Data)
	require.Nil(t, m.must(m.write("config", map[string]any{"issuer": ownURL, "signing_algorithm": "EdDSA"})))
	require.Nil(t, m.must(m.write("config", map[string]any{"max_token_ttl": "2h"})))
	require.Equal(t, map[string]any{"issuer": ownURL, "signing_algorithm": "EdDSA", "rotation_period": int64(2592000), "max_token_ttl": int64(7200), "kills_retention": int64(7776000)}, m.must(m.read("config")).Data)
	require.Len(t, m.published().Keys, 3, "a change that needs no keys makes none")

	for name, fields := range map[string]map[string]any{
		"no URL":            {"issuer": "broker"},
		"a path":            {"issuer": "/v1/broker"},
		"plain http":        {"issuer": "http://vault.test/v1/broker"},
		"query":             {"issuer": ownURL + "?x=y"},
		"fragment":          {"issuer": ownURL + "#x"},
		"slash":             {"issuer": ownURL + "/"},
		"user":              {"issuer": "https://me:secret@vault.test/v1/broker"},
		"another scheme":    {"issuer": "ftp://vault.test"},
		"no algorithm":      {"signing_algorithm": "none"},
		"HMAC":              {"signing_algorithm": "HS256"},
		"never rotating":    {"rotation_period": 0},
		"restless":          {"rotation_period": "1h59m"},
		"nearly never":      {"rotation_period": "8785h"},
		"no life":           {"max_token_ttl": 0},
		"hardly any life":   {"max_token_ttl": "119s"},
		"long life":         {"max_token_ttl": "241h"},
		"rotating too fast": {"rotation_period": "3h", "max_token_ttl": "4h"},
	} {
		_, err := m.write("config", fields)
		requireCode(t, err, fault.InvalidRequest)
		require.NotContains(t, err.Error(), "allow_http", name)
	}
	for _, loopback := range []string{"http://127.0.0.1:8200/v1/broker", "http://localhost:8200/v1/broker", "http://[::1]:8200/v1/broker"} {
		resp := m.must(m.write("config", map[string]any{"issuer": loopback}))
		require.Len(t, resp.Warnings, 1)
		require.Contains(t, resp.Warnings[0], "tokens that are signed already bear the issuer")
	}
	resp := m.must(m.write("config", map[string]any{"signing_algorithm": ""}))
	require.Equal(t, []string{"new keys (ES256) are published and sign from " + stamp(m.clock.Now().Add(time.Hour))}, resp.Warnings)
}

func TestWhatIsNotSigned(t *testing.T) {
	m := newIssuingMount(t, map[string]any{"max_token_ttl": "2h"})
	_, err := m.b.signToken(t.Context(), keyring.Child, m.claims(2*time.Hour+time.Second))
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
	require.ErrorContains(t, err, "max_token_ttl=2h0m0s")
	_, err = m.b.signToken(t.Context(), keyring.Child, nil)
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))

	// What is allowed now is not what the keys were made for, and holds at once.
	m.must(m.write("config", map[string]any{"max_token_ttl": "5h"}))
	m.sign(keyring.Child, 5*time.Hour)
	m.must(m.write("config", map[string]any{"max_token_ttl": "1h"}))
	_, err = m.b.signToken(t.Context(), keyring.Child, m.claims(2*time.Hour))
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))

	claims := m.claims(time.Hour)
	claims["iss"] = "https://evil.test"
	token, err := m.b.signToken(t.Context(), keyring.Child, claims)
	require.NoError(t, err)
	require.Equal(t, "https://evil.test", claims["iss"], "the caller's map is the caller's")
	verified, err := m.b.verifyOwn(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"iss": ownURL, "sub": alice, "aud": "https://api.test", "exp": json.Number(fmt.Sprint(claims["exp"]))}, verified)
}

func TestWhatIsNotOurOwn(t *testing.T) {
	m, other := newIssuingMount(t, nil), newIssuingMount(t, nil)
	child := m.sign(keyring.Child, time.Hour)
	short := m.sign(keyring.Child, time.Second)
	m.clock.advance(time.Second)
	for name, token := range map[string]string{
		"nothing":           "",
		"no token":          "a.b.c",
		"large":             strings.Repeat("x", 1<<20),
		"another broker's":  other.sign(keyring.Child, time.Hour),
		"an actor token":    m.sign(keyring.Actor, time.Hour),
		"a client's":        m.sign(keyring.Assertion, time.Hour),
		"expired":           short,
		"another signature": child[:len(child)-6] + "AAAAAA",
	} {
		_, err := m.b.verifyOwn(t.Context(), token)
		require.Equal(t, fault.InvalidGrant, fault.CodeOf(err), name)
	}
	_, err := m.b.verifyOwn(t.Context(), child)
	require.NoError(t, err)
	m.must(m.write("config", map[string]any{"issuer": ownURL + "2"}))
	_, err = m.b.verifyOwn(t.Context(), child)
	require.Equal(t, fault.InvalidGrant, fault.CodeOf(err), "it bears another issuer")
}

func TestRotationPublishesBeforeUse(t *testing.T) {
	m := newIssuingMount(t, nil)
	first := m.sign(keyring.Child, 24*time.Hour)
	resp := m.must(m.write("issuer/rotate", nil))
	fresh := resp.Data["key_ids"].(map[string]string)
	require.Equal(t, stamp(m.clock.Now().Add(time.Hour)), resp.Data["active_from"])
	require.Equal(t, "ES256", resp.Data["algorithm"])
	set := m.published()
	require.Len(t, set.Keys, 6)
	for _, purpose := range keyring.Purposes() {
		require.Len(t, set.Key(fresh[string(purpose)]), 1)
		require.NotEqual(t, fresh[string(purpose)], kidOf(t, m.sign(purpose, time.Hour)))
	}
	_, err := m.write("issuer/rotate", nil)
	requireCode(t, err, fault.InvalidRequest, stamp(m.clock.Now().Add(time.Hour)))

	m.clock.advance(time.Hour)
	for _, purpose := range keyring.Purposes() {
		require.Equal(t, fresh[string(purpose)], kidOf(t, m.sign(purpose, time.Hour)))
	}
	m.clock.advance(22 * time.Hour)
	require.NoError(t, m.periodic())
	_, err = m.b.verifyOwn(t.Context(), first)
	require.NoError(t, err, "it has an hour left")
	require.Len(t, m.published().Keys, 6)
	m.clock.advance(3*time.Hour + time.Second)
	require.NoError(t, m.periodic())
	require.Len(t, m.published().Keys, 3)
}

func TestStolenKeysAreWithdrawn(t *testing.T) {
	m := newIssuingMount(t, nil)
	before := m.sign(keyring.Child, time.Hour)
	resp := m.must(m.write("issuer/rotate", map[string]any{"emergency": true}))
	require.Equal(t, stamp(m.clock.Now()), resp.Data["active_from"])
	require.Len(t, m.published().Keys, 3)
	require.Empty(t, m.published().Key(kidOf(t, before)))
	_, err := m.b.verifyOwn(t.Context(), before)
	require.Equal(t, fault.InvalidGrant, fault.CodeOf(err))
	_, err = m.b.verifyOwn(t.Context(), m.sign(keyring.Child, time.Hour))
	require.NoError(t, err)
}

// TestThePeriodicCallFollowsTheSchedule, where this node may write.
func TestThePeriodicCallFollowsTheSchedule(t *testing.T) {
	m := newIssuingMount(t, nil)
	m.clock.advance(30*24*time.Hour - time.Hour)
	m.vault.change(func(v *vaultView) { v.ReplicationStateVal = consts.ReplicationPerformanceSecondary })
	require.NoError(t, m.periodic())
	require.Len(t, m.published().Keys, 3)
	m.vault.change(func(v *vaultView) { v.ReplicationStateVal = 0 })
	m.clock.advance(recentFor)
	require.NoError(t, m.periodic())
	require.Len(t, m.published().Keys, 6)
	require.NoError(t, m.periodic())
	require.Len(t, m.published().Keys, 6)
}

func TestAnUnsetIssuerIsOutlived(t *testing.T) {
	m := newIssuingMount(t, nil)
	kid := kidOf(t, m.sign(keyring.Child, 24*time.Hour))
	resp := m.must(m.write("config", map[string]any{"issuer": ""}))
	require.Len(t, resp.Warnings, 1)
	require.NotContains(t, m.must(m.read("config")).Data, "issuer")
	_, err := m.b.signToken(t.Context(), keyring.Child, m.claims(time.Hour))
	require.Equal(t, errNoIssuer, err)
	_, err = m.read(".well-known/openid-configuration")
	requireCode(t, err, fault.InvalidRequest)
	m.clock.advance(24 * time.Hour)
	require.NoError(t, m.periodic())
	require.Len(t, m.published().Key(kid), 1)
	m.clock.advance(2 * time.Hour)
	require.NoError(t, m.periodic())
	_, err = m.read(".well-known/jwks.json")
	requireCode(t, err, fault.InvalidRequest)
}

// TestTheNextNodeServesTheSameKeys, and one that only reads learns of new ones when
// Vault tells it that storage has changed.
func TestTheNextNodeServesTheSameKeys(t *testing.T) {
	m := newIssuingMount(t, nil)
	token, set := m.sign(keyring.Child, time.Hour), m.published()
	m.start()
	require.Equal(t, set, m.published())
	_, err := m.b.verifyOwn(t.Context(), token)
	require.NoError(t, err)

	leader := m.b
	m.start() // as another node on the same storage
	standby := m.b
	require.Equal(t, set, m.published())
	m.b = leader
	m.must(m.write("issuer/rotate", map[string]any{"emergency": true}))
	rotated := m.published()
	require.NotEqual(t, set, rotated)
	m.b = standby
	require.Equal(t, set, m.published(), "it has not been told")
	m.b.invalidate(t.Context(), signingKeysKey)
	require.Equal(t, rotated, m.published())
	m.b = leader
	m.must(m.write("config", map[string]any{"max_token_ttl": "3h"}))
	m.b = standby
	m.b.invalidate(t.Context(), configKey)
	_, life, err := m.b.ownIssuer(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3*time.Hour, life)
}

// TestKeysAreStoredBeforeTheyAreUsed: where storage takes nothing, nothing changes.
func TestKeysAreStoredBeforeTheyAreUsed(t *testing.T) {
	m := newMount(t, setup{})
	m.storage.fail("put")
	_, err := m.write("config", map[string]any{"issuer": ownURL})
	requireCode(t, err, fault.TemporarilyUnavailable)
	_, err = m.b.signToken(t.Context(), keyring.Child, m.claims(time.Hour))
	require.Equal(t, errNoIssuer, err)
	m.storage.heal()
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	set := m.published()
	m.storage.fail("put")
	for _, emergency := range []bool{false, true} {
		_, err = m.write("issuer/rotate", map[string]any{"emergency": emergency})
		requireCode(t, err, fault.TemporarilyUnavailable)
		require.Equal(t, set, m.published())
	}
	// The keys are written before the configuration that relies on them.
	m.storage.on(func(op, key string) error {
		if op == "put" && key == configKey {
			return errStorage
		}
		return nil
	})
	_, err = m.write("config", map[string]any{"max_token_ttl": "100h"})
	requireCode(t, err, fault.TemporarilyUnavailable)
	_, life, err := m.b.ownIssuer(t.Context())
	require.NoError(t, err)
	require.Equal(t, 24*time.Hour, life)
	m.sign(keyring.Child, 24*time.Hour)
}

func TestARoleCannotNameTheBrokerItself(t *testing.T) {
	m := newIssuingMount(t, nil)
	for _, ceiling := range []string{"audiences", "resources"} {
		for _, value := range []string{ownURL, ownURL + "/", "HTTPS://Vault.Test:8200/v1/broker", ownURL + "/oauth/introspect", ownURL + "/oauth/revoke", ownURL + "/oauth/*", "https://vault.test:8200/**", "**"} {
			_, err := m.write("roles/own", map[string]any{"provider": "oauth2/p", "scopes": "read", ceiling: value})
			requireCode(t, err, fault.InvalidRequest)
		}
	}
}

// TestSigningGoesOnWhileKeysChange: whoever signs while keys rotate and caches are
// dropped gets a token that verifies.
func TestSigningGoesOnWhileKeysChange(t *testing.T) {
	m := newIssuingMount(t, nil)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 20 {
				token, err := m.b.signToken(context.Background(), keyring.Child, m.claims(12*time.Hour))
				if err == nil {
					_, err = m.b.verifyOwn(context.Background(), token)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 4 {
		m.b.invalidate(context.Background(), signingKeysKey)
		_, err := m.write("issuer/rotate", nil)
		require.NoError(t, err, i)
		m.clock.advance(keyring.Lead)
		_, err = m.write("config", map[string]any{"max_token_ttl": fmt.Sprintf("%dh", i+25)})
		require.NoError(t, err)
	}
	group.Wait()
}

// atItsURL has the mount's documents at a URL, at which it is the issuer, for as long as
// another one does not stand there.
func (m *mount) atItsURL(there **mount) {
	m.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ours := strings.CutPrefix(r.URL.Path, "/v1/broker/")
		if *there == nil || !ours {
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden) // as Vault has it for what is not mounted
			return
		}
		resp, err := (*there).b.HandleRequest(r.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: (*there).storage})
		if err != nil {
			http.Error(w, "{}", http.StatusBadRequest)
			return
		}
		_, _ = w.Write(resp.Data[logical.HTTPRawBody].([]byte))
	}))
	m.t.Cleanup(server.Close)
	m.must(m.write("config", map[string]any{"issuer": server.URL + "/v1/broker"}))
}

// A check looks where services look: a mount that was moved, and another one in its place,
// are not healthy.
func TestACheckFindsAnIssuerThatNobodyCanVerify(t *testing.T) {
	m := newEmptyMount(t, setup{})
	there := m
	m.atItsURL(&there)
	m.must(m.write("providers/jwt/own", nil))
	check := func() (*logical.Response, error) { return m.write("providers/jwt/own/check", nil) }
	require.Equal(t, true, m.must(check()).Data["healthy"])
	require.Equal(t, "ok", m.must(m.read("providers/jwt/own")).Data["health"])

	there = nil // vault secrets move
	_, err := check()
	requireCode(t, err, fault.InvalidRequest, "HTTP 403", "vault secrets move")

	there = newEmptyMount(t, setup{})
	there.must(there.write("config", map[string]any{"issuer": m.must(m.read("config")).Data["issuer"]}))
	_, err = check()
	requireCode(t, err, fault.InvalidRequest, "another mount's")

	there = m
	m.must(m.write("issuer/rotate", map[string]any{"emergency": true}))
	m.must(check())
	m.must(m.write("config", map[string]any{"issuer": "http://127.0.0.1:1/v1/broker"}))
	_, err = check()
	requireCode(t, err, fault.TemporarilyUnavailable, "could not be reached", "127.0.0.1:1")
	m.must(m.write("providers/jwt/own", map[string]any{"timeout": "3s", "proxy_url": "https://proxy.test"}))
}
