package providertest

import (
	"encoding/base64"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// Proxy is an HTTP proxy as companies have them: it knows CONNECT (RFC 9110 9.3.6) and
// Basic credentials. It is safe for concurrent use.
type Proxy struct {
	// URL is where it is, and CAPEM the certificate to trust, if that is https.
	URL, CAPEM string

	server *httptest.Server

	mu       sync.Mutex
	want     string // Proxy-Authorization
	refuse   int
	to       map[string]string
	requests []*http.Request
}

// NewProxy starts a proxy that ends with the test.
func NewProxy(t testing.TB, https bool) *Proxy {
	t.Helper()
	p := &Proxy{to: map[string]string{}}
	p.server = httptest.NewUnstartedServer(p)
	if https {
		p.server.StartTLS()
		p.CAPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw}))
	} else {
		p.server.Start()
	}
	p.URL = p.server.URL
	t.Cleanup(p.server.Close)
	return p
}

// Demand has it refuse whoever brings other credentials.
func (p *Proxy) Demand(username, password string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want = "Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password))
}

// Refuse has it answer everybody with status; 0 ends that.
func (p *Proxy) Refuse(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = status
}

// Resolve has it connect to address where host, a host and port, is asked for: it is the
// proxy that resolves names.
func (p *Proxy) Resolve(host, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to[host] = address
}

// Requests are all that came to the proxy itself.
func (p *Proxy) Requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests = append(p.requests, r)
	refuse, denied, to := p.refuse, p.want != "" && r.Header.Get("Proxy-Authorization") != p.want, r.Host
	if at, ok := p.to[r.Host]; ok {
		to = at
	}
	p.mu.Unlock()
	switch {
	case refuse != 0:
		w.WriteHeader(refuse)
		return
	case denied:
		w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	case r.Method != http.MethodConnect:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	far, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = far.Close()
		return
	}
	_, _ = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	go relay(far, buffered, near, far)
	go relay(near, far, near, far)
}

// relay copies until one side ends, and then ends both.
func relay(to io.Writer, from io.Reader, both ...net.Conn) {
	_, _ = io.Copy(to, from)
	for _, c := range both {
		_ = c.Close()
	}
}
