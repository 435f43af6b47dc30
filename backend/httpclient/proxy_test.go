package httpclient_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// secured is a server with TLS that says which credentials it was shown.
func secured(t *testing.T) (url, ca string, seen func() []http.Header) {
	t.Helper()
	var mu sync.Mutex
	var headers []http.Header
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		headers = append(headers, r.Header.Clone())
		mu.Unlock()
		_, _ = io.WriteString(w, r.Proto)
	}))
	s.EnableHTTP2 = true
	ca = serveAsking(t, s)
	return s.URL, ca, func() []http.Header {
		mu.Lock()
		defer mu.Unlock()
		return headers
	}
}

func through(p *providertest.Proxy, username, password string) *httpclient.Proxy {
	return &httpclient.Proxy{URL: p.URL, Username: username, Password: secret.New(password)}
}

// What is the proxy's stays with the proxy, and what is the server's with the server.
func TestATunnelKeepsTheTwoApart(t *testing.T) {
	url, ca, seen := secured(t)
	for name, p := range map[string]*providertest.Proxy{"http": providertest.NewProxy(t, false), "https": providertest.NewProxy(t, true)} {
		t.Run(name, func(t *testing.T) {
			p.Demand("broker", "pr0xy-pass")
			plain := newClient(t, httpclient.Options{CAPEM: ca + p.CAPEM, Proxy: through(p, "broker", "pr0xy-pass")})
			certified, err := plain.WithCertificate(selfSigned(t))
			require.NoError(t, err)
			require.True(t, certified.Proxied())
			before := len(seen())
			resp, err := send(certified, request(t, url))
			require.NoError(t, err)
			require.Equal(t, "HTTP/2.0", string(resp.Body))
			require.Len(t, seen(), before+1)
			require.Empty(t, seen()[before].Get("Proxy-Authorization"))
			for _, r := range p.Requests() {
				require.Equal(t, http.MethodConnect, r.Method)
				require.Equal(t, strings.TrimPrefix(url, "https://"), r.Host)
				require.Empty(t, r.Header.Get("Authorization"))
				if r.TLS != nil {
					require.Empty(t, r.TLS.PeerCertificates)
				}
			}
			require.NotEmpty(t, p.Requests())
		})
	}
}

// The certificate of an https proxy is looked at, and that of the server behind it.
func TestATunnelTrustsNobodyBlindly(t *testing.T) {
	url, _, _ := secured(t)
	p := providertest.NewProxy(t, true)
	nobodys := authserver.New(t, authserver.Options{ExpiredTLS: true}).CAPEM
	_, err := send(newClient(t, httpclient.Options{CAPEM: nobodys, Proxy: through(p, "", "")}), request(t, url))
	require.NotEmpty(t, httpclient.ProxyAdvice(err), "%v", err)
	require.Empty(t, p.Requests())
	plain := providertest.NewProxy(t, false)
	_, err = send(newClient(t, httpclient.Options{CAPEM: nobodys, Proxy: through(plain, "", "")}), request(t, url))
	require.Error(t, err)
	require.Empty(t, httpclient.ProxyAdvice(err), "that is the server's")
	require.False(t, failed(t, err).Sent)
}

func TestWhatAProxyRefuses(t *testing.T) {
	url, ca, seen := secured(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = mute.Close() })
	speaking := func(answer string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.ReadAtLeast(c, make([]byte, 1024), 20)
				_, _ = io.WriteString(c, answer)
				_ = c.Close()
			}
		}()
		return "http://" + l.Addr().String()
	}
	status := func(code int) *httpclient.Proxy {
		p := providertest.NewProxy(t, false)
		p.Refuse(code)
		return through(p, "", "")
	}
	demanding := providertest.NewProxy(t, false)
	demanding.Demand("broker", "pr0xy-pass")
	for name, test := range map[string]struct {
		proxy *httpclient.Proxy
		words []string
	}{
		"407 without credentials": {through(demanding, "", ""), []string{"407", "proxy_username", "proxy_password"}},
		"407 with wrong ones":     {through(demanding, "broker", "pr0xy-wrong"), []string{"407", "proxy_username", "proxy_password"}},
		"403":                     {status(403), []string{"HTTP 403"}},
		"500, as tinyproxy":       {status(500), []string{"cannot reach the host", "HTTP 500"}},
		"502":                     {status(502), []string{"cannot reach the host", "HTTP 502"}},
		"a redirect":              {status(302), []string{"HTTP 302"}},
		"401":                     {status(401), []string{"HTTP 401", "proxy_username"}},
		"nobody there":            {&httpclient.Proxy{URL: "http://127.0.0.1:1"}, []string{"could not be reached", "proxy_url"}},
		"silence":                 {&httpclient.Proxy{URL: "http://" + mute.Addr().String()}, []string{"could not be reached"}},
		"no HTTP":                 {&httpclient.Proxy{URL: speaking("220 mail pr0xy-banner\r\n")}, []string{"could not be reached"}},
		"too much":                {&httpclient.Proxy{URL: speaking("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}")}, []string{"could not be reached"}},
		"endless headers":         {&httpclient.Proxy{URL: speaking("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 70<<10))}, []string{"could not be reached"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, tally := httpclient.Watch(context.Background())
			_, err := send(newClient(t, httpclient.Options{CAPEM: ca, Timeout: 2 * time.Second, Proxy: test.proxy}), request(t, url).WithContext(ctx))
			e := failed(t, err)
			require.False(t, e.Sent)
			require.True(t, tally.Unanswered())
			for _, word := range test.words {
				require.Contains(t, httpclient.ProxyAdvice(err), word)
			}
			require.NotContains(t, err.Error(), "pr0xy")
			require.Contains(t, e.Tried, "through the proxy "+strings.TrimPrefix(test.proxy.URL, "http://"))
			require.NotContains(t, httpclient.ProxyAdvice(err), "127.0.0.1", "where it is, the operator's log says")
		})
	}
	require.Empty(t, seen())
}

func TestWhatIsNotSentThroughAProxy(t *testing.T) {
	p := providertest.NewProxy(t, false)
	c := newClient(t, httpclient.Options{Timeout: 2 * time.Second, AllowHTTP: true, Proxy: through(p, "", "")})
	for _, url := range []string{
		"http://as.example.com/", "http://127.0.0.1:1/",
		"https://169.254.169.254/", "https://[fd00:ec2::254]/", "https://0.0.0.0/", "https://[::ffff:169.254.169.254]/",
		"https://metadata.google.internal/", "https://METADATA.google.internal./", "https://metadata/", "https://metadata./", "https://METADATA../", "https://instance-data./", "https://metadata.google.internal../", "https://169.254.169.254../", "https://instance-data.ec2.internal/",
		"https://2852039166/", "https://0xA9FEA9FE/", "https://0251.0376.0251.0376/", "https://169.254.43518/", "https://1/",
		"https://１６９.254.169.254/", "https://169。254。169。254/",
	} {
		_, err := send(c, request(t, url))
		require.False(t, failed(t, err).Sent, url)
	}
	require.Empty(t, p.Requests(), "the proxy was asked for none of them")
	for _, url := range []string{"https://2852039166/", "https://0x7f.1/", "https://127.1/"} {
		require.ErrorContains(t, httpclient.CheckURL(url, false), "another spelling", url)
	}
	for _, url := range []string{"https://1password.com/", "https://a.1.example.com/", "https://0xa9.example.com/", "https://x0a/", "https://10.0.0.1/"} {
		require.NoError(t, httpclient.CheckURL(url, false), url)
	}
}

// A name that only the proxy can resolve is no hindrance: it is the proxy who resolves.
func TestTheProxyResolvesNames(t *testing.T) {
	url, ca, seen := secured(t)
	p := providertest.NewProxy(t, false)
	p.Resolve("example.com:443", strings.TrimPrefix(url, "https://")) // httptest's certificate has this name
	_, err := send(newClient(t, httpclient.Options{CAPEM: ca, Proxy: through(p, "", "")}), request(t, "https://example.com/"))
	require.NoError(t, err)
	require.Len(t, seen(), 1)
}
