package harness

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"
)

const (
	opaqueAPI = "https://opaque.example/api"
	jwtAPI    = "https://jwt.example/api"
)

var oidcResources = []OIDCResource{
	{ID: opaqueAPI, Scopes: []string{"read", "write"}},
	{ID: jwtAPI, Audience: "jwt-api", Scopes: []string{"read"}, JWT: true, TTL: 2 * time.Minute},
}

func TestOIDCProviderResources(t *testing.T) {
	slow(t)
	basic := Credentials{ID: "with space+and:colon", Secret: "se cret+%:"}
	other := Credentials{ID: "other", Secret: "other-secret"}
	op := StartOIDCProvider(t, OIDCProviderOptions{
		Clients: []OIDCClient{
			{ID: basic.ID, Secret: basic.Secret, Scopes: []string{"read", "write", "bare"}},
			{ID: other.ID, Secret: other.Secret, Scopes: []string{"read"}},
		},
		Resources: oidcResources,
	})

	t.Run("without a resource the token has no audience", func(t *testing.T) {
		found := op.Introspect(t, op.Token(t, basic, []string{"bare"}, ""))
		require.True(t, found.Active)
		require.Equal(t, "bare", found.Scope)
		require.Equal(t, basic.ID, found.ClientID)
		require.Nil(t, found.Audience)
		require.InDelta(t, time.Now().Add(time.Hour).Unix(), found.ExpiresAt, 60)
	})

	t.Run("an opaque token works until its client revokes it", func(t *testing.T) {
		token := op.Token(t, basic, []string{"read", "bare", "unknown"}, opaqueAPI)
		found := op.Introspect(t, token)
		require.True(t, found.Active)
		require.Equal(t, "read", found.Scope, "what the resource does not have is dropped in silence")
		require.Equal(t, opaqueAPI, found.Audience)

		status, _, answer := post(t, op.client, op.URL+"/token/revocation", nil, authenticated(other, "token", token))
		require.Equal(t, http.StatusBadRequest, status)
		require.Equal(t, "invalid_request", answer["error"])
		op.MustBeActive(t, token)
		op.Revoke(t, basic, token)
		op.MustBeInactive(t, token)
	})

	t.Run("a JWT has the resource's audience and life, and cannot be revoked", func(t *testing.T) {
		token := op.Token(t, basic, []string{"read"}, jwtAPI)
		claims := verified(t, op, token)
		require.Equal(t, []string{"jwt-api"}, claims.Audience())
		require.Equal(t, op.URL, claims.Issuer())
		require.Equal(t, basic.ID, claims.Subject())
		require.Equal(t, "read", claims.PrivateClaims()["scope"])
		require.WithinDuration(t, time.Now().Add(2*time.Minute), claims.Expiration(), 30*time.Second)
		for _, endpoint := range []string{"/token/revocation", "/token/introspection"} {
			status, _, answer := post(t, op.client, op.URL+endpoint, nil, authenticated(basic, "token", token))
			require.Equal(t, http.StatusBadRequest, status)
			require.Equal(t, "unsupported_token_type", answer["error"])
		}
	})

	for name, refused := range map[string]struct {
		client      Credentials
		scope, code string
		resources   []string
	}{
		"an unknown resource":   {basic, "read", "invalid_target", []string{"https://unknown.example"}},
		"two resources":         {basic, "read", "invalid_target", []string{opaqueAPI, jwtAPI}},
		"another client's":      {other, "write", "invalid_scope", []string{opaqueAPI}},
		"no absolute URI":       {basic, "read", "invalid_target", []string{"api"}},
		"resource and fragment": {basic, "read", "invalid_target", []string{opaqueAPI + "#x"}},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			form := authenticated(refused.client, "grant_type", "client_credentials", "scope", refused.scope)
			form["resource"] = refused.resources
			status, _, answer := post(t, op.client, op.URL+"/token", nil, form)
			require.Equal(t, http.StatusBadRequest, status)
			require.Equal(t, refused.code, answer["error"])
		})
	}
}

func TestOIDCProviderPrivateKeyJWT(t *testing.T) {
	slow(t)
	key, public := newKey(t)
	op := StartOIDCProvider(t, OIDCProviderOptions{
		Clients:   []OIDCClient{{ID: "signer", AuthMethod: "private_key_jwt", JWKS: Fields{"keys": []any{public}}}},
		Resources: oidcResources,
	})
	request := func(signed string) (int, map[string]any) {
		status, _, answer := post(t, op.client, op.URL+"/token", nil, url.Values{
			"grant_type":            {"client_credentials"},
			"scope":                 {"read"},
			"resource":              {opaqueAPI},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
			"client_assertion":      {signed},
		})
		return status, answer
	}
	assertion := func(audience string, signer jwk.Key) string {
		token, err := jwt.NewBuilder().Issuer("signer").Subject("signer").Audience([]string{audience}).
			JwtID(rand.Text()).IssuedAt(time.Now()).Expiration(time.Now().Add(time.Minute)).Build()
		require.NoError(t, err)
		signed, err := jwt.Sign(token, jwt.WithKey(jwa.ES256, signer))
		require.NoError(t, err)
		return string(signed)
	}
	for _, audience := range []string{op.URL, op.URL + "/token"} {
		signed := assertion(audience, key)
		status, answer := request(signed)
		require.Equal(t, http.StatusOK, status, answer)
		op.MustBeActive(t, answer["access_token"].(string))
		status, answer = request(signed)
		require.Equal(t, http.StatusUnauthorized, status, "an assertion is good once")
		require.Equal(t, "invalid_client", answer["error"])
	}
	stranger, _ := newKey(t)
	for _, signed := range []string{assertion(op.URL, stranger), assertion("https://elsewhere.example", key)} {
		status, answer := request(signed)
		require.Equal(t, http.StatusUnauthorized, status)
		require.Equal(t, "invalid_client", answer["error"])
	}
}

func TestOIDCProviderDPoP(t *testing.T) {
	slow(t)
	bound := Credentials{ID: "bound", Secret: "bound-secret"}
	op := StartOIDCProvider(t, OIDCProviderOptions{
		Clients:   []OIDCClient{{ID: bound.ID, Secret: bound.Secret, DPoPBound: true}},
		Resources: oidcResources,
		DPoPNonce: true,
	})
	key, public := newKey(t)
	request := func(resource, proof string) (int, http.Header, map[string]any) {
		header := http.Header{}
		if proof != "" {
			header.Set("DPoP", proof)
		}
		return post(t, op.client, op.URL+"/token", header,
			authenticated(bound, "grant_type", "client_credentials", "scope", "read", "resource", resource))
	}
	prove := func(nonce string) string { return dpopProof(t, key, public, op.URL+"/token", nonce) }

	status, header, answer := request(opaqueAPI, prove(""))
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "use_dpop_nonce", answer["error"])
	challenge := header.Get("DPoP-Nonce")
	require.NotEmpty(t, challenge)
	status, header, answer = request(opaqueAPI, prove("made-up"))
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "use_dpop_nonce", answer["error"])
	require.NotEmpty(t, header.Get("DPoP-Nonce"))

	thumbprint := keyThumbprint(t, public)
	proof := prove(challenge)
	status, _, answer = request(opaqueAPI, proof)
	require.Equal(t, http.StatusOK, status, answer)
	require.Equal(t, "DPoP", answer["token_type"])
	found := op.Introspect(t, answer["access_token"].(string))
	require.True(t, found.Active)
	require.Equal(t, map[string]any{"jkt": thumbprint}, found.All["cnf"])
	require.Equal(t, "DPoP", found.All["token_type"])

	status, _, answer = request(opaqueAPI, proof)
	require.Equal(t, http.StatusBadRequest, status, "a proof is good once")
	require.Equal(t, "invalid_grant", answer["error"])
	status, _, answer = request(opaqueAPI, "")
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "invalid_grant", answer["error"], "RFC 9449 has invalid_dpop_proof")
	status, _, answer = request(opaqueAPI, dpopProof(t, key, public, op.URL+"/elsewhere", challenge))
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "invalid_dpop_proof", answer["error"])

	status, _, answer = request(jwtAPI, prove(challenge))
	require.Equal(t, http.StatusOK, status, answer)
	require.Equal(t, map[string]any{"jkt": thumbprint}, verified(t, op, answer["access_token"].(string)).PrivateClaims()["cnf"])
}

func TestOIDCProviderMutualTLS(t *testing.T) {
	slow(t)
	own := SelfSignedCertificate(t, "self-signed")
	op := StartOIDCProvider(t, OIDCProviderOptions{
		TLS: true,
		Clients: []OIDCClient{
			{ID: "own", AuthMethod: "self_signed_tls_client_auth", JWKS: own.JWKS(t), CertBound: true},
			{ID: "by-dn", AuthMethod: "tls_client_auth", SubjectDN: "CN=by, name,O=harness"},
			{ID: "by-dn-escaped", AuthMethod: "tls_client_auth", SubjectDN: `CN=by\, name,O=harness`, CertBound: true},
			{ID: "by-uri", AuthMethod: "tls_client_auth", SubjectURI: "spiffe://example.org/broker"},
			{ID: "basic", Secret: "basic-secret", CertBound: true},
		},
		Resources: oidcResources,
	})
	another := SelfSignedCertificate(t, "self-signed")
	byName := op.Authority.ClientCertificate(t, "by, name", "spiffe://example.org/broker")
	stranger := op.Authority.ClientCertificate(t, "stranger", "spiffe://example.org/stranger")
	unknown := NewAuthority(t).ClientCertificate(t, "by, name", "spiffe://example.org/broker")

	for name, c := range map[string]struct {
		client      string
		certificate *Certificate
		granted     bool
		bound       bool
	}{
		"self-signed":                          {"own", &own, true, true},
		"self-signed, another of that name":    {"own", &another, false, false},
		"self-signed, none":                    {"own", nil, false, false},
		"by subject, as RFC 4514 writes it":    {"by-dn-escaped", &byName, true, true},
		"by subject, not as it writes it":      {"by-dn", &byName, false, false},
		"by subject, an unknown authority's":   {"by-dn-escaped", &unknown, false, false},
		"by subject, somebody else's":          {"by-dn-escaped", &stranger, false, false},
		"by URI, not bound":                    {"by-uri", &byName, true, false},
		"by URI, somebody else's":              {"by-uri", &stranger, false, false},
		"by URI, an unknown authority's":       {"by-uri", &unknown, false, false},
		"by URI, none":                         {"by-uri", nil, false, false},
		"a secret, bound to a certificate":     {"basic", &unknown, true, true},
		"a secret, but no certificate to bind": {"basic", nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.client}, "scope": {"read"}, "resource": {opaqueAPI}}
			if c.client == "basic" {
				form.Set("client_secret", "basic-secret")
			}
			status, _, answer := post(t, op.HTTPClient(t, c.certificate), op.URL+"/token", nil, form)
			require.Equal(t, c.granted, status == http.StatusOK, "%d %v", status, answer)
			if !c.granted {
				if c.client == "basic" {
					require.Equal(t, "invalid_grant", answer["error"])
				} else {
					require.Equal(t, "invalid_client", answer["error"])
				}
				return
			}
			require.Equal(t, "Bearer", answer["token_type"])
			cnf := op.Introspect(t, answer["access_token"].(string)).All["cnf"]
			if !c.bound {
				require.Nil(t, cnf)
				return
			}
			sum := sha256.Sum256(c.certificate.X509.Raw)
			require.Equal(t, map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}, cnf)
		})
	}

	t.Run("a client revokes by its certificate", func(t *testing.T) {
		client := op.HTTPClient(t, &own)
		_, _, answer := post(t, client, op.URL+"/token", nil, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"own"}, "scope": {"read"}, "resource": {opaqueAPI},
		})
		token := answer["access_token"].(string)
		op.MustBeActive(t, token)
		status, _, answer := post(t, client, op.URL+"/token/revocation", nil, url.Values{"client_id": {"own"}, "token": {token}})
		require.Equal(t, http.StatusOK, status, answer)
		op.MustBeInactive(t, token)
	})

	t.Run("a JWT says which certificate", func(t *testing.T) {
		_, _, answer := post(t, op.HTTPClient(t, &own), op.URL+"/token", nil, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"own"}, "scope": {"read"}, "resource": {jwtAPI},
		})
		sum := sha256.Sum256(own.X509.Raw)
		require.Equal(t, map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])},
			verified(t, op, answer["access_token"].(string)).PrivateClaims()["cnf"])
	})
}

func TestOIDCProviderAuthorizationDetails(t *testing.T) {
	slow(t)
	client := Credentials{ID: "payer", Secret: "payer-secret"}
	op := StartOIDCProvider(t, OIDCProviderOptions{
		Clients: []OIDCClient{
			{ID: client.ID, Secret: client.Secret, DetailTypes: []string{"payment", "enriched"}},
		},
		Resources:   oidcResources,
		DetailTypes: map[string]Fields{"payment": {}, "enriched": {"actions": []string{"read", "write"}}, "others": {}},
	})
	request := func(details, resource string) (int, map[string]any) {
		form := authenticated(client, "grant_type", "client_credentials", "authorization_details", details)
		if resource != "" {
			form.Set("resource", resource)
		}
		status, _, answer := post(t, op.client, op.URL+"/token", nil, form)
		return status, answer
	}
	asked := `[{"type":"payment","actions":["initiate"],"locations":["https://a.example"]},{"type":"enriched","actions":["read"]}]`
	granted := `[{"type":"payment","actions":["initiate"],"locations":["https://a.example"]},{"type":"enriched","actions":["read","write"]}]`

	status, answer := request(asked, opaqueAPI)
	require.Equal(t, http.StatusOK, status, answer)
	requireJSON(t, granted, answer["authorization_details"])
	requireJSON(t, granted, op.Introspect(t, answer["access_token"].(string)).All["authorization_details"])

	status, answer = request(asked, jwtAPI)
	require.Equal(t, http.StatusOK, status, answer)
	requireJSON(t, granted, verified(t, op, answer["access_token"].(string)).PrivateClaims()["authorization_details"])

	for _, refused := range []struct{ details, resource, code string }{
		{asked, "", "invalid_target"}, // RFC 9396 does not ask for a resource
		{`[{"type":"unknown"}]`, opaqueAPI, "invalid_authorization_details"},
		{`[{"type":"others"}]`, opaqueAPI, "invalid_authorization_details"}, // not this client's
		{`[{"type":"payment","actions":"initiate"}]`, opaqueAPI, "invalid_authorization_details"},
		{`{`, opaqueAPI, "invalid_authorization_details"},
	} {
		status, answer := request(refused.details, refused.resource)
		require.Equal(t, http.StatusBadRequest, status, refused)
		require.Equal(t, refused.code, answer["error"], refused)
	}
}

func TestOIDCProviderKeepsManyTokens(t *testing.T) {
	slow(t)
	client := Credentials{ID: "many", Secret: "many-secret"}
	op := StartOIDCProvider(t, OIDCProviderOptions{Clients: []OIDCClient{{ID: client.ID, Secret: client.Secret}}, Resources: oidcResources})
	first := op.Token(t, client, []string{"read"}, opaqueAPI)
	for range 2500 { // the stock adapter forgets the first after two thousand at most
		op.Token(t, client, []string{"read"}, opaqueAPI)
	}
	op.MustBeActive(t, first)
}

func TestWithoutNodeTheTestIsSkippedExceptInCI(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for ci, skips := range map[string]bool{"": true, "true": false} {
		t.Setenv("CI", ci)
		var reason string
		err := Run(io.Discard, func(t TB) { requireNode(skippable{t, &reason}) })
		require.Equal(t, skips, strings.Contains(reason, "install Node.js"), reason)
		require.Equal(t, skips, err == nil, err)
	}
}

type skippable struct {
	TB
	reason *string
}

func (s skippable) Skipf(format string, args ...any) {
	*s.reason = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
