package harness

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
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

func TestOIDCProviderRefreshTokens(t *testing.T) {
	slow(t)
	web := Credentials{ID: "web", Secret: "web-secret"}
	start := func(t *testing.T, rotate bool) (*OIDCProvider, string) {
		op := StartOIDCProvider(t, OIDCProviderOptions{
			Clients: []OIDCClient{
				{ID: web.ID, Secret: web.Secret, Grants: []string{"authorization_code", "refresh_token"}, Scopes: []string{"read", "write"}},
			},
			Resources:     oidcResources,
			RotateRefresh: rotate,
		})
		return op, op.RefreshToken(t, web, []string{"read", "write"}, opaqueAPI)
	}
	refresh := func(t *testing.T, op *OIDCProvider, token string) (int, map[string]any) {
		status, _, answer := post(t, op.client, op.URL+"/token", nil,
			authenticated(web, "grant_type", "refresh_token", "refresh_token", token, "scope", "read"))
		return status, answer
	}

	t.Run("a child is narrower, and its revocation kills the parent too", func(t *testing.T) {
		op, parent := start(t, false)
		status, answer := refresh(t, op, parent)
		require.Equal(t, http.StatusOK, status, answer)
		require.Equal(t, parent, answer["refresh_token"])
		child := answer["access_token"].(string)
		found := op.Introspect(t, child)
		require.Equal(t, "read", found.Scope)
		require.Equal(t, opaqueAPI, found.Audience)
		require.Equal(t, "test-user", found.Subject)
		op.Revoke(t, web, child)
		op.MustBeInactive(t, child)
		status, answer = refresh(t, op, parent)
		require.Equal(t, http.StatusBadRequest, status)
		require.Equal(t, "invalid_grant", answer["error"])
	})

	t.Run("rotated, reuse kills parent and children", func(t *testing.T) {
		op, parent := start(t, true)
		status, first := refresh(t, op, parent)
		require.Equal(t, http.StatusOK, status, first)
		require.NotEqual(t, parent, first["refresh_token"])
		status, second := refresh(t, op, first["refresh_token"].(string))
		require.Equal(t, http.StatusOK, status, second)
		op.MustBeActive(t, first["access_token"].(string))
		status, answer := refresh(t, op, parent)
		require.Equal(t, http.StatusBadRequest, status)
		require.Equal(t, "invalid_grant", answer["error"])
		op.MustBeInactive(t, first["access_token"].(string))
		op.MustBeInactive(t, second["access_token"].(string))
		status, _ = refresh(t, op, second["refresh_token"].(string))
		require.Equal(t, http.StatusBadRequest, status)
	})
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
	// A checkout for which oidc-provider could not be installed.
	checkout, path := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(checkout, "go.mod"), nil, 0o600))
	t.Chdir(checkout)
	require.NoError(t, os.WriteFile(filepath.Join(path, "node"), []byte("#!/bin/sh\n"), 0o700))
	for _, programs := range []string{t.TempDir(), path} {
		t.Setenv("PATH", programs)
		for ci, skips := range map[string]bool{"": true, "true": false} {
			t.Setenv("CI", ci)
			var reason string
			err := Run(io.Discard, func(t TB) { requireNode(skippable{t, &reason}) })
			require.Equal(t, skips, strings.Contains(reason, "install nodejs npm"), reason)
			require.Equal(t, skips, err == nil, err)
			if !skips {
				require.ErrorContains(t, err, "install nodejs npm")
			}
		}
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
