package harness

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// OIDCProviderOptions configures StartOIDCProvider. All of it is optional.
type OIDCProviderOptions struct {
	TLS            bool // https, with client certificates asked for (RFC 8705)
	Clients        []OIDCClient
	Resources      []OIDCResource
	Scopes         []string          // that exist besides those of clients and resources
	AccessTokenTTL time.Duration     // default one hour; whole seconds
	DPoPNonce      bool              // a DPoP proof without a nonce gets a challenge
	DetailTypes    map[string]Fields // RFC 9396 types, each with members that the server puts on top of what is asked for
}

// OIDCClient describes a client. Only the ID must be there.
type OIDCClient struct {
	ID          string
	Secret      string
	AuthMethod  string   // default client_secret_basic
	Grants      []string // default client_credentials
	Scopes      []string // none means: whatever exists
	JWKS        any      // a JWK set: of private_key_jwt, or Certificate.JWKS
	SubjectDN   string   // of tls_client_auth, as RFC 4514 writes it: CN=name,O=harness
	SubjectURI  string   // of tls_client_auth, instead of SubjectDN
	DPoPBound   bool     // no token without a DPoP proof
	CertBound   bool     // no token without a client certificate, to which it is bound
	DetailTypes []string // RFC 9396 types that it may ask for
	Extra       Fields   // further client metadata
}

// OIDCResource is a resource server (RFC 8707) that a client may name.
type OIDCResource struct {
	ID       string // absolute URI, what `resource` says
	Audience string // default ID
	Scopes   []string
	JWT      bool          // its tokens are JWTs, which can be neither revoked nor introspected
	TTL      time.Duration // default AccessTokenTTL; whole seconds
}

// OIDCProvider is a running oidc-provider, with its data in memory.
type OIDCProvider struct {
	URL       string     // the issuer
	Authority *Authority // with TLS, of the server's certificate and of clients'

	client  *http.Client
	process *server
}

// oidcObserver introspects for the tests.
var oidcObserver = Credentials{ID: "harness-observer", Secret: "only-for-tests"}

// StartOIDCProvider starts an oidc-provider that ends with the test. Without Node.js
// the test is skipped, unless CI is set.
func StartOIDCProvider(t TB, options OIDCProviderOptions) *OIDCProvider {
	t.Helper()
	requireNode(t)
	port := freePort(t)
	p := &OIDCProvider{URL: "http://" + address(port)}
	if options.AccessTokenTTL == 0 {
		options.AccessTokenTTL = time.Hour
	}
	config := Fields{
		"port":           port,
		"clients":        clientMetadata(append(options.Clients, OIDCClient{ID: oidcObserver.ID, Secret: oidcObserver.Secret})),
		"resources":      resourceSettings(options.Resources),
		"scopes":         append([]string{}, options.Scopes...),
		"accessTokenTTL": int(options.AccessTokenTTL.Seconds()),
		"detailTypes":    options.DetailTypes,
	}
	if options.DetailTypes == nil {
		config["detailTypes"] = Fields{}
	}
	if options.TLS {
		p.URL = "https://" + address(port)
		p.Authority = NewAuthority(t)
		own := p.Authority.serverCertificate(t)
		config["tls"] = Fields{"key": own.Key, "cert": own.PEM, "clientCA": p.Authority.PEM}
	}
	if options.DPoPNonce {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // never fails
		config["dpopNonceSecret"] = base64.StdEncoding.EncodeToString(secret)
	}
	config["issuer"], p.client = p.URL, p.HTTPClient(t, nil)
	p.launch(t, config)
	return p
}

func (p *OIDCProvider) launch(t TB, config Fields) {
	t.Helper()
	dir := t.TempDir()
	content, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		t.Fatalf("oidc-provider configuration: %v", err)
	}
	path := filepath.Join(dir, "oidc-provider.json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("oidc-provider configuration: %v", err)
	}
	p.process = start(t, "oidc-provider", dir, executable(t, "", "oidc-provider", "oidc-provider"), path)
	p.process.await(t, "it answers", answersOKTo(p.client, p.URL+"/.well-known/openid-configuration"))
}

// requireNode skips the test aloud where there is no Node.js. In CI nothing may be
// skipped, so there it fails.
func requireNode(t TB) {
	t.Helper()
	_, err := exec.LookPath("node")
	if err == nil {
		return
	}
	if skipper, ok := t.(interface{ Skipf(string, ...any) }); ok && os.Getenv("CI") == "" {
		skipper.Skipf("SKIPPED, install Node.js to run it: %v", err)
	}
	t.Fatalf("needs Node.js: %v", err)
}

// clientMetadata is RFC 7591's.
func clientMetadata(clients []OIDCClient) []Fields {
	all := make([]Fields, len(clients))
	for i, c := range clients {
		grants, responses, redirects := c.Grants, []string{}, []string{}
		if grants == nil {
			grants = []string{"client_credentials"}
		}
		for _, grant := range grants {
			if grant == "authorization_code" {
				responses, redirects = []string{"code"}, []string{redirectURI}
			}
		}
		document := Fields{
			"client_id":                c.ID,
			"grant_types":              grants,
			"response_types":           responses,
			"redirect_uris":            redirects,
			"dpop_bound_access_tokens": c.DPoPBound,
		}
		if c.JWKS != nil {
			document["jwks"] = c.JWKS
		}
		// The server knows these only where the feature is on.
		if c.CertBound {
			document["tls_client_certificate_bound_access_tokens"] = true
		}
		if c.DetailTypes != nil {
			document["authorization_details_types"] = c.DetailTypes
		}
		optional := map[string]string{
			"client_secret": c.Secret, "token_endpoint_auth_method": c.AuthMethod, "scope": strings.Join(c.Scopes, " "),
			"tls_client_auth_subject_dn": c.SubjectDN, "tls_client_auth_san_uri": c.SubjectURI,
		}
		for key, value := range optional {
			if value != "" {
				document[key] = value
			}
		}
		for key, value := range c.Extra {
			document[key] = value
		}
		all[i] = document
	}
	return all
}

func resourceSettings(resources []OIDCResource) []Fields {
	all := make([]Fields, len(resources))
	for i, r := range resources {
		document := Fields{"id": r.ID, "audience": r.ID, "scopes": append([]string{}, r.Scopes...), "format": "opaque"}
		if r.Audience != "" {
			document["audience"] = r.Audience
		}
		if r.JWT {
			document["format"] = "jwt"
		}
		if r.TTL > 0 {
			document["ttl"] = int(r.TTL.Seconds())
		}
		all[i] = document
	}
	return all
}

// HTTPClient trusts the server, and shows it the certificate, unless that is nil. It
// does not follow redirects.
func (p *OIDCProvider) HTTPClient(t TB, certificate *Certificate) *http.Client {
	t.Helper()
	if p.Authority == nil {
		return httpClient
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AddCert(p.Authority.own.X509)
	if certificate != nil {
		// Not config.Certificates: from these Go sends none that the server's list of
		// authorities does not cover, and a self-signed one never is.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &certificate.TLS, nil
		}
	}
	trusting := &http.Transport{TLSClientConfig: config}
	t.Cleanup(trusting.CloseIdleConnections)
	return &http.Client{Transport: trusting, Timeout: httpTimeout, CheckRedirect: doNotFollow}
}

// Token gets a client-credentials token without the broker.
func (p *OIDCProvider) Token(t TB, client Credentials, scopes []string, resource string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	if resource != "" {
		form.Set("resource", resource)
	}
	body := postFormWith(t, p.client, p.URL+"/token", client, form)
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("%s gave no token: %v in %q", p.URL, err, body)
	}
	return answer.AccessToken
}

// Introspect asks the server about an opaque token.
func (p *OIDCProvider) Introspect(t TB, token string) Introspection {
	t.Helper()
	endpoint := p.URL + "/token/introspection"
	return readIntrospection(t, endpoint, postFormWith(t, p.client, endpoint, oidcObserver, url.Values{"token": {token}}))
}

// MustBeActive fails the test unless the server accepts the token.
func (p *OIDCProvider) MustBeActive(t TB, token string) {
	t.Helper()
	mustBe(t, true, p.Introspect(t, token))
}

// MustBeInactive fails the test unless the server refuses the token.
func (p *OIDCProvider) MustBeInactive(t TB, token string) {
	t.Helper()
	mustBe(t, false, p.Introspect(t, token))
}

// Revoke kills a token without the broker. The server revokes a client's own only.
func (p *OIDCProvider) Revoke(t TB, client Credentials, token string) {
	t.Helper()
	postFormWith(t, p.client, p.URL+"/token/revocation", client, url.Values{"token": {token}})
}

// Stop ends the server before the test does, to show what happens without it.
func (p *OIDCProvider) Stop(TB) { p.process.stop() }
