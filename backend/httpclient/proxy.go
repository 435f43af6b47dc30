package httpclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Proxy is the way out of a network that has no other: by CONNECT (RFC 9110 9.3.6), so
// that it sees which host is called, and nothing of what is said there. The broker makes
// the tunnel itself, so that what is the target's (its certificate, its authorities) is
// never the proxy's, and the other way round.
type Proxy struct {
	// URL is where it is: http or https, a host and a port.
	URL string
	// Username and Password are for the proxy alone (RFC 7617); both may be empty.
	Username string
	Password secret.Text
}

// NewProxy is the proxy of these settings, nil if they name none.
func NewProxy(url, username, password string) (*Proxy, error) {
	switch {
	case url != "":
		return &Proxy{URL: url, Username: username, Password: secret.New(password)}, nil
	case username != "" || password != "":
		return nil, errors.New("proxy_username and proxy_password need proxy_url")
	}
	return nil, nil
}

// CheckProxy says why p cannot be a proxy, or nil. It may be on this machine or in a
// private network. In plain http it is told no password, unless it is on this machine
// or allowHTTP.
func CheckProxy(p Proxy, allowHTTP bool) error {
	if err := CheckURL(p.URL, true); err != nil {
		return fmt.Errorf("proxy_url %w", err)
	}
	u, err := url.Parse(p.URL)
	switch {
	case err != nil:
		return errors.New("proxy_url is not a URL")
	case u.Path != "" && u.Path != "/":
		return errors.New("proxy_url must not have a path")
	case p.Username == "" && !p.Password.Empty():
		return errors.New("proxy_password needs proxy_username")
	case len(p.Username) > 1024 || strings.ContainsRune(p.Username, ':') || strings.ContainsFunc(p.Username, control):
		return errors.New("proxy_username must be at most 1024 characters without a colon (RFC 7617 2)")
	case len(p.Password.Reveal()) > 4096 || strings.ContainsFunc(p.Password.Reveal(), control):
		return errors.New("proxy_password must be at most 4096 characters without control characters (is there a line end at its end?)")
	case p.Username != "" && u.Scheme == "http" && !isThisMachine(u.Hostname()) && !allowHTTP:
		return errors.New("proxy_url must be https if it has credentials (plain http needs allow_http=true)")
	}
	return nil
}

// address is the host and port.
func (p *Proxy) address() string {
	u, err := url.Parse(p.URL)
	if err != nil { // CheckProxy has parsed it before
		return ""
	}
	_, host, port := origin(u)
	return net.JoinHostPort(host, port)
}

// ProxyError is that no connection came about because of the proxy: the server has got
// nothing, and what it would have said of the parent is not known.
type ProxyError struct {
	// Status is the proxy's answer to CONNECT, 0 if there was none.
	Status int
	err    error
}

func (e *ProxyError) Error() string { return e.Advice() + ": " + e.err.Error() }

// Unwrap gives what net says, for timeouts.
func (e *ProxyError) Unwrap() error { return e.err }

// Advice says what to do about it. It names settings and no address.
func (e *ProxyError) Advice() string {
	switch {
	case e.Status == http.StatusProxyAuthRequired, e.Status == http.StatusUnauthorized: // as tinyproxy has it
		return fmt.Sprintf("the proxy refuses the broker (HTTP %d): write proxy_username and proxy_password that it takes", e.Status)
	case e.Status >= 500:
		return fmt.Sprintf("the proxy cannot reach the host (it answers HTTP %d to CONNECT): try again, and see whether the host is right and the proxy can find it", e.Status)
	case e.Status != 0:
		return fmt.Sprintf("the proxy makes no connection (it answers HTTP %d to CONNECT): let it allow the broker this host and port, or see proxy_url", e.Status)
	}
	return "the proxy could not be reached: try again, and see proxy_url and ca_pem"
}

// ProxyAdvice is the Advice of the *ProxyError in err's chain, or "" if it is not the
// proxy's.
func ProxyAdvice(err error) string {
	var e *ProxyError
	if errors.As(err, &e) {
		return e.Advice()
	}
	return ""
}

// tunnel dials through a proxy.
type tunnel struct {
	address string
	tls     *tls.Config // nil for plain http
	header  string      // Proxy-Authorization
	timeout time.Duration
	direct  func(ctx context.Context, network, address string) (net.Conn, error)
}

// tunnel makes ready what o.Proxy is. TLS to it rests on the system's roots and on
// those of CAPEM together: either may have signed for it.
func (o Options) tunnel(direct func(context.Context, string, string) (net.Conn, error)) (*tunnel, error) {
	p := *o.Proxy
	if err := CheckProxy(p, o.AllowHTTP); err != nil {
		return nil, err
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, errors.New("proxy_url is not a URL")
	}
	// A little less than the exchange has, so that the proxy's silence is not taken for
	// the server's.
	t := &tunnel{address: p.address(), timeout: o.Timeout - o.Timeout/8, direct: direct}
	if u.Scheme == "https" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		roots.AppendCertsFromPEM([]byte(o.CAPEM))
		t.tls = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	}
	if p.Username != "" {
		t.header = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.Username+":"+p.Password.Reveal())) + "\r\n"
	}
	return t, nil
}

// dial makes a connection to address, a name or a literal: the proxy resolves names, so
// what stands behind one cannot be judged here.
func (t *tunnel) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsFunc(address, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, errors.New("the host is no name")
	}
	what := forbiddenHost(host)
	if slices.Contains(shortMetadataNames, named(host)) {
		what = metadata
	}
	if what != "" {
		return nil, fmt.Errorf("refusing to connect to %s: %s", host, what)
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	conn, err := t.direct(ctx, network, t.address)
	if err != nil {
		return nil, &ProxyError{err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	through, err := t.connect(ctx, conn, address)
	if err == nil && !stop() {
		err = &ProxyError{err: ctx.Err()}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return through, nil
}

// connect has the proxy at conn connect to address.
func (t *tunnel) connect(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	if t.tls != nil {
		secured := tls.Client(conn, t.tls)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, &ProxyError{err: err}
		}
		conn = secured
	}
	if _, err := io.WriteString(conn, "CONNECT "+address+" HTTP/1.1\r\nHost: "+address+"\r\n"+t.header+"\r\n"); err != nil {
		return nil, &ProxyError{err: err}
	}
	reader := bufio.NewReader(io.LimitReader(conn, 64<<10))
	resp, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // what follows is the tunnel
	if err != nil {
		return nil, &ProxyError{err: discreetOfProxy(err)}
	}
	switch {
	case resp.StatusCode/100 != 2:
		return nil, &ProxyError{Status: resp.StatusCode, err: errors.New("it was asked for " + address)}
	case reader.Buffered() > 0:
		return nil, &ProxyError{err: errors.New("it says more than that there is a connection")}
	}
	return conn, nil
}

// discreetOfProxy keeps what is no HTTP out of an error, and leaves timeouts what they are.
func discreetOfProxy(err error) error {
	var failed net.Error
	if errors.As(err, &failed) {
		return err
	}
	return errors.New("its answer to CONNECT is no valid HTTP")
}
