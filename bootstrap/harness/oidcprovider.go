package harness

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/oauth2"
)

// OIDCProvider is a running oidc-provider, with its data in memory.
type OIDCProvider struct {
	URL       string     // the issuer
	Authority *Authority // with TLS, of the server's certificate and of clients'

	client  *http.Client
	process *server
}

// StartOIDCProvider starts an oidc-provider that ends with the test. Without Node.js
// the test is skipped, unless CI is set.
func StartOIDCProvider(t TB, options OIDCProviderOptions) *OIDCProvider {
	t.Helper()
	requireNode(t)
	port := freePort(t)
	p := &OIDCProvider{URL: "http://" + address(port)}
	config := options.settings()
	if options.TLS || options.TLSAliases {
		p.URL, p.Authority = "https://"+address(port), NewAuthority(t)
		own := p.Authority.serverCertificate(t)
		secure := Fields{"key": own.Key, "cert": own.PEM, "clientCA": p.Authority.PEM}
		if options.TLSAliases {
			secure["aliasPort"] = freePort(t)
		}
		config["tls"] = secure
	}
	config["port"], config["issuer"] = port, p.URL
	p.client = p.HTTPClient(t, nil)
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

// requireNode skips the test aloud where Node.js is missing, or was found too old when
// oidc-provider was to be installed. In CI nothing may be skipped, so there it fails.
func requireNode(t TB) {
	t.Helper()
	_, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join(repository(t), "bin", "oidc-provider"))
	}
	if err == nil {
		return
	}
	const remedy = "install Node.js with npm (Debian: apt-get install nodejs npm) and run `make oidc-provider`"
	if skipper, ok := t.(interface{ Skipf(string, ...any) }); ok && os.Getenv("CI") == "" {
		skipper.Skipf("SKIPPED, %s: %v", remedy, err)
	}
	t.Fatalf("%s: %v", remedy, err)
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

// RefreshToken gets a refresh token by an authorization code flow, in which the user
// agrees to everything. The client needs the grants authorization_code and
// refresh_token. Not with TLS.
func (p *OIDCProvider) RefreshToken(t TB, client Credentials, scopes []string, resource string) string {
	t.Helper()
	config := oauth2.Config{
		ClientID:     client.ID,
		ClientSecret: client.Secret,
		Scopes:       append([]string{"offline_access"}, scopes...),
		Endpoint:     oauth2.Endpoint{AuthURL: p.URL + "/auth", TokenURL: p.URL + "/token"},
	}
	submit := func(b *browser, page *url.URL, form url.Values) *url.URL {
		t.Helper()
		resume := b.open(t, p.URL+page.Path, form)
		return b.open(t, resume.String(), nil)
	}
	token := codeFlow(t, config, func(b *browser, login *url.URL) *url.URL {
		consent := submit(b, login, url.Values{"prompt": {"login"}, "login": {"test-user"}, "password": {"any"}})
		return submit(b, consent, url.Values{"prompt": {"consent"}})
	}, oauth2.SetAuthURLParam("resource", resource), oauth2.SetAuthURLParam("prompt", "consent"))
	return token.RefreshToken
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
