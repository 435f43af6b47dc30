package oauth2

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// TestWire compares every request that one child's life takes, byte for byte,
// with testdata/wire/oauth2. UPDATE_GOLDEN=1 rewrites the files.
func TestWire(t *testing.T) {
	assertion, private := with{"auth_method": "private_key_jwt", "client_secret": ""}, with{"auth_method": "private_key_jwt", "client_secret": "", "assertion_audience": "https://as.test/token"}
	details, err := access.ParseDetails([]byte(`[{"type":"payment","actions":["read"],"locations":["https://api.test/"]}]`))
	require.NoError(t, err)
	everything := access.Access{
		Scopes:    access.Exactly("write", "read", "a:b/c"),
		Audiences: access.Exactly("https://api.test/", "https://files.test/?q=1&r=2"),
		Resources: access.Exactly("https://files.test/?q=1&r=2", "urn:example:x"),
	}
	for name, test := range map[string]struct {
		fields with
		asked  access.Access
	}{
		"client_credentials_private_key_jwt":          {assertion, scopes("read")},
		"client_credentials_private_key_jwt_audience": {private, scopes("read")},
		"client_credentials_self_signed_tls":          {with{"auth_method": "self_signed_tls_client_auth", "client_secret": ""}, scopes("read")},
		"client_credentials_dpop":                     {with{"dpop": true}, scopes("read")},
		"refresh_token_private_key_jwt":               {with{"auth_method": "private_key_jwt", "client_secret": "", "grant": "refresh_token", "refresh_token": "parent/token+1", "revocation": "token"}, scopes("read")},
		"client_credentials_basic":                    {with{}, scopes("write", "read")},
		"client_credentials_post":                     {with{"auth_method": "client_secret_post"}, scopes("write", "read")},
		"client_credentials_without_scope":            {with{}, access.Access{}},
		"client_credentials_audience":                 {with{"audience_parameter": "audience"}, everything},
		"client_credentials_resource":                 {with{"audience_parameter": "resource"}, everything},
		"client_credentials_targets_not_askable":      {with{}, everything},
		"client_credentials_authorization_details":    {with{}, access.Access{Scopes: access.Exactly("read"), Details: details}},
		"client_credentials_introspect_confirm":       {with{"verify": "introspect", "confirm_revocation": true}, scopes("read")},
		"refresh_token_basic":                         {with{"grant": "refresh_token", "refresh_token": "parent/token+1", "revocation": "token"}, scopes("read")},
		"refresh_token_public":                        {with{"grant": "refresh_token", "refresh_token": "parent/token+1", "auth_method": "none", "client_secret": "", "revocation": "token"}, scopes("read")},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{TLS: test.fields["auth_method"] == authSelfSignedTLS, MutualTLS: true}, test.fields)
			tokenType := "Bearer"
			if f.settings.DPoP {
				tokenType = "DPoP"
			}
			f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json", `{"access_token":"child/token+1","token_type":"`+tokenType+`","expires_in":60}`))
			f.server.Break(authserver.EndpointIntrospect, authserver.Once(authserver.Answer(200, "application/json", `{"active":true}`)))
			f.server.Break(authserver.EndpointRevoke, authserver.Lie())
			child, err := f.mintWith(f.proof(agentKey(t), "the-nonce"), test.asked)
			require.NoError(t, err)
			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			got := strings.ReplaceAll(dump(t, f.server.Requests()), f.server.URL, "https://as.test")
			compareGolden(t, filepath.Join("..", "..", "..", "testdata", "wire", "oauth2", name+".txt"), got)
		})
	}
}

// TestExchangeWire is TestWire for the forms of exchange.
func TestExchangeWire(t *testing.T) {
	details, err := access.ParseDetails([]byte(`[{"type":"payment","actions":["read"]}]`))
	require.NoError(t, err)
	targets := access.Access{
		Scopes: access.Exactly("write", "read"), Audiences: access.Exactly("https://api.test/", "https://files.test/?q=1&r=2"),
		Resources: access.Exactly("urn:example:x", "urn:example:y"), Details: details,
	}
	typed := map[string]string{"subject_token_type": "urn:ietf:params:oauth:token-type:id_token", "requested_token_type": typeJWT, "actor_token_type": typeAccessToken}
	accessToken := jane()
	accessToken.Token = secret.New(janesAccess)
	entity := &provider.Party{Issuer: "https://broker.test", ID: "entity-1"}
	for name, test := range map[string]struct {
		fields with
		r      provider.Request
	}{
		"exchange":                     {with{}, provider.Request{Subject: jane(), Access: scopes("write", "read")}},
		"exchange_access_token":        {with{}, provider.Request{Subject: accessToken, Access: scopes("read")}},
		"exchange_audience":            {with{"audience_parameter": "audience"}, provider.Request{Subject: jane(), Access: targets}},
		"exchange_resource":            {with{"audience_parameter": "resource"}, provider.Request{Subject: jane(), Access: targets}},
		"exchange_targets_not_askable": {with{}, provider.Request{Subject: jane(), Access: targets}},
		"exchange_actor_token":         {with{}, provider.Request{Subject: jane(), Actor: agent(), Access: scopes("read")}},
		"exchange_actor_entity":        {with{}, provider.Request{Subject: jane(), Actor: entity, Access: scopes("read")}},
		"exchange_parameters":          {with{}, provider.Request{Subject: jane(), Actor: agent(), Parameters: typed, Access: scopes("read")}},
		"exchange_public":              {with{"exchange": "token-exchange", "auth_method": "none", "client_secret": ""}, provider.Request{Subject: jane(), Access: scopes("read")}},
		"jwt_bearer":                   {with{"exchange": "jwt-bearer", "audience_parameter": "audience"}, provider.Request{Subject: jane(), Access: targets}},
		"on_behalf_of":                 {with{"exchange": "on-behalf-of", "auth_method": "client_secret_post"}, provider.Request{Subject: jane(), Access: scopes("https://graph.test/.default")}},
	} {
		t.Run(name, func(t *testing.T) {
			test.fields["signer"] = &providertest.Signer{Token: brokersToken}
			f := newFixture(t, authserver.Options{}, test.fields)
			issued := typeAccessToken
			if test.r.Parameters != nil {
				issued = typeJWT
			}
			f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json", `{"access_token":"child/token+1","issued_token_type":"`+issued+`","token_type":"Bearer","expires_in":60}`))
			f.server.Break(authserver.EndpointRevoke, authserver.Lie())
			child, err := f.exchange(test.r)
			require.NoError(t, err)
			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			compareGolden(t, filepath.Join("..", "..", "..", "testdata", "wire", "oauth2", name+".txt"), dump(t, f.server.Requests()))
		})
	}
}

// dump writes requests down as they came, without what Go's client adds.
func dump(t *testing.T, requests []authserver.Request) string {
	t.Helper()
	var b strings.Builder
	for _, r := range requests {
		if strings.HasPrefix(r.Path, "/.well-known/") {
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", r.Method, r.Path)
		for _, name := range []string{"Accept", "Authorization", "Content-Type"} {
			if value := r.Header.Get(name); value != "" {
				fmt.Fprintf(&b, "%s: %s\n", name, value)
			}
		}
		if proof := r.Header.Get(headerDPoP); proof != "" {
			fmt.Fprintf(&b, "%s: %s\n", headerDPoP, shown(t, proof))
		}
		body := assertionInBody.ReplaceAllStringFunc(r.Body, func(match string) string {
			return "client_assertion=" + shown(t, strings.TrimPrefix(match, "client_assertion="))
		})
		fmt.Fprintf(&b, "\n%s\n\n", body)
	}
	return b.String()
}

var assertionInBody = regexp.MustCompile(`client_assertion=[^&]*`)

// shown is what a JWT says, with a mark for what is another each time.
func shown(t *testing.T, compact string) string {
	t.Helper()
	var text string
	for _, part := range strings.Split(compact, ".")[:2] {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		require.NoError(t, err)
		members := map[string]any{}
		require.NoError(t, json.Unmarshal(raw, &members))
		if issued, ok := members["iat"].(float64); ok {
			if expires, ok := members["exp"].(float64); ok {
				members["exp"] = fmt.Sprintf("iat+%.0f", expires-issued)
			}
			members["iat"] = "now"
		}
		for _, name := range []string{"jti", "kid"} {
			if members[name] != nil {
				members[name] = "(" + name + ")"
			}
		}
		if key, ok := members["jwk"].(map[string]any); ok {
			key["x"], key["y"] = "(x)", "(y)"
		}
		text += marshal(members)
	}
	return text
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	expected, err := os.ReadFile(path)
	require.NoError(t, err, "UPDATE_GOLDEN=1 writes it")
	require.Equal(t, string(expected), got)
}
