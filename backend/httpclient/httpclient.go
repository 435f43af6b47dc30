// Package httpclient is the only way in which the broker talks to a provider or
// a token issuer.
//
// # Where a secret may go
//
// A Client as New makes it fetches public documents: its requests bring nothing along
// that could be a credential. To makes one of it that may send secrets, to the
// destinations that were pinned when the provider was written and nowhere else: whole
// URLs with their query, because at some servers the path or the query is the tenant,
// or what a type declares to be free below one (Below, BelowAny). That is enforced for
// each request on its way out, whoever made it.
//
// So a handle of a child, which says where the child is killed, cannot send the parent
// anywhere either. Where it names a place that is pinned no more, because the provider
// was written anew since, its type kills the child at today's place if that is the same
// server's by the server's own word; and what would leave a child without any such
// place is part of provider.Pinned.Account, which does not change while grants live.
//
// # What a server cannot do to us
//
// No redirect is followed (a credential would follow with it), headers and bodies are
// cut at a limit, every exchange ends within a timeout, cookies and the environment's
// proxy are off, and addresses behind which no provider is, such as those of cloud
// metadata services, are never dialled. All of it holds for a vendor's client too that
// is given Client.HTTP.
package httpclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MaxBody is the most that is read of an answer, in bytes, unless UpTo says otherwise.
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
	// Timeout bounds one exchange; zero means DefaultTimeout.
	Timeout time.Duration
	// AllowHTTP permits plain http beyond loopback.
	AllowHTTP bool
	// Proxy, when set, is the only way out, for https alone.
	Proxy *Proxy
}

// Client sends single requests. It is safe for concurrent use. It repeats what is no GET,
// HEAD, OPTIONS or TRACE only where net/http knows that nothing of it was written to a
// dead connection, or an HTTP/2 server says that it has not looked at it; with a context
// of Once it repeats nothing else either.
type Client struct {
	options Options
	// open shows no certificate; certified shows the client's, and is nil without one.
	open, certified *http.Transport
	bound           bool // else its requests are for public documents
	to              Destinations
}

// Response is an answer read whole.
type Response struct {
	Status int
	Header http.Header
	Body   []byte

	pointsTo string // see PointsTo
}

// Error is a failed exchange. It never holds the request's body, headers, path or
// query.
type Error struct {
	// Sent is false only if the server certainly did not get the request, so
	// that repeating it cannot mint twice.
	Sent bool
	// Partial is what had arrived of the answer's body when it broke off, or went
	// past what is read: a token in it has been seen and must be killed.
	Partial []byte
	// Status is that of the answer whose body broke off, 0 if none had begun.
	Status int
	// Tried is which host and port were tried, through which proxy, and at which
	// addresses, "" if nothing was. It is for operators.
	Tried string
	Err   error
}

func (e *Error) Error() string {
	if e.Tried == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + "; tried " + e.Tried
}

// Unwrap gives the transport's error.
func (e *Error) Unwrap() error { return e.Err }

// Cause is the *Error in the chain of what a client on top of HTTP says, which quotes
// the whole URL, or of any other error; where there is none, it is one that quotes
// nothing.
func Cause(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Sent: true, Err: errors.New("the client for this server failed")}
}

// ErrBodyTooLarge means that the answer went past MaxBody, or what UpTo said.
var ErrBodyTooLarge = errors.New("the answer is larger than any that is read")

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

// New makes a Client for public documents. It fails only if CAPEM holds no certificate
// or Proxy is none.
func New(o Options) (*Client, error) {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	open, err := o.transport(nil)
	if err != nil {
		return nil, err
	}
	return &Client{options: o, open: open}, nil
}

func (o Options) transport(certificate *tls.Certificate) (*http.Transport, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAPEM != "" {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM([]byte(o.CAPEM)) {
			return nil, errors.New("ca_pem holds no PEM certificate")
		}
	}
	if certificate != nil {
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return certificate, nil
		}
	}
	dial := (&net.Dialer{Timeout: o.Timeout, Control: refuseForbidden}).DialContext
	if o.Proxy != nil {
		tunnel, err := o.tunnel(dial)
		if err != nil {
			return nil, err
		}
		dial = tunnel.dial
	}
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    o.Timeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    maxIdle,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        60 * time.Second,
		// Without it a connection that died in silence keeps its place until TCP
		// gives up on it, a quarter of an hour later, and so does the provider.
		HTTP2: &http.HTTP2Config{SendPingTimeout: quiet, PingTimeout: quiet},
	}, nil
}

// To is a Client like c, on the same connections, that may send secrets to what is
// pinned and sends nothing elsewhere. What is in pinned and no destination allows
// nothing.
func (c *Client) To(pinned []string) *Client {
	bound := *c
	bound.bound = true
	bound.to, _ = ParseDestinations(pinned) // what it cannot read is refused, and said so, when it is asked for
	return &bound
}

// Public is a Client like c whose requests are for public documents, wherever they are:
// without a body, any header that could be a credential, or a client certificate.
func (c *Client) Public() *Client {
	return &Client{options: c.options, open: c.open}
}

// WithCertificate is a Client like c that presents certificate to every server that asks
// (RFC 8705), whichever authorities it names: a self-signed one is of none of them. It
// sends to https only, and has connections of its own, so that c's requests never travel
// under the certificate.
func (c *Client) WithCertificate(certificate tls.Certificate) (*Client, error) {
	certified, err := c.options.transport(&certificate)
	if err != nil {
		return nil, err
	}
	with := *c
	with.certified = certified
	return &with, nil
}

// Proxied reports whether c goes through a proxy, and so to https alone.
func (c *Client) Proxied() bool { return c != nil && c.options.Proxy != nil }

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
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case strings.Contains(raw, "#"):
		return errors.New("must not have a fragment")
	case u.RawQuery != "" || u.ForceQuery:
		return errors.New("must not have a query")
	}
	return checkURL(u, allowHTTP)
}

// checkURL is CheckURL without what it says of the query.
func checkURL(u *url.URL, allowHTTP bool) error {
	host := u.Hostname()
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("must be an https URL")
	case host == "" || u.Opaque != "":
		return errors.New("has no host")
	case u.User != nil:
		return errors.New("must not hold user information")
	case u.Fragment != "":
		return errors.New("must not have a fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has a port that does not exist")
		}
	}
	if what := forbiddenHost(host); what != "" {
		return errors.New("must not be " + what)
	}
	if u.Scheme == "http" && !isThisMachine(host) && !allowHTTP {
		return errors.New("must be https (plain http needs allow_http=true)")
	}
	return nil
}

// Do sends req once, as one of HTTP's clients would. A Response is returned for every
// status, redirects included; an *Error otherwise. The request's context bounds it
// further.
func (c *Client) Do(req *http.Request) (*Response, error) {
	resp, err := c.roundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, &Error{Sent: true, Partial: body, Status: resp.StatusCode, Err: err}
	}
	read := &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		read.pointsTo = pointsTo(resp, req.Header)
	}
	return read, nil
}
