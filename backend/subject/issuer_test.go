package subject

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
)

func TestValidate(t *testing.T) {
	private, err := jwk.FromRaw(goodKeys()[jwa.ES256])
	require.NoError(t, err)
	privateJSON, err := json.Marshal(map[string]any{"keys": []any{private}})
	require.NoError(t, err)
	privateOne, err := json.Marshal(private)
	require.NoError(t, err)
	privateDER, err := x509.MarshalPKCS8PrivateKey(goodKeys()[jwa.ES256])
	require.NoError(t, err)
	publicDER, err := x509.MarshalPKIXPublicKey(goodKeys()[jwa.ES256].Public())
	require.NoError(t, err)
	named := func(block, der string) func(*IssuerConfig) {
		public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}))
		document, err := json.Marshal(map[string]string{"k": public, "d": string(pem.EncodeToMemory(&pem.Block{Type: block, Bytes: []byte(der)}))})
		require.NoError(t, err)
		return func(c *IssuerConfig) {
			c.OIDCDiscoveryURL, c.JWKSPEM, c.BoundIssuer = "", string(document), "https://issuer.example.com"
		}
	}
	many := make([]string, maxAudiences+1)
	for i := range many {
		many[i] = "a"
	}

	keyed := func(document string) func(*IssuerConfig) {
		return func(c *IssuerConfig) {
			c.OIDCDiscoveryURL, c.JWKSPEM, c.BoundIssuer = "", document, "https://issuer.example.com"
		}
	}
	for name, c := range map[string]struct {
		change func(*IssuerConfig)
		refuse string
	}{
		"by discovery":      {func(*IssuerConfig) {}, ""},
		"discovery, repeat": {func(c *IssuerConfig) { c.BoundIssuer = c.OIDCDiscoveryURL }, ""},
		"discovery, another issuer": {func(c *IssuerConfig) { c.BoundIssuer = "https://other" },
			"bound_issuer must be left out"},
		"no source":    {func(c *IssuerConfig) { c.OIDCDiscoveryURL = "" }, "exactly one"},
		"two sources":  {func(c *IssuerConfig) { c.JWKSURL = "https://issuer.example.com/keys" }, "exactly one"},
		"plain http":   {func(c *IssuerConfig) { c.OIDCDiscoveryURL = "http://issuer.example.com" }, "allow_http"},
		"allowed http": {func(c *IssuerConfig) { c.OIDCDiscoveryURL, c.AllowHTTP = "http://issuer.example.com", true }, ""},
		"metadata":     {func(c *IssuerConfig) { c.OIDCDiscoveryURL = "https://169.254.169.254" }, "link-local"},
		"the document's URL": {func(c *IssuerConfig) { c.OIDCDiscoveryURL += "/.well-known/openid-configuration" },
			"leave out /.well-known"},
		"keys by URL": {func(c *IssuerConfig) {
			c.OIDCDiscoveryURL, c.JWKSURL, c.BoundIssuer = "", "https://issuer.example.com/keys", "issuer"
		}, ""},
		"keys by URL without issuer": {func(c *IssuerConfig) { c.OIDCDiscoveryURL, c.JWKSURL = "", "https://issuer.example.com/keys" }, ""},
		"keys by bad URL": {func(c *IssuerConfig) {
			c.OIDCDiscoveryURL, c.JWKSURL, c.BoundIssuer = "", "https://u:p@issuer.example.com/keys", "issuer"
		}, "user information"},
		"issuer with a line end": {func(c *IssuerConfig) {
			c.OIDCDiscoveryURL, c.JWKSURL, c.BoundIssuer = "", "https://issuer.example.com/keys", "issuer\n"
		}, "printable"},
		"a key set":                        {keyed(string(keySetJSON(goodKeys()))), ""},
		"no key set":                       {keyed("keys"), "jwks_pem"},
		"an empty key set":                 {keyed(`{"keys":[]}`), "jwks_pem"},
		"an HMAC key":                      {keyed(`{"keys":[{"kty":"oct","k":"AAAA"}]}`), "jwks_pem"},
		"a private key set":                {keyed(string(privateJSON)), "private key"},
		"a private PEM":                    {keyed(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}))), "jwks_pem"},
		"private as another reader has it": {keyed(strings.Replace(string(keySetJSON(goodKeys())), `"keys"`, `"Keys":[`+string(privateOne)+`],"keys"`, 1)), "private key"},
		"a private member in capitals":     {keyed(strings.Replace(string(privateJSON), `"d"`, `"D"`, 1)), "private key"},
		"a private key beside the keys":    {keyed(strings.Replace(string(keySetJSON(goodKeys())), `"keys"`, `"backup":{"old":`+string(privateOne)+`},"keys"`, 1)), "private key"},
		"a key around the keys":            {keyed(strings.Replace(string(keySetJSON(goodKeys())), `{"keys"`, `{"kty":"oct","K":"AAAA","keys"`, 1)), "private key"},
		"a private PEM among named ones":   {named("PRIVATE KEY", string(privateDER)), "private key"},
		"named PEM":                        {named("PUBLIC KEY", string(publicDER)), ""},
		"a huge key set":                   {keyed(strings.Repeat(" ", maxPEM) + `{"keys":[]}`), "longer than"},
		"no audience":                      {func(c *IssuerConfig) { c.BoundAudiences = nil }, "bound_audiences is required"},
		"an empty audience":                {func(c *IssuerConfig) { c.BoundAudiences = []string{""} }, "bound_audiences"},
		"an audience glob":                 {func(c *IssuerConfig) { c.BoundAudiences = []string{"https://*"} }, "exactly"},
		"too many audiences":               {func(c *IssuerConfig) { c.BoundAudiences = many }, "more than"},
		"none":                             {func(c *IssuerConfig) { c.AllowedAlgorithms = []string{"ES256", "none"} }, "not signed"},
		"None":                             {func(c *IssuerConfig) { c.AllowedAlgorithms = []string{"None"} }, "not signed"},
		"HS256":                            {func(c *IssuerConfig) { c.AllowedAlgorithms = []string{"HS256"} }, "HMAC"},
		"hs512":                            {func(c *IssuerConfig) { c.AllowedAlgorithms = []string{"hs512"} }, "HMAC"},
		"unknown algorithm":                {func(c *IssuerConfig) { c.AllowedAlgorithms = []string{"ES256K"} }, "unknown algorithm"},
		"empty algorithm":                  {func(c *IssuerConfig) { c.AllowedAlgorithms = []string{""} }, "unknown algorithm"},
		"no skew":                          {func(c *IssuerConfig) { c.ClockSkew = 0 }, ""},
		"negative skew":                    {func(c *IssuerConfig) { c.ClockSkew = -1 }, "clock_skew"},
		"large skew":                       {func(c *IssuerConfig) { c.ClockSkew = MaxClockSkew + 1 }, "clock_skew"},
		"negative lifetime":                {func(c *IssuerConfig) { c.MaxSubjectLifetime = -1 }, "max_subject_lifetime"},
		"negative timeout":                 {func(c *IssuerConfig) { c.Timeout = -1 }, "timeout"},
		"ca_pem":                           {func(c *IssuerConfig) { c.CAPEM = "x" }, "ca_pem"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := IssuerConfig{OIDCDiscoveryURL: "https://issuer.example.com", BoundAudiences: []string{audience}}
			c.change(&cfg)
			err := cfg.Validate()
			if c.refuse == "" {
				require.NoError(t, err)
				return
			}
			requireFault(t, err, fault.InvalidRequest, c.refuse)
			_, err = cfg.Discover(t.Context(), nil)
			requireFault(t, err, fault.InvalidRequest, c.refuse)
		})
	}
}

func TestConfigRoundTrip(t *testing.T) {
	want := IssuerConfig{Name: "n", JWKSURL: "https://a/k", BoundIssuer: "i", BoundAudiences: []string{"a"},
		AllowedAlgorithms: []string{"ES256"}, ClockSkew: time.Second, MaxSubjectLifetime: time.Hour, Timeout: time.Second, AllowHTTP: true}
	raw, err := json.Marshal(want)
	require.NoError(t, err)
	var got IssuerConfig
	require.NoError(t, json.Unmarshal(raw, &got))
	assert.Equal(t, want, got)
}

func TestDiscover(t *testing.T) {
	for name, c := range map[string]struct {
		document func(map[string]any)
		refuse   string
	}{
		"good":                   {func(map[string]any) {}, ""},
		"another issuer":         {func(d map[string]any) { d["issuer"] = "https://evil.example.com" }, "https://evil.example.com"},
		"issuer with a slash":    {func(d map[string]any) { d["issuer"] = d["issuer"].(string) + "/" }, "write it so"},
		"issuer missing":         {func(d map[string]any) { delete(d, "issuer") }, "does not say"},
		"issuer of another type": {func(d map[string]any) { d["issuer"] = []any{d["issuer"]} }, "does not say"},
		"issuer without end":     {func(d map[string]any) { d["issuer"] = strings.Repeat("x", 1000) }, "does not say"},
		"no keys":                {func(d map[string]any) { delete(d, "jwks_uri") }, "no jwks_uri"},
		"keys at the metadata":   {func(d map[string]any) { d["jwks_uri"] = "http://169.254.169.254/latest" }, "link-local"},
		"keys over plain http":   {func(d map[string]any) { d["jwks_uri"] = "http://keys.example.com/" }, "allow_http"},
		"keys in a file":         {func(d map[string]any) { d["jwks_uri"] = "file:///etc/passwd" }, "https"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := newFakeIssuer(t, goodKeys())
			fake.discovery = c.document
			client, err := httpclient.New(httpclient.Options{})
			require.NoError(t, err)
			url, err := fake.config().Discover(t.Context(), client)
			assert.Zero(t, fake.fetches.Load())
			if c.refuse == "" {
				require.NoError(t, err)
				assert.Equal(t, fake.URL+"/keys", url)
				return
			}
			requireFault(t, err, fault.InvalidRequest, c.refuse)
		})
	}
}

// A server elsewhere knows nothing of ours, whatever the scheme.
func TestARemoteIssuersKeysAreNotOnThisMachine(t *testing.T) {
	for _, uri := range []string{"https://127.0.0.1:8200/keys", "https://localhost/keys", "https://keys.localhost/keys", "https://[::1]/keys", "https://[::ffff:127.0.0.1]/keys"} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": "https://example.com", "jwks_uri": uri})
		}))
		t.Cleanup(s.Close)
		p := providertest.NewProxy(t, false)
		p.Resolve("example.com:443", s.Listener.Addr().String()) // its certificate has this name
		client, err := httpclient.New(httpclient.Options{
			CAPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})), Proxy: &httpclient.Proxy{URL: p.URL},
		})
		require.NoError(t, err)
		_, err = IssuerConfig{OIDCDiscoveryURL: "https://example.com", BoundAudiences: []string{audience}}.Discover(t.Context(), client)
		requireFault(t, err, fault.InvalidRequest, "on this machine")
	}
}

// TestDiscoverAnswers is what a server can answer with beside a document.
func TestDiscoverAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		code   fault.Code
	}{
		"down":         {503, "", fault.TemporarilyUnavailable},
		"too many":     {429, "", fault.TemporarilyUnavailable},
		"not there":    {404, "{}", fault.InvalidRequest},
		"a redirect":   {302, "", fault.InvalidRequest},
		"a login page": {200, "<html>", fault.InvalidRequest},
		"a list":       {200, "[]", fault.InvalidRequest},
		"twice":        {200, `{"issuer":"a","issuer":"b"}`, fault.InvalidRequest},
		"endless":      {200, strings.Repeat(" ", httpclient.MaxBody+1), fault.TemporarilyUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, "/realm/.well-known/openid-configuration", r.URL.Path)
				w.Header().Set("Location", "https://evil.example.com/")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			t.Cleanup(server.Close)
			client, err := httpclient.New(httpclient.Options{})
			require.NoError(t, err)
			cfg := IssuerConfig{OIDCDiscoveryURL: server.URL + "/realm/", BoundAudiences: []string{audience}}
			_, err = cfg.Discover(t.Context(), client)
			requireFault(t, err, c.code, "")
		})
	}
}

// TestDiscoverNeverLowersTLS: an issuer behind TLS may not send us to plain
// http, not even on our own loopback and not even with allow_http.
func TestDiscoverNeverLowersTLS(t *testing.T) {
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": server.URL, "jwks_uri": "http://127.0.0.1:8200/v1/keys"})
	}))
	t.Cleanup(server.Close)
	cfg := IssuerConfig{OIDCDiscoveryURL: server.URL, BoundAudiences: []string{audience}, AllowHTTP: true,
		CAPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))}
	client, err := cfg.Client()
	require.NoError(t, err)
	_, err = cfg.Discover(t.Context(), client)
	requireFault(t, err, fault.InvalidRequest, "must be https, as the issuer is")
}
