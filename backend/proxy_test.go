package backend

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

const proxyPassword = "pr0xy-pass/word"

// behindProxy is a mount whose provider is reached through p alone.
func behindProxy(t *testing.T, p *providertest.Proxy) *mount {
	t.Helper()
	p.Demand("broker", proxyPassword)
	m := newEmptyMount(t, setup{server: authserver.Options{TLS: true}})
	m.hide(proxyPassword)
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{
		"proxy_url": p.URL, "proxy_username": "broker", "proxy_password": proxyPassword, "ca_pem": m.server.CAPEM + p.CAPEM,
	})))
	m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read,write"}))
	return m
}

func TestAProviderBehindAProxy(t *testing.T) {
	for name, p := range map[string]*providertest.Proxy{"http": providertest.NewProxy(t, false), "https": providertest.NewProxy(t, true)} {
		t.Run(name, func(t *testing.T) {
			m := behindProxy(t, p)
			l := m.mustCreds(nil)
			m.must(m.write("providers/oauth2/p/check", nil))
			require.NoError(t, m.revoke(l))
			require.False(t, m.server.Active(l.token))
			require.NotEmpty(t, p.Requests())
			for _, r := range p.Requests() {
				require.Equal(t, http.MethodConnect, r.Method)
				require.Empty(t, r.Header.Get("Authorization"))
			}
			for _, r := range m.server.Requests() {
				require.Empty(t, r.Header.Get("Proxy-Authorization"), "that is the proxy's")
			}
			shown := m.must(m.read("providers/oauth2/p")).Data
			require.Equal(t, p.URL, shown["proxy_url"])
			require.Equal(t, "broker", shown["proxy_username"])
			require.Len(t, shown["proxy_password_sha256"], 64)
			require.NotContains(t, shown, "proxy_password")
			m.start() // it is stored
			m.mustCreds(nil)
		})
	}
}

// The proxy is where every secret passes, in TLS: whoever moves it brings them all.
func TestAMovedProxyNeedsEverySecretAgain(t *testing.T) {
	p, other := providertest.NewProxy(t, false), providertest.NewProxy(t, false)
	m := behindProxy(t, p)
	for field, change := range map[string]map[string]any{
		"client_secret":  {"proxy_url": other.URL, "proxy_password": proxyPassword},
		"proxy_password": {"proxy_url": other.URL, "client_secret": parentSecret},
	} {
		_, err := m.write("providers/oauth2/p", change)
		requireCode(t, err, fault.InvalidRequest, "write "+field+" again")
	}
	_, err := m.write("providers/oauth2/p", map[string]any{"proxy_url": ""})
	requireCode(t, err, fault.InvalidRequest, "write client_secret again")
	_, err = m.write("providers/oauth2/p", map[string]any{"ca_pem": m.server.CAPEM + "\n", "client_secret": parentSecret})
	requireCode(t, err, fault.InvalidRequest, "write proxy_password again")
	require.Empty(t, other.Requests())

	m.must(m.write("providers/oauth2/p", map[string]any{"proxy_url": other.URL, "client_secret": parentSecret, "proxy_password": proxyPassword}))
	m.mustCreds(nil)
	require.NotEmpty(t, other.Requests())
	m.must(m.write("providers/oauth2/p", map[string]any{"proxy_url": "", "client_secret": parentSecret}))
	before := len(p.Requests()) + len(other.Requests())
	m.mustCreds(nil)
	require.Equal(t, before, len(p.Requests())+len(other.Requests()))
	shown := m.must(m.read("providers/oauth2/p")).Data
	for _, field := range []string{"proxy_url", "proxy_username", "proxy_password_sha256"} {
		require.NotContains(t, shown, field)
	}
}

func TestProxiesThatAreRefused(t *testing.T) {
	p := providertest.NewProxy(t, false)
	m := newEmptyMount(t, setup{}) // plain http
	m.hide(proxyPassword)
	for _, test := range []struct {
		fields map[string]any
		words  []string
	}{
		{map[string]any{"proxy_url": p.URL}, []string{"issuer must be https", "proxy"}},
		{map[string]any{"issuer": nil, "token_url": m.server.URL + "/token", "proxy_url": p.URL}, []string{"token_url must be https"}},
		{map[string]any{"issuer": nil, "token_url": "https://as.example.com/token", "jwks_url": m.server.URL + "/jwks", "proxy_url": p.URL}, []string{"jwks_url must be https"}},
		{map[string]any{"proxy_url": "http://169.254.169.254"}, []string{"proxy_url", "link-local"}},
		{map[string]any{"proxy_url": "http://broker:" + proxyPassword + "@proxy.example.com"}, []string{"proxy_url"}},
		{map[string]any{"proxy_url": "http://proxy.example.com:3128", "proxy_username": "broker", "proxy_password": proxyPassword}, []string{"proxy_url must be https", "allow_http"}},
		{map[string]any{"proxy_password": proxyPassword}, []string{"need proxy_url"}},
		{map[string]any{"proxy_url": "https://proxy.example.com", "proxy_password": proxyPassword}, []string{"needs proxy_username"}},
	} {
		_, err := m.write("providers/oauth2/p", m.providerFields(test.fields))
		requireCode(t, err, fault.InvalidRequest, test.words...)
		issuer := map[string]any{"jwks_url": m.server.URL + "/jwks", "bound_issuer": "https://i.example.com", "bound_audiences": "https://b.example.com"}
		for _, field := range []string{"proxy_url", "proxy_username", "proxy_password"} {
			if v, ok := test.fields[field]; ok {
				issuer[field] = v
			}
		}
		_, err = m.write("issuers/i", issuer)
		requireCode(t, err, fault.InvalidRequest)
	}
	require.Empty(t, p.Requests())
}

// What goes wrong at the proxy says nothing of the parent, and who calls creds does not
// learn where it is.
func TestTheProxysErrorsAreItsOwn(t *testing.T) {
	p := providertest.NewProxy(t, false)
	m := behindProxy(t, p)
	l := m.mustCreds(nil)
	at := strings.TrimPrefix(p.URL, "http://")
	for status, words := range map[int][]string{
		http.StatusProxyAuthRequired: {"proxy", "407", "proxy_username", "proxy_password"},
		http.StatusForbidden:         {"proxy", "403"},
		http.StatusBadGateway:        {"proxy", "502"},
	} {
		p.Refuse(status)
		m.start() // with no connection from before
		_, err := m.creds(nil)
		requireCode(t, err, fault.TemporarilyUnavailable, words...)
		require.NotContains(t, err.Error(), at)
		_, err = m.write("providers/oauth2/p/check", nil)
		requireCode(t, err, fault.TemporarilyUnavailable, append(words, "tried", "through the proxy "+at)...)
		require.Error(t, m.revoke(l))
		require.NotEqual(t, "refused", m.must(m.read("providers/oauth2/p")).Data["health"])
	}
	p.Refuse(0)
	require.NoError(t, m.revoke(l))
	require.Contains(t, m.log.String(), at, "the operator's log says where it was tried")
}

// Without a proxy, who operates the provider is told which address was tried.
func TestAFailedConnectionSaysWhichAddressWasTried(t *testing.T) {
	m := newMount(t, setup{})
	at := strings.TrimPrefix(m.server.URL, "http://")
	m.server.Break(authserver.EndpointToken, authserver.Hangup())
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.NotContains(t, err.Error(), at)
	_, err = m.write("providers/oauth2/p/check", nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "tried "+at)
	_, err = m.write("providers/oauth2/q", m.providerFields(map[string]any{"issuer": "http://127.0.0.1:1"}))
	requireCode(t, err, fault.TemporarilyUnavailable, "tried 127.0.0.1:1")
	m.lost += 2
}

func TestAnIssuerBehindAProxy(t *testing.T) {
	p := providertest.NewProxy(t, false)
	p.Demand("broker", proxyPassword)
	m := newMount(t, setup{})
	m.hide(proxyPassword)
	var s *httptest.Server
	s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Empty(t, r.Header.Get("Proxy-Authorization"))
		if r.URL.Path == "/keys" {
			_, _ = w.Write([]byte(`{"keys":[]}`))
			return
		}
		_, _ = w.Write([]byte(`{"issuer":"` + s.URL + `","jwks_uri":"` + s.URL + `/keys"}`))
	}))
	t.Cleanup(s.Close)
	fields := map[string]any{
		"oidc_discovery_url": s.URL, "bound_audiences": "https://b.example.com", "proxy_url": p.URL, "proxy_username": "broker",
		"ca_pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})),
	}
	_, err := m.write("issuers/i", fields)
	requireCode(t, err, fault.TemporarilyUnavailable, "407", "proxy_password", "tried")
	fields["proxy_password"] = proxyPassword
	m.must(m.write("issuers/i", fields))
	require.NotEmpty(t, p.Requests())
	shown := m.must(m.read("issuers/i")).Data
	require.Equal(t, p.URL, shown["proxy_url"])
	require.Len(t, shown["proxy_password_sha256"], 64)
	require.NotContains(t, shown, "proxy_password")

	other := providertest.NewProxy(t, false)
	_, err = m.write("issuers/i", map[string]any{"proxy_url": other.URL})
	requireCode(t, err, fault.InvalidRequest, "write proxy_password again")
	require.Empty(t, other.Requests())
	m.must(m.write("issuers/i", map[string]any{"proxy_url": ""}))
	require.NotContains(t, m.must(m.read("issuers/i")).Data, "proxy_password_sha256")
}
