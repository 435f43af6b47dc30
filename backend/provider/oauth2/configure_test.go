package oauth2

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestFieldsAreDescribed(t *testing.T) {
	sensitive := map[string]bool{}
	for name, f := range (Type{}).Fields() {
		require.True(t, strings.HasSuffix(f.Description, "."), "%s: %q is no sentence", name, f.Description)
		require.Greater(t, len(f.Description), 40, name)
		if f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive {
			require.Equal(t, framework.TypeString, f.Type, name)
			sensitive[name] = true
		}
	}
	for _, name := range append([]string{"refresh_token"}, allSecretFields...) {
		require.True(t, sensitive[name], name)
		delete(sensitive, name)
	}
	require.Empty(t, sensitive, "a secret field that checkCredential does not know")
}

func TestMistakesAreNamed(t *testing.T) {
	full := authserver.New(t, authserver.Options{}, registered())
	bare := authserver.New(t, authserver.Options{WithoutRevocation: true, WithoutIntrospection: true}, registered())
	none := authserver.New(t, authserver.Options{WithoutDiscovery: true}, registered())
	urls := func(f with) with {
		f["issuer"], f["token_url"] = "", bare.Endpoint(authserver.EndpointToken)
		return f
	}
	for name, test := range map[string]struct {
		server *authserver.Server
		fields with
		words  []string
	}{
		"no client_id":                    {full, with{"client_id": ""}, []string{"client_id"}},
		"client_id with a line end":       {full, with{"client_id": "a\n"}, []string{"client_id"}},
		"no client_secret":                {full, with{"client_secret": ""}, []string{"client_secret"}},
		"client_secret with a line end":   {full, with{"client_secret": "a\n"}, []string{"client_secret", "line end"}},
		"neither issuer nor token_url":    {full, with{"issuer": ""}, []string{"issuer", "token_url"}},
		"issuer not https":                {full, with{"issuer": "http://as.example.com"}, []string{"issuer", "allow_http"}},
		"issuer with user information":    {full, with{"issuer": "https://a:b@as.example.com"}, []string{"issuer"}},
		"issuer with a query":             {full, with{"issuer": "https://as.example.com?a=b"}, []string{"issuer", "query"}},
		"link-local token_url":            {full, with{"token_url": "https://169.254.169.254/token"}, []string{"token_url", "link-local"}},
		"relative revocation_url":         {full, with{"revocation_url": "/revoke"}, []string{"revocation_url"}},
		"ftp introspection_url":           {full, with{"introspection_url": "ftp://as.example.com/"}, []string{"introspection_url"}},
		"jwks_url with a fragment":        {full, with{"jwks_url": "https://as.example.com/#a"}, []string{"jwks_url"}},
		"unknown auth_method":             {full, with{"auth_method": "telepathy"}, []string{"auth_method", "client_secret_post"}},
		"unknown exchange":                {full, with{"exchange": "barter"}, []string{"exchange", "token-exchange"}},
		"unknown grant":                   {full, with{"grant": "password"}, []string{"grant", "client_credentials"}},
		"unknown audience_parameter":      {full, with{"audience_parameter": "aud"}, []string{"audience_parameter"}},
		"unknown verify":                  {full, with{"verify": "trust"}, []string{"verify", "introspect"}},
		"unknown revocation":              {full, with{"revocation": "sometimes"}, []string{"revocation"}},
		"refresh_token missing":           {full, with{"grant": "refresh_token", "refresh_token": ""}, []string{"refresh_token"}},
		"refresh_token without the grant": {full, with{"refresh_token": "abc"}, []string{"grant=refresh_token"}},
		"none with client_credentials":    {full, with{"auth_method": "none", "client_secret": ""}, []string{"contradicts", "write exchange"}},
		"none with a secret":              {full, with{"auth_method": "none", "grant": "refresh_token"}, []string{"contradicts"}},
		"verify=introspect without it":    {bare, with{"verify": "introspect"}, []string{"introspection_url"}},
		"verify=jwt without keys":         {bare, urls(with{"verify": "jwt"}), []string{"jwks_url"}},
		"revocation=token without it":     {bare, with{"revocation": "token"}, []string{"revocation_url"}},
		"confirmation without it":         {bare, with{"confirm_revocation": true}, []string{"introspection_url"}},
		"confirmation of nothing":         {full, with{"confirm_revocation": true, "revocation": "expiry"}, []string{"confirm_revocation", "revocation=token"}},
		"negative assumed_lifetime":       {full, with{"assumed_lifetime": -1}, []string{"assumed_lifetime"}},
		"assumed_lifetime of a century":   {full, with{"assumed_lifetime": 100 * 365 * 86400}, []string{"assumed_lifetime"}},
		"fields of the wrong types":       {full, with{"grant": 7}, []string{"malformed"}},
		"an issuer without metadata":      {none, with{}, []string{"token_url"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := setupFor(test.server, test.fields).Configure(context.Background())
			requireCode(t, err, fault.InvalidRequest, test.words...)
		})
	}
}

func TestDefaults(t *testing.T) {
	full := authserver.New(t, authserver.Options{}, registered())
	bare := authserver.New(t, authserver.Options{WithoutRevocation: true}, registered())
	for name, test := range map[string]struct {
		server  *authserver.Server
		fields  with
		class   provider.Class
		endless bool
	}{
		"client credentials":               {full, with{}, provider.ClassToken, true},
		"without a revocation endpoint":    {bare, with{}, provider.ClassExpiry, false},
		"expiry by the operator":           {full, with{"revocation": "expiry"}, provider.ClassExpiry, false},
		"refresh token":                    {full, with{"grant": "refresh_token"}, provider.ClassExpiry, false},
		"refresh token, by the operator":   {full, with{"grant": "refresh_token", "revocation": "token"}, provider.ClassToken, true},
		"an assumed lifetime is an end":    {full, with{"assumed_lifetime": 60}, provider.ClassToken, false},
		"a JWT has an end":                 {full, with{"verify": "jwt"}, provider.ClassToken, false},
		"introspection may not say it":     {full, with{"verify": "introspect"}, provider.ClassToken, true},
		"a revocation_url written by hand": {bare, with{"revocation_url": "https://as.example.com/revoke"}, provider.ClassToken, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixtureOn(t, test.server, test.fields)
			traits := f.Traits()
			require.Equal(t, test.class, traits.Class)
			require.Equal(t, test.endless, traits.Endless)
			require.True(t, traits.Ceiling.Equal(access.Everything()))
		})
	}
}

func TestTraits(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	for _, audience := range []string{"none", "audience", "resource"} {
		for _, verify := range []string{"response", "introspect", "jwt"} {
			traits := newFixtureOn(t, server, with{"audience_parameter": audience, "verify": verify}).Traits()
			require.Equal(t, audience != "none", traits.Askable[access.DimAudiences])
			require.Equal(t, audience == "resource", traits.Askable[access.DimResources])
			for _, d := range []access.Dimension{access.DimAudiences, access.DimResources} {
				require.Equal(t, verify != "response", traits.Checkable[d])
				require.Contains(t, traits.Hints[d], "audience_parameter=")
				require.Contains(t, traits.Hints[d], "verify=")
			}
			require.True(t, traits.Askable[access.DimScopes] && traits.Checkable[access.DimScopes])
			require.False(t, traits.Askable[access.DimPermissions] || traits.Checkable[access.DimPermissions])
			require.NotEmpty(t, traits.Hints[access.DimPermissions])
		}
	}
}

func TestStoredConfigurationsThatCannotBeRead(t *testing.T) {
	for _, cfg := range []provider.Config{
		{Fields: json.RawMessage(`[]`), Pinned: provider.Pinned{Data: json.RawMessage(`{}`)}},
		{Fields: json.RawMessage(`{}`)},
		{Fields: json.RawMessage(`{}`), Pinned: provider.Pinned{Data: json.RawMessage(`[]`)}},
	} {
		_, err := Type{}.Open(cfg, provider.Parent{}, provider.Deps{})
		require.Error(t, err)
	}
	require.Equal(t, TypeName, Type{}.Name())
}

func TestDiscovery(t *testing.T) {
	for name, o := range map[string]authserver.Options{
		"RFC 8414":       {},
		"OpenID Connect": {OIDCOnly: true},
		"https":          {TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			server := authserver.New(t, o, registered())
			pinned, err := setupFor(server, with{}).Configure(context.Background())
			require.NoError(t, err)
			var at endpoints
			require.NoError(t, json.Unmarshal(pinned.Data, &at))
			require.Equal(t, endpoints{
				Issuer:        server.URL,
				Token:         server.Endpoint(authserver.EndpointToken),
				Revocation:    server.Endpoint(authserver.EndpointRevoke),
				Introspection: server.Endpoint(authserver.EndpointIntrospect),
				JWKS:          server.Endpoint(authserver.EndpointJWKS),
			}, at)
			require.Equal(t, []string{at.Introspection, at.Revocation, at.Token}, pinned.Destinations, "sorted, and no secret goes to the keys")
			for _, r := range server.Requests() {
				require.Equal(t, http.MethodGet, r.Method)
				require.Empty(t, r.Header.Get("Authorization"))
				require.Empty(t, r.Body)
			}
		})
	}
}

func TestMetadataURLs(t *testing.T) {
	require.Equal(t, []string{
		"https://as.test/.well-known/oauth-authorization-server",
		"https://as.test/.well-known/openid-configuration",
	}, metadataURLs("https://as.test"))
	require.Equal(t, metadataURLs("https://as.test"), metadataURLs("https://as.test/"))
	require.Equal(t, []string{
		"https://as.test:8443/.well-known/oauth-authorization-server/tenant%20one/x",
		"https://as.test:8443/tenant%20one/x/.well-known/openid-configuration",
	}, metadataURLs("https://as.test:8443/tenant%20one/x/"))
}

// bothMetadata breaks RFC 8414's and OpenID Connect's document alike.
func bothMetadata(s *authserver.Server, f authserver.Fault) {
	s.Break(authserver.EndpointMetadata, f)
	s.Break(authserver.EndpointOIDC, f)
}

func TestDiscoveryDistrusts(t *testing.T) {
	for name, test := range map[string]struct {
		fault authserver.Fault
		code  fault.Code
		words []string
	}{
		"another issuer":              {authserver.Set("issuer", "https://other.test"), fault.InvalidRequest, []string{"another issuer", "https://other.test"}},
		"another issuer, unprintable": {authserver.Set("issuer", "https://a\nb"), fault.InvalidRequest, []string{"another issuer"}},
		"the issuer with a slash":     {authserver.Set("issuer", "https://other.test/"), fault.InvalidRequest, []string{"another issuer"}},
		"no issuer":                   {authserver.Drop("issuer"), fault.InvalidRequest, []string{"another issuer"}},
		"no token endpoint":           {authserver.Drop("token_endpoint"), fault.InvalidRequest, []string{"token_url"}},
		"plain http elsewhere":        {authserver.Set("token_endpoint", "http://as.example.com/token"), fault.InvalidRequest, []string{"token endpoint", "https"}},
		"link-local":                  {authserver.Set("revocation_endpoint", "https://169.254.169.254/"), fault.InvalidRequest, []string{"revocation endpoint"}},
		"javascript":                  {authserver.Set("introspection_endpoint", "javascript:alert(1)"), fault.InvalidRequest, []string{"introspection endpoint"}},
		"file for the keys":           {authserver.Set("jwks_uri", "file:///etc/passwd"), fault.InvalidRequest, []string{"jwks endpoint"}},
		"an endpoint of another type": {authserver.Set("token_endpoint", 7), fault.InvalidRequest, []string{"metadata"}},
		"HTML":                        {authserver.HTML(), fault.InvalidRequest, []string{"metadata"}},
		"a redirect":                  {authserver.Redirect("https://elsewhere.test/"), fault.InvalidRequest, []string{"HTTP 307"}},
		"no end":                      {authserver.Endless(), fault.InvalidRequest, []string{"larger"}},
		"slow":                        {authserver.Slow(time.Minute), fault.TemporarilyUnavailable, []string{"reached"}},
		"broken":                      {authserver.Cut(20), fault.TemporarilyUnavailable, []string{"reached"}},
		"failing":                     {authserver.Answer(502, "text/html", "bad gateway"), fault.TemporarilyUnavailable, []string{"HTTP 502"}},
		"busy":                        {authserver.Answer(429, "text/plain", ""), fault.TemporarilyUnavailable, []string{"HTTP 429"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := authserver.New(t, authserver.Options{}, registered())
			bothMetadata(server, test.fault)
			setup := setupFor(server, with{})
			if name == "slow" {
				setup.Timeout = time.Second
			}
			start := time.Now()
			_, err := setup.Configure(context.Background())
			requireCode(t, err, test.code, test.words...)
			require.NotContains(t, err.Error(), "\n")
			require.Less(t, time.Since(start), time.Minute, "promptly")
		})
	}
}

func TestDiscoveryTriesTheOtherDocument(t *testing.T) {
	for name, f := range map[string]authserver.Fault{
		"down": authserver.Answer(503, "text/plain", ""), "cut off": authserver.Hangup(), "HTML": authserver.HTML(), "not found": authserver.Answer(404, "text/plain", ""), "another issuer": authserver.Set("issuer", "https://other.test"),
	} {
		server := authserver.New(t, authserver.Options{}, registered())
		server.Break(authserver.EndpointMetadata, f)
		pinned, err := setupFor(server, with{}).Configure(context.Background())
		require.NoError(t, err, name)
		require.Contains(t, pinned.Destinations, server.Endpoint(authserver.EndpointToken), name)
		require.Positive(t, server.Counts().Requests[authserver.EndpointMetadata], "the broken one was asked: %s", name)
		require.Positive(t, server.Counts().Requests[authserver.EndpointOIDC], name)
	}
}

func TestARemoteIssuerCannotPointToThisMachine(t *testing.T) {
	for _, target := range []string{"http://127.0.0.1:8200/v1", "http://localhost:8200/v1", "https://[::1]/", "https://foo.localhost/"} {
		raw, err := json.Marshal(map[string]string{"issuer": "https://as.example.com", "token_endpoint": target})
		require.NoError(t, err)
		_, err = readMetadata(raw, settings{Issuer: "https://as.example.com"}, true)
		requireCode(t, err, fault.InvalidRequest, "this machine")
	}
}

func TestWrittenEndpointsWinAndAccountTellsWhoseChildrenTheseAre(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	configure := func(f with) *provider.Pinned {
		pinned, err := setupFor(server, f).Configure(context.Background())
		require.NoError(t, err)
		return pinned
	}
	base := configure(with{})
	same := configure(with{"verify": "introspect", "introspection_url": "https://as.example.com/introspect", "auth_method": "client_secret_post"})
	require.Equal(t, base.Account, same.Account)
	require.NotEqual(t, base.Destinations, same.Destinations)
	require.Contains(t, same.Destinations, "https://as.example.com/introspect")
	for name, f := range map[string]with{
		"revocation_url": {"revocation_url": "https://as.example.com/revoke"},
		"client_id":      {"client_id": "another"},
		"issuer":         {"issuer": "", "token_url": server.Endpoint(authserver.EndpointToken), "revocation_url": server.Endpoint(authserver.EndpointRevoke)},
	} {
		require.NotEqual(t, base.Account, configure(f).Account, name)
	}
	keys := configure(with{"jwks_url": "https://as.example.com/jwks"})
	require.Equal(t, base.Destinations, keys.Destinations, "no secret goes to the keys")
}

func TestEndpointsStayPinned(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	setup := setupFor(server, with{})
	first, err := setup.Configure(context.Background())
	require.NoError(t, err)
	discoveries := server.Counts().Requests[authserver.EndpointMetadata]

	client, err := httpclient.New(httpclient.Options{})
	require.NoError(t, err)
	update := func(fields with, written ...string) (*provider.Pinned, error) {
		raw, err := json.Marshal(setupFor(server, fields).Fields)
		require.NoError(t, err)
		names := map[string]bool{}
		for _, n := range written {
			names[n] = true
		}
		return Type{}.Configure(context.Background(), provider.Change{
			Config:  provider.Config{Name: "test", Fields: raw, Pinned: *first},
			Parent:  provider.Parent{Secrets: providertest.Secrets(setup.Secrets)},
			Written: names, Client: client,
		})
	}
	bothMetadata(server, authserver.Set("token_endpoint", server.URL+"/moved"))

	pinned, err := update(with{"verify": "introspect"}, "verify", "client_secret", "timeout")
	require.NoError(t, err)
	require.Equal(t, first.Data, pinned.Data)
	require.Equal(t, discoveries, server.Counts().Requests[authserver.EndpointMetadata])

	pinned, err = update(with{}, "issuer")
	require.NoError(t, err)
	require.Contains(t, string(pinned.Data), "/moved")

	pinned, err = update(with{"token_url": server.URL + "/mine"}, "token_url")
	require.NoError(t, err)
	require.Contains(t, string(pinned.Data), "/mine")
}

func TestPinnedEndpointsAreJudgedAgain(t *testing.T) {
	data, err := json.Marshal(endpoints{Token: "http://as.example.com/token"})
	require.NoError(t, err)
	_, err = Type{}.Configure(context.Background(), provider.Change{
		Config: provider.Config{
			Fields: json.RawMessage(`{"issuer":"https://as.example.com","client_id":"a"}`),
			Pinned: provider.Pinned{Data: data},
		},
		Parent:  provider.Parent{Secrets: providertest.Secrets(map[string]string{"client_secret": "s"})},
		Written: map[string]bool{"allow_http": true},
	})
	requireCode(t, err, fault.InvalidRequest, "allow_http")
}

// A name is a name letter by letter (RFC 8259 8.3): what looks like one, or is one in
// another case, names nothing.
func TestMetadataIsReadByExactNames(t *testing.T) {
	const issuer = `"issuer":"https://as.example.com"`
	const token = `"token_endpoint":"https://as.example.com/token"`
	for _, more := range []string{
		`"to\u212aen_endpoint":"https://evil.example.com/token"`,
		`"TOKEN_ENDPOINT":"https://evil.example.com/token"`,
		`"i\u017f\u017fuer":"https://evil.example.com"`,
		`"Revocation_Endpoint":"https://evil.example.com/revoke"`,
		`"introspection_\u212andpoint":"https://evil.example.com/introspect"`,
		`"JWKS_URI":"https://evil.example.com/keys"`,
		`"Mtls_endpoint_aliases":{"token_endpoint":"https://evil.example.com/token"}`,
		`"mtls_endpoint_aliases":{"To\u212aen_endpoint":"https://evil.example.com/token"}`,
		`"Device_authorization_endpoint":"https://evil.example.com/device"`,
	} {
		for _, doc := range []string{"{" + issuer + "," + token + "," + more + "}", "{" + more + "," + token + "," + issuer + "}"} {
			at, err := readMetadata([]byte(doc), settings{Issuer: "https://as.example.com", AuthMethod: authTLS}, false)
			require.NoError(t, err, more)
			require.Equal(t, endpoints{Issuer: "https://as.example.com", Token: "https://as.example.com/token", Others: []string{"https://as.example.com/token"}}, at, more)
		}
	}
	_, err := readMetadata([]byte(`{"issuer":"https://evil.example.com","i\u017f\u017fuer":"https://as.example.com",`+token+`}`), settings{Issuer: "https://as.example.com"}, false)
	requireCode(t, err, fault.InvalidRequest, "another issuer")
}

func FuzzDiscovery(f *testing.F) {
	const issuer = "https://as.example.com"
	f.Add([]byte(`{"issuer":"https://as.example.com","token_endpoint":"https://as.example.com/token"}`))
	f.Add([]byte(`{"issuer":"https://as.example.com/","token_endpoint":"http://127.0.0.1/"}`))
	f.Add([]byte(`<html>`))
	f.Add([]byte(`{"issuer":null,"token_endpoint":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		at, err := readMetadata(body, settings{Issuer: issuer}, false)
		if err != nil {
			if len(err.Error()) > 500 || !kit.IsASCII(err.Error()) {
				t.Fatalf("a server's text in %q", err)
			}
			return
		}
		if at.Issuer != issuer {
			t.Fatalf("accepted the issuer %q", at.Issuer)
		}
		for _, u := range at.byName() {
			if u != "" && (httpclient.CheckEndpoint(u, false) != nil || httpclient.IsLoopback(u)) {
				t.Fatalf("accepted the endpoint %q", u)
			}
		}
	})
}
