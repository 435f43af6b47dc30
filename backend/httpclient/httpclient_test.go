package httpclient_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func newClient(t *testing.T, o httpclient.Options) *httpclient.Client {
	t.Helper()
	c, err := httpclient.New(o)
	require.NoError(t, err)
	return c
}

// send has c send req, which holds secrets, to where that is pinned.
func send(c *httpclient.Client, req *http.Request) (*httpclient.Response, error) {
	return c.To([]string{req.URL.String()}).Do(req)
}

func request(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, strings.NewReader("secret=hunter2"))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Basic aHVudGVyMg==")
	return req
}

// serve ends with the test. Its handlers' requests end first, so that a handler
// may wait for that.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	ended, end := context.WithCancel(context.Background())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h(w, r.WithContext(ended))
	}))
	t.Cleanup(func() {
		end()
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func failed(t *testing.T, err error) *httpclient.Error {
	t.Helper()
	var e *httpclient.Error
	require.ErrorAs(t, err, &e)
	require.NotContains(t, err.Error(), "hunter2")
	require.NotContains(t, err.Error(), "aHVudGVyMg")
	return e
}

func TestRedirectsAreAnswersAndNotFollowed(t *testing.T) {
	var followed atomic.Int32
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, status)
		})
		resp, err := send(newClient(t, httpclient.Options{}), request(t, s.URL))
		require.NoError(t, err)
		require.Equal(t, status, resp.Status)
	}
	require.Zero(t, followed.Load())
}

func TestBodiesAreBounded(t *testing.T) {
	size := httpclient.MaxBody
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(strings.Repeat("a", size)))
	})
	c := newClient(t, httpclient.Options{})
	resp, err := send(c, request(t, s.URL))
	require.NoError(t, err)
	require.Len(t, resp.Body, httpclient.MaxBody)

	size++
	_, err = send(c, request(t, s.URL))
	e := failed(t, err)
	require.ErrorIs(t, err, httpclient.ErrBodyTooLarge)
	require.True(t, e.Sent)
	require.Len(t, e.Partial, httpclient.MaxBody)
	require.Equal(t, 200, e.Status)

	longer := request(t, s.URL)
	longer = longer.WithContext(httpclient.UpTo(longer.Context(), size))
	resp, err = send(c, longer)
	require.NoError(t, err)
	require.Len(t, resp.Body, size)
	size++
	_, err = send(c, longer)
	require.ErrorIs(t, err, httpclient.ErrBodyTooLarge)
}

func TestAnEndlessBodyEnds(t *testing.T) {
	s := authserver.New(t, authserver.Options{})
	s.Break(authserver.EndpointToken, authserver.Endless())
	start := time.Now()
	_, err := send(newClient(t, httpclient.Options{}), request(t, s.Endpoint(authserver.EndpointToken)))
	require.ErrorIs(t, err, httpclient.ErrBodyTooLarge)
	require.Less(t, time.Since(start), time.Minute)
}

func TestACompressedBodyIsBoundedUnpacked(t *testing.T) {
	packed := bomb(t, 4*httpclient.MaxBody)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed)
	})
	_, err := send(newClient(t, httpclient.Options{}), request(t, s.URL))
	require.ErrorIs(t, err, httpclient.ErrBodyTooLarge)
}

func TestSlowServers(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"a trickle": func(w http.ResponseWriter, r *http.Request) {
			for range 1000 {
				_, _ = w.Write([]byte("a"))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, handler)
			start := time.Now()
			// Long enough for the request to be sent, also on a busy machine.
			_, err := send(newClient(t, httpclient.Options{Timeout: 3 * time.Second}), request(t, s.URL))
			e := failed(t, err)
			require.True(t, e.Sent, "the server may have acted")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, time.Since(start), time.Minute)
		})
	}
}

func TestTheRequestsContextEndsTheExchange(t *testing.T) {
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := send(newClient(t, httpclient.Options{}), request(t, s.URL).WithContext(ctx))
	failed(t, err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestACutBodyIsSeen(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"access_token":"abc","exp`))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	_, err := send(newClient(t, httpclient.Options{}), request(t, s.URL))
	e := failed(t, err)
	require.True(t, e.Sent)
	require.Equal(t, http.StatusCreated, e.Status)
	require.Equal(t, `{"access_token":"abc","exp`, string(e.Partial))
}

func TestNotSent(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	expired := authserver.New(t, authserver.Options{ExpiredTLS: true})
	unknown := authserver.New(t, authserver.Options{TLS: true})
	for name, test := range map[string]struct{ url, ca string }{
		"nobody listens":       {closed.URL, ""},
		"expired certificate":  {expired.URL, expired.CAPEM},
		"unknown certificate":  {unknown.URL, ""},
		"another's CA":         {unknown.URL, expired.CAPEM},
		"http not allowed":     {"http://as.example.com/", ""},
		"link-local":           {"https://169.254.169.254/", ""},
		"name does not exist":  {"https://nonexistent.invalid/", ""},
		"user info in the URL": {"https://a:b@127.0.0.1/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := send(newClient(t, httpclient.Options{CAPEM: test.ca, Timeout: 2 * time.Second}), request(t, test.url))
			require.False(t, failed(t, err).Sent, "%v", err)
		})
	}
	_, err := send(newClient(t, httpclient.Options{CAPEM: unknown.CAPEM}), request(t, unknown.URL))
	require.NoError(t, err)
}

func TestAHangupIsSent(t *testing.T) {
	s := authserver.New(t, authserver.Options{})
	s.Break(authserver.EndpointToken, authserver.Hangup())
	_, err := send(newClient(t, httpclient.Options{}), request(t, s.Endpoint(authserver.EndpointToken)))
	require.True(t, failed(t, err).Sent)
	require.Equal(t, 1, s.Counts().Requests[authserver.EndpointToken], "a POST is not repeated")
}

// A name that resolves to a metadata service is caught when its address is
// dialled, which no check of the URL could do.
func TestMetadataServicesAreRefusedWhereTheyAreDialled(t *testing.T) {
	c := newClient(t, httpclient.Options{AllowHTTP: true, Timeout: 2 * time.Second})
	for why, addresses := range map[string][]string{
		"a link-local address": {
			"169.254.169.254", "fe80::1", "::ffff:169.254.1.1", "224.0.0.1", "ff02::1", "ff01::1",
			"::169.254.169.254", "::ffff:0:169.254.169.254", "64:ff9b::169.254.169.254",
			"64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:aa:a9:fea9:fe00:0", "64:ff9b:1:aaa9:fe:a9fe::",
			"2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "2001:0:808:808::5601:5601", "2a00::5efe:a9fe:a9fe", "2a00::200:5efe:169.254.169.254",
		},
		"the address of a cloud's metadata service": {
			"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42",
			"fd00:c1::a9fe:a9fe", "fd00:100::100:200", "fd00:a9fe:a9fe::1",
			"::ffff:100.100.100.200", "64:ff9b::168.63.129.16", "64:ff9b:1::192.0.0.192", "2002:a83f:8110::1",
		},
		"nobody's": {"0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"},
	} {
		for _, address := range addresses {
			_, err := c.Dial(context.Background(), netip.AddrPortFrom(netip.MustParseAddr(address), 80).String())
			require.ErrorContains(t, err, "refusing to connect", address)
			require.ErrorContains(t, err, why, address)
		}
	}
	// Their neighbours are refused by nobody.
	for _, address := range []string{
		"100.100.100.201", "168.63.129.17", "192.0.0.193", "169.253.255.255", "64:ff9b::8.8.8.8", "64:ff9b:1::8.8.8.8",
		"64:ff9b:1:808:8:800::", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7", "fd20:ce::253", "2a00::5efe:808:808", "::1", "127.0.0.1",
	} {
		require.Empty(t, httpclient.Forbidden(netip.MustParseAddr(address)), address)
	}
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	conn, err := c.Dial(context.Background(), strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func TestCAPEM(t *testing.T) {
	_, err := httpclient.New(httpclient.Options{CAPEM: "nonsense"})
	require.ErrorContains(t, err, "ca_pem")
}

func TestManyHeadersAreRefused(t *testing.T) {
	many := 200
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for range many {
			w.Header().Add("X-Padding", strings.Repeat("a", 1000))
		}
	})
	c := newClient(t, httpclient.Options{})
	_, err := send(c, request(t, s.URL))
	require.ErrorContains(t, err, "server response headers exceeded")
	require.True(t, failed(t, err).Sent)
	many = 20
	_, err = send(c, request(t, s.URL))
	require.NoError(t, err, "it was their number, and nothing else")
}

// bomb is a gzip stream of n zeros.
func bomb(t *testing.T, n int) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(make([]byte, n))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return packed.Bytes()
}

// A certificate is shown by the client that has it, over TLS, to whoever asks, and
// the client that it was made of goes on without.
func TestACertificateIsOneClientsOwn(t *testing.T) {
	s := authserver.New(t, authserver.Options{TLS: true, MutualTLS: true})
	plain := newClient(t, httpclient.Options{CAPEM: s.CAPEM})
	certified, err := plain.WithCertificate(selfSigned(t))
	require.NoError(t, err)
	_, err = send(certified, request(t, s.URL+"/with"))
	require.NoError(t, err)
	_, err = send(plain, request(t, s.URL+"/without"))
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"/with": true}, s.Certified())

	bare := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request arrived in plain") })
	_, err = send(certified, request(t, bare.URL))
	require.ErrorContains(t, failed(t, err), "https")
	require.False(t, failed(t, err).Sent)
}

func TestARefusedCertificateIsNotSent(t *testing.T) {
	s := authserver.New(t, authserver.Options{TLS: true, MutualTLS: true, RefuseCertificates: true})
	certified, err := newClient(t, httpclient.Options{CAPEM: s.CAPEM}).WithCertificate(selfSigned(t))
	require.NoError(t, err)
	_, err = send(certified, request(t, s.URL))
	require.ErrorIs(t, err, httpclient.ErrCertificateRefused)
	require.False(t, failed(t, err).Sent)
	require.Empty(t, s.Requests())
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
