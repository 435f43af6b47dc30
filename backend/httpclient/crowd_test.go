package httpclient_test

import (
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// crowd sends n requests to url at once and returns how many failed.
func crowd(t *testing.T, c *httpclient.Client, url string, n int) (failed int64) {
	t.Helper()
	var bad atomic.Int64
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if resp, err := send(c, request(t, url)); err != nil || resp.Status != http.StatusOK {
				bad.Add(1)
			}
		})
	}
	all.Wait()
	return bad.Load()
}

// meet answers when n requests are under way, so that each has a connection or
// stream of its own.
func meet(n int) http.HandlerFunc {
	var mu sync.Mutex
	here, all := 0, make(chan struct{})
	return func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		here++
		together := all
		if here == n {
			close(all)
			here, all = 0, make(chan struct{})
		}
		mu.Unlock()
		select {
		case <-together:
		case <-r.Context().Done():
		}
	}
}

func TestACrowdsConnectionsAreUsedAgain(t *testing.T) {
	const n = 256
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(meet(n))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	c := newClient(t, httpclient.Options{Timeout: time.Minute})
	for range 4 {
		require.Zero(t, crowd(t, c, server.URL, n))
	}
	// One that is about to be given back may miss the next round.
	require.Less(t, opened.Load(), int64(n+n/4))
}

// serveHTTP2 is a server with TLS that offers HTTP/2, and the client that trusts it.
func serveHTTP2(t *testing.T, streams int, h http.HandlerFunc) (*httptest.Server, string) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

func TestHTTP2WhereItIsOffered(t *testing.T) {
	server, ca := serveHTTP2(t, 100, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	resp, err := send(newClient(t, httpclient.Options{CAPEM: ca}), request(t, server.URL))
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", string(resp.Body))
}

// The streams of an HTTP/2 connection are as few as the server says. Slow requests
// that hold all of them must not keep others waiting.
func TestSlowRequestsDoNotHoldUpOthersOnTheirConnection(t *testing.T) {
	const streams = 4
	release := make(chan struct{})
	server, ca := serveHTTP2(t, streams, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	})
	c := newClient(t, httpclient.Options{CAPEM: ca, Timeout: time.Minute})
	require.Zero(t, crowd(t, c, server.URL, 1))
	var slow sync.WaitGroup
	for range 3 * streams {
		slow.Go(func() { _, _ = send(c, request(t, server.URL+"/slow")) })
	}
	for range 3 * streams {
		require.Zero(t, crowd(t, c, server.URL+"/quick", 1))
	}
	close(release)
	slow.Wait()
}

// silence forwards connections to a server until it is told to swallow what comes of
// those that are there: as a firewall does that has forgotten them.
type silence struct {
	net.Listener
	mu     sync.Mutex
	gagged *atomic.Bool // of the connections that are there now
}

func newSilence(t *testing.T, target string) *silence {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &silence{Listener: listener, gagged: &atomic.Bool{}}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				return
			}
			s.mu.Lock()
			gagged := s.gagged
			s.mu.Unlock()
			go forward(far, near, gagged)
			go forward(near, far, gagged)
		}
	}()
	return s
}

func forward(to, from net.Conn, gagged *atomic.Bool) {
	defer func() { _ = to.Close() }()
	chunk := make([]byte, 32<<10)
	for {
		n, err := from.Read(chunk)
		if err != nil {
			return
		}
		if gagged.Load() {
			continue
		}
		if _, err := to.Write(chunk[:n]); err != nil {
			return
		}
	}
}

// gag swallows what comes of the connections that are there; new ones are not meant.
func (s *silence) gag() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gagged.Store(true)
	s.gagged = &atomic.Bool{}
}

func TestAConnectionThatDiedInSilenceIsGivenUp(t *testing.T) {
	t.Parallel()
	server, ca := serveHTTP2(t, 100, func(http.ResponseWriter, *http.Request) {})
	between := newSilence(t, server.Listener.Addr().String())
	url := "https://" + between.Addr().String()
	c := newClient(t, httpclient.Options{CAPEM: ca, Timeout: 3 * time.Second})
	require.Zero(t, crowd(t, c, url, 1))
	between.gag()
	require.NotZero(t, crowd(t, c, url, 1), "the connection is dead")
	require.Eventually(t, func() bool { return crowd(t, c, url, 1) == 0 }, 3*time.Minute, 100*time.Millisecond,
		"and nobody notices, because requests that time out do not close it")
}

func TestATallySaysWhetherTheServerAnswers(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch status := strings.TrimPrefix(r.URL.Path, "/"); status {
		case "200":
		case "302":
			w.WriteHeader(http.StatusFound)
		case "429":
			w.WriteHeader(http.StatusTooManyRequests)
		case "503":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "endless":
			_, _ = w.Write(make([]byte, httpclient.MaxBody+1))
		case "cut":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("a"))
		case "slow":
			<-r.Context().Done()
		default:
			panic(http.ErrAbortHandler)
		}
	})
	cases := map[string]struct {
		url                          string
		answered, failed, unanswered bool
	}{
		"a success":          {server.URL + "/200", true, false, false},
		"a redirect":         {server.URL + "/302", true, false, false},
		"a refusal":          {server.URL + "/429", true, false, false},
		"too much":           {server.URL + "/endless", true, false, false},
		"a failure":          {server.URL + "/503", false, true, false},
		"a hangup":           {server.URL + "/hangup", false, false, true},
		"half an answer":     {server.URL + "/cut", false, false, true},
		"nothing in time":    {server.URL + "/slow", false, false, true},
		"nobody there":       {"http://127.0.0.1:1", false, false, true},
		"not sent by itself": {"http://example.com/", false, false, false},
	}
	c := newClient(t, httpclient.Options{Timeout: 3 * time.Second})
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, tally := httpclient.Watch(context.Background())
			_, _ = send(c, request(t, tc.url).WithContext(ctx))
			require.Equal(t, tc.answered, tally.Answered(), "answered")
			require.Equal(t, tc.failed, tally.Failed(), "failed")
			require.Equal(t, tc.unanswered, tally.Unanswered(), "unanswered")
		})
	}
}
