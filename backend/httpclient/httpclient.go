// Package httpclient is the only way in which the broker talks to a provider or
// a token issuer. It bounds what a hostile or broken server can do to us: no
// redirect is followed (a credential would follow with it), every body is cut
// at a limit, every exchange ends within a timeout, cookies and proxies are off,
// and addresses behind which no provider is, such as those of cloud metadata
// services, are never dialled.
package httpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxBody is the most that is read of any answer, in bytes.
const MaxBody = 1 << 20

// DefaultTimeout bounds one exchange, from dialling to the last byte.
const DefaultTimeout = 10 * time.Second

const (
	// maxIdle is as many connections as are in use at once at most (the broker's
	// mints and revocations of one provider): net/http closes what goes beyond, and
	// every later request would then open one anew. There is no bound on those in
	// use: with one, mints could keep revocations out.
	maxIdle = 320
	// quiet is how long an HTTP/2 connection may say nothing before it is pinged, and
	// how long before it is taken for dead after that.
	quiet = 5 * time.Second
)

// Options configure a Client; the zero value is safe.
type Options struct {
	// CAPEM, when set, replaces the system's roots.
	CAPEM string
	// Certificate, when set, is presented to every server that asks (RFC 8705),
	// whichever authorities it names: a self-signed one is of none of them. Such a
	// client sends to https only.
	Certificate *tls.Certificate
	// Timeout bounds one exchange; zero means DefaultTimeout.
	Timeout time.Duration
	// AllowHTTP permits plain http beyond loopback.
	AllowHTTP bool
}

// Client sends single requests. It is safe for concurrent use. It repeats a POST
// only where net/http knows that nothing of it was written to a dead connection.
type Client struct {
	http    *http.Client
	options Options
}

// Response is an answer read whole, at most MaxBody of it.
type Response struct {
	Status int
	Header http.Header
	Body   []byte

	pointsTo string // see PointsTo
}

// Error is a failed exchange. It never holds the request's body or headers.
type Error struct {
	// Sent is false only if the server certainly did not get the request, so
	// that repeating it cannot mint twice.
	Sent bool
	// Partial is what had arrived of the answer's body when it broke off, at
	// most MaxBody: a token in it has been seen and must be killed.
	Partial []byte
	// Status is that of the answer whose body broke off, 0 if none had begun.
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the transport's error.
func (e *Error) Unwrap() error { return e.Err }

// ErrBodyTooLarge means that the answer went past MaxBody.
var ErrBodyTooLarge = fmt.Errorf("the answer is larger than %d bytes", MaxBody)

// ErrCertificateRefused means that the server ended the TLS handshake because of the
// certificate that we have, or have not. It got nothing of the request: with TLS
// 1.3 our side may have begun to write by then, the server has not read it.
var ErrCertificateRefused = errors.New("the server refused the client certificate")

// certificateAlerts are the alerts that a server has for a client's certificate
// (RFC 8446 6.2), as crypto/tls spells them.
var certificateAlerts = []string{
	"bad certificate", "unsupported certificate", "revoked certificate", "expired certificate",
	"unknown certificate", "unknown certificate authority", "certificate required", "access denied",
}

func certificateRefused(err error) bool {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" {
		return false
	}
	alert := strings.TrimPrefix(remote.Err.Error(), "tls: ")
	return slices.Contains(certificateAlerts, alert)
}

// New makes a Client. It fails only if CAPEM holds no certificate.
func New(o Options) (*Client, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAPEM != "" {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM([]byte(o.CAPEM)) {
			return nil, errors.New("ca_pem holds no PEM certificate")
		}
	}
	if o.Certificate != nil {
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return o.Certificate, nil
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	dialer := &net.Dialer{Timeout: o.Timeout, Control: refuseForbidden}
	return &Client{
		options: o,
		http: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:            dialer.DialContext,
				TLSClientConfig:        tlsConfig,
				TLSHandshakeTimeout:    o.Timeout,
				ForceAttemptHTTP2:      true,
				MaxIdleConnsPerHost:    maxIdle,
				MaxResponseHeaderBytes: 64 << 10,
				IdleConnTimeout:        60 * time.Second,
				// Without it a connection that died in silence keeps its place until TCP
				// gives up on it, a quarter of an hour later, and so does the provider.
				HTTP2: &http.HTTP2Config{SendPingTimeout: quiet, PingTimeout: quiet},
			},
		},
	}, nil
}

// WithCertificate is a Client like c that presents certificate. It has connections
// of its own, so that c's requests never travel under it.
func (c *Client) WithCertificate(certificate tls.Certificate) (*Client, error) {
	o := c.options
	o.Certificate = &certificate
	return New(o)
}

// Timeout bounds each of c's exchanges.
func (c *Client) Timeout() time.Duration { return c.options.Timeout }

// refuseForbidden judges the address that a name resolved to, so that a
// provider's DNS cannot point the broker at a metadata service.
func refuseForbidden(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot tell the address %q", address)
	}
	if what := forbidden(ap.Addr()); what != "" {
		return fmt.Errorf("refusing to connect to %s: %s", ap.Addr(), what)
	}
	return nil
}

// CheckURL says why raw cannot be a URL to which secrets are sent, or nil:
// absolute https (http for loopback, or anywhere with allowHTTP), with a host,
// without user info, query or fragment, and not at a forbidden address.
func CheckURL(raw string, allowHTTP bool) error {
	if len(raw) > 2048 {
		return errors.New("is longer than 2048 characters")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("is not a URL")
	}
	host := u.Hostname()
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("must be an https URL")
	case host == "" || u.Opaque != "":
		return errors.New("has no host")
	case u.User != nil:
		return errors.New("must not hold user information")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return errors.New("must not have a fragment")
	case u.RawQuery != "" || u.ForceQuery:
		return errors.New("must not have a query")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has a port that does not exist")
		}
	}
	addr, addrErr := netip.ParseAddr(host)
	if addrErr == nil {
		if what := forbidden(addr); what != "" {
			return errors.New("must not be " + what)
		}
	}
	loopback := strings.EqualFold(host, "localhost") || (addrErr == nil && addr.Unmap().IsLoopback())
	if u.Scheme == "http" && !loopback && !allowHTTP {
		return errors.New("must be https (plain http needs allow_http=true)")
	}
	return nil
}

// Do sends req once. A Response is returned for every status, redirects
// included; an *Error otherwise. The request's context bounds it further.
func (c *Client) Do(req *http.Request) (*Response, error) {
	if err := CheckURL(stripQuery(req.URL), c.options.AllowHTTP); err != nil {
		return nil, &Error{Err: fmt.Errorf("the URL %s", err)}
	}
	if c.options.Certificate != nil && req.URL.Scheme != "https" {
		return nil, &Error{Err: errors.New("the URL must be https: a client certificate says nothing over plain http")}
	}
	resp, err := c.exchange(req)
	watched(req.Context(), resp, err)
	return resp, err
}

// exchange is Do, once the request may be sent.
func (c *Client) exchange(req *http.Request) (*Response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), c.options.Timeout)
	defer cancel()
	// From the moment a connection is there, bytes may have left: net/http
	// writes in a goroutine of its own, so later hooks can come too late.
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	resp, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		var uerr *url.Error
		if errors.As(err, &uerr) {
			err = uerr.Err // the URL is the operator's affair, not the caller's
		}
		if certificateRefused(err) {
			return nil, &Error{Err: fmt.Errorf("%w: %w", ErrCertificateRefused, err)}
		}
		return nil, &Error{Sent: connected.Load(), Err: discreet(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err == nil && len(body) > MaxBody {
		err = ErrBodyTooLarge
	}
	if err != nil {
		return nil, &Error{Sent: true, Partial: body[:min(len(body), MaxBody)], Status: resp.StatusCode, Err: err}
	}
	read := &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		read.pointsTo = pointsTo(resp)
	}
	return read, nil
}

// discreet keeps what a server sent out of an error: net/http quotes an answer
// that is no HTTP, and that may be a token.
func discreet(err error) error {
	var protocol textproto.ProtocolError
	if errors.As(err, &protocol) || strings.Contains(err.Error(), "malformed") {
		return errors.New("the answer is no valid HTTP")
	}
	return err
}

func stripQuery(u *url.URL) string {
	bare := *u
	bare.RawQuery, bare.ForceQuery = "", false
	return bare.String()
}
