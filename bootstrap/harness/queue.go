package harness

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
)

// queue stands before a server that cannot do two things at once: it passes on one
// request after the other. Queues that share a turn are one.
type queue struct {
	URL string

	turn    *sync.Mutex
	port    int
	handler http.Handler
	server  *http.Server // nil while it is closed
}

// silent is for what tests provoke on purpose.
var silent = log.New(io.Discard, "", 0)

// newQueue makes a queue before the server that will listen on port.
func newQueue(t TB, turn *sync.Mutex, port int) *queue {
	t.Helper()
	q := &queue{turn: turn, port: freePort(t)}
	q.URL = "http://" + address(q.port)
	target, err := url.Parse("http://" + address(port))
	if err != nil {
		t.Fatalf("queue: %v", err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorLog: silent,
		// A server that is gone hangs up, and so does what stands before it.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	q.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q.turn.Lock()
		defer q.turn.Unlock()
		// What has begun is finished, also for a client that hangs up.
		proxy.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
	})
	t.Cleanup(q.close)
	return q
}

// open begins to listen, if it does not yet.
func (q *queue) open(t TB) {
	t.Helper()
	if q.server != nil {
		return
	}
	listener, err := net.Listen("tcp", address(q.port))
	if err != nil {
		t.Fatalf("queue: %v", err)
	}
	q.server = &http.Server{Handler: q.handler, ReadHeaderTimeout: httpTimeout, ErrorLog: silent}
	go func(s *http.Server) { _ = s.Serve(listener) }(q.server)
}

// close stops listening and hangs up on everybody.
func (q *queue) close() {
	if q.server == nil {
		return
	}
	_ = q.server.Close()
	q.server = nil
}
