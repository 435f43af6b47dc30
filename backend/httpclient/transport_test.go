package httpclient_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// vendor is a client that somebody else wrote on top of net/http: it knows nothing of
// the broker, and follows redirects if it is let.
func vendor(ctx context.Context, c *http.Client, tokenURL string) (*oauth2.Token, error) {
	config := clientcredentials.Config{ClientID: "broker", ClientSecret: "hunter2", TokenURL: tokenURL, AuthStyle: oauth2.AuthStyleInHeader}
	return config.Token(context.WithValue(ctx, oauth2.HTTPClient, c))
}

func TestAVendorsClientIsGuardedAsWell(t *testing.T) {
	var elsewhere atomic.Int32
	other := serve(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/token", http.StatusTemporaryRedirect)
		case "/astray":
			http.Redirect(w, r, other.URL+"/token", http.StatusTemporaryRedirect)
		case "/endless":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"abc","x":"`+strings.Repeat("a", httpclient.MaxBody)+`"}`)
		case "/failing":
			w.WriteHeader(http.StatusBadGateway)
		case "/slow":
			<-r.Context().Done()
		case "/token":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"abc","token_type":"Bearer"}`)
		}
	})
	c := newClient(t, httpclient.Options{Timeout: 3 * time.Second}).To([]string{httpclient.Below(s.URL + "/")})
	follower := &http.Client{Transport: c.HTTP().Transport} // as a library that makes its own of it
	for _, test := range []struct {
		name                         string
		client                       *http.Client
		url                          string
		ok                           bool
		answered, failed, unanswered bool
		is                           error
	}{
		{name: "a token", client: c.HTTP(), url: s.URL + "/token", ok: true, answered: true},
		{name: "a redirect", client: c.HTTP(), url: s.URL + "/redirect", answered: true},
		{name: "a redirect that is followed", client: follower, url: s.URL + "/redirect", answered: true},
		{name: "a redirect that is followed elsewhere", client: follower, url: s.URL + "/astray", answered: true},
		{name: "an endless body", client: c.HTTP(), url: s.URL + "/endless", answered: true},
		{name: "a failure", client: c.HTTP(), url: s.URL + "/failing", failed: true},
		{name: "silence", client: c.HTTP(), url: s.URL + "/slow", unanswered: true, is: context.DeadlineExceeded},
		{name: "another place", client: c.HTTP(), url: other.URL + "/token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, tally := httpclient.Watch(context.Background())
			token, err := vendor(ctx, test.client, test.url)
			require.Equal(t, test.ok, err == nil, "%v", err)
			require.Equal(t, test.ok, token != nil)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			require.Equal(t, test.answered, tally.Answered(), "answered")
			require.Equal(t, test.failed, tally.Failed(), "failed")
			require.Equal(t, test.unanswered, tally.Unanswered(), "unanswered")
			require.Equal(t, test.name == "another place", tally.Astray())
		})
	}
	require.Zero(t, elsewhere.Load())

	ctx, tally := httpclient.Watch(context.Background())
	resp, err := c.HTTP().Do(request(t, s.URL+"/endless").WithContext(ctx))
	require.NoError(t, err)
	read, err := io.ReadAll(resp.Body) // x/oauth2 has a bound of its own
	require.ErrorIs(t, err, httpclient.ErrBodyTooLarge)
	require.Len(t, read, httpclient.MaxBody)
	require.NoError(t, resp.Body.Close())
	require.True(t, tally.Answered())
}

// A client on top of net/http quotes the URL in its errors, and there the credential of
// many an API is.
func TestWhatIsKeptOfAnErrorHoldsNoCredential(t *testing.T) {
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	c := newClient(t, httpclient.Options{}).To([]string{httpclient.Below(s.URL)})
	for _, to := range []string{s.URL + "/bot-hunter2/send?key=hunter2", "http://127.0.0.1:1/hunter2?key=hunter2"} {
		_, err := c.HTTP().Get(to)
		require.ErrorContains(t, err, "hunter2", "the library's own")
		kept := httpclient.Cause(err)
		require.NotContains(t, kept.Error(), "hunter2")
		require.Equal(t, strings.HasPrefix(to, s.URL), kept.Sent)
		if kept.Sent {
			require.Contains(t, kept.Error(), strings.TrimPrefix(s.URL, "http://"), "it says where that was")
		}
	}
	kept := httpclient.Cause(&url.Error{Op: "Get", URL: s.URL + "?key=hunter2", Err: errors.New("of the library's own")})
	require.NotContains(t, kept.Error(), "hunter2")
	require.True(t, kept.Sent, "nobody knows")
}

func TestACertificateIsNotShownForAPublicDocument(t *testing.T) {
	var shown, asked atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		shown.Add(int32(len(r.TLS.PeerCertificates)))
	}))
	ca := serveAsking(t, s)
	certified, err := newClient(t, httpclient.Options{CAPEM: ca}).To([]string{httpclient.Below(s.URL)}).WithCertificate(selfSigned(t))
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.URL+"/jwks", nil)
	require.NoError(t, err)
	_, err = certified.Public().Do(req)
	require.NoError(t, err)
	require.Zero(t, shown.Load())
	_, err = certified.Do(request(t, s.URL+"/token"))
	require.NoError(t, err)
	require.EqualValues(t, 1, shown.Load())
	require.EqualValues(t, 2, asked.Load())
}

// The environment's proxy is somebody's for other programs. net/http reads it once in a
// process, and never for this machine, so that its setting is what can be looked at.
func TestTheEnvironmentsProxyIsNotUsed(t *testing.T) {
	plain := newClient(t, httpclient.Options{})
	certified, err := plain.WithCertificate(selfSigned(t))
	require.NoError(t, err)
	through := newClient(t, httpclient.Options{Proxy: &httpclient.Proxy{URL: "http://127.0.0.1:1"}})
	for _, c := range []*httpclient.Client{plain, certified, through} {
		require.False(t, c.AsksForAProxy())
	}
}

// Each exchange but the first waits for its turn, and is not made without it.
func TestFurtherExchangesWaitForTheirTurn(t *testing.T) {
	var reached atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	c := newClient(t, httpclient.Options{}).To([]string{s.URL + "/"})
	turns, full := 0, errors.New("full")
	ctx := httpclient.Pace(context.Background(), func(context.Context) error {
		if turns == 2 {
			return full
		}
		turns++
		return nil
	})
	ctx, tally := httpclient.Watch(ctx)
	for range 3 {
		_, err := c.Do(request(t, s.URL+"/").WithContext(ctx))
		require.NoError(t, err)
	}
	require.Equal(t, 2, turns)
	_, err := c.Do(request(t, s.URL+"/").WithContext(ctx))
	require.ErrorIs(t, err, full)
	require.False(t, failed(t, err).Sent)
	require.EqualValues(t, 3, reached.Load())
	require.False(t, tally.Unanswered(), "nobody was asked")
}

func TestAFailedConnectionSaysWhereItWasTried(t *testing.T) {
	for to, tried := range map[string]string{
		"http://localhost:1/path-hunter2?hunter2": "localhost:1",
		"http://127.0.0.1:1/":                     "127.0.0.1:1 (127.0.0.1:1)",
		"https://nonexistent.invalid/":            "nonexistent.invalid:443",
	} {
		_, err := send(newClient(t, httpclient.Options{Timeout: 3 * time.Second}), request(t, to))
		require.Contains(t, failed(t, err).Tried, tried)
		require.ErrorContains(t, err, tried)
	}
}

// serveAsking serves TLS and asks for certificates; it returns what to trust.
func serveAsking(t *testing.T, s *httptest.Server) (ca string) {
	t.Helper()
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestARedirectIsShownWithoutWhatMayBeASecret(t *testing.T) {
	for location, shown := range map[string]string{
		"https://login.example.com/realms/a/protocol/openid-connect/token": "https://login.example.com/realms/a/protocol/openid-connect/token",
		"https://login.example.com/9188040d-6c67-4c5b-b112-36a304b66dad/":  "https://login.example.com/9188040d-6c67-4c5b-b112-36a304b66dad/",
		"https://login.example.com":                                        "https://login.example.com",
		"https://u:hunter2@login.example.com/a?b=hunter2#hunter2":          "https://login.example.com/a",
		"https://login.example.com/a;jsessionid=hunter2/b;c":               "https://login.example.com/a/b",
		"https://login.example.com/a/%68unter2/b":                          "https://login.example.com/a/...",
		"https://login.example.com/a=hunter2/b":                            "https://login.example.com/...",
		"https://login.example.com/c/" + strings.Repeat("a1", 13) + "/b":   "https://login.example.com/c/...",
		"https://login.example.com/aHVudGVyMg==/b":                         "https://login.example.com/...",
		"https://login.example.com/cb/aHVudGVyMg/b":                        "https://login.example.com/cb/aHVudGVyMg/b", // nobody's
		"https://login.example.com/cb/my-t0ken/b":                          "",                                          // what was sent
		"ftp://login.example.com/":                                         "",
		"https://login.example.com/" + strings.Repeat("ab/", 100):          "",
	} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusFound)
		})
		req := request(t, s.URL)
		req.Header.Set("Authorization", "Bearer my-t0ken")
		resp, err := send(newClient(t, httpclient.Options{}), req)
		require.NoError(t, err)
		require.Equal(t, shown, resp.PointsTo(), location)
	}
}
