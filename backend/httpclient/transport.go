package httpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
)

// HTTP is c for clients that are made of a net/http one, a vendor's say: everything that
// holds for Do holds for what they send, and the answers of redirects are theirs to
// read. Their errors quote URLs; Cause is what may be kept of one.
func (c *Client) HTTP() *http.Client {
	return &http.Client{
		Transport:     (*guard)(c),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// guard is a Client as a RoundTripper.
type guard Client

// RoundTrip implements http.RoundTripper. Its errors are *Error.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := (*Client)(g).roundTrip(req)
	if err != nil && req.Body != nil {
		_ = req.Body.Close() // whatever became of it; a second time does no harm
	}
	return resp, err
}

// roundTrip is one exchange, with every guard but the redirects, which it leaves to whom
// it answers: it only refuses to follow one.
func (c *Client) roundTrip(req *http.Request) (*http.Response, error) {
	if err := c.refuse(req); err != nil {
		return nil, &Error{Err: err}
	}
	if err := paced(req.Context()); err != nil {
		return nil, &Error{Err: err}
	}
	ctx, cancel := context.WithTimeout(req.Context(), c.options.Timeout)
	a := &attempt{}
	transport := c.open
	if c.certified != nil && c.bound {
		transport = c.certified
	}
	sent := req.WithContext(httptrace.WithClientTrace(ctx, a.trace()))
	sent.Header = spelled(req.Header)
	resp, err := fresh(transport, sent).RoundTrip(sent)
	if err != nil {
		cancel()
		failed := a.failed(err, c.tried(req, a))
		watched(req.Context(), 0, failed)
		return nil, failed
	}
	resp.Body = &body{ReadCloser: resp.Body, left: longest(req.Context()), end: func(err error) {
		cancel()
		watched(req.Context(), resp.StatusCode, err)
	}}
	return resp, nil
}

// refuse says why req is not sent, or nil.
func (c *Client) refuse(req *http.Request) error {
	if req.URL == nil {
		return errors.New("the request has no URL")
	}
	if err := checkURL(req.URL, c.options.AllowHTTP); err != nil {
		return fmt.Errorf("the URL %s", err)
	}
	switch {
	case req.Response != nil:
		return errors.New("a redirect is not followed: a credential would follow with it")
	case req.Host != "" && !strings.EqualFold(req.Host, req.URL.Host):
		return errors.New("the request names another host than its URL")
	case twice(req.Header):
		return errors.New("the request has one header in two spellings")
	case req.URL.Scheme != "https" && c.certified != nil && c.bound:
		return errors.New("the URL must be https: a client certificate says nothing over plain http")
	case req.URL.Scheme != "https" && c.Proxied():
		return errors.New("the URL must be https: a proxy reads plain http")
	case !c.bound:
		return allowPublic(req)
	}
	if err := c.to.allow(req); err != nil {
		astray(req.Context())
		return err
	}
	return nil
}

// tried is for Error.Tried.
func (c *Client) tried(req *http.Request, a *attempt) string {
	_, host, port := origin(req.URL)
	text := net.JoinHostPort(host, port)
	if c.Proxied() {
		text += " through the proxy " + c.options.Proxy.address()
	}
	if at := a.addresses(); len(at) > 0 {
		text += " (" + strings.Join(at, ", ") + ")"
	}
	return text
}

type longestKey struct{}

// UpTo returns a context whose exchanges may be answered with as many bytes as that,
// instead of MaxBody: for answers that are known to be as long as what was asked for.
func UpTo(ctx context.Context, bytes int) context.Context {
	return context.WithValue(ctx, longestKey{}, bytes)
}

func longest(ctx context.Context) int {
	if n, ok := ctx.Value(longestKey{}).(int); ok {
		return n
	}
	return MaxBody
}

// body is the body of an answer: of at most left bytes, and it tells once how it ended.
type body struct {
	io.ReadCloser
	left  int
	once  sync.Once
	end   func(error)
	ended error // what a further Read answers
}

func (b *body) Read(p []byte) (int, error) {
	if b.ended != nil {
		return 0, b.ended
	}
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		n, err = b.left, ErrBodyTooLarge
	}
	b.left -= n
	switch err {
	case nil:
	case io.EOF: //nolint:errorlint // a wrapped one is no end
		b.ended = err
		b.tell(nil)
	default:
		err = discreet(err)
		b.ended = err
		b.tell(err)
	}
	return n, err
}

// Close is the end also of a body that nobody wanted to read: the server has answered.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.tell(nil)
	return err
}

func (b *body) tell(err error) { b.once.Do(func() { b.end(err) }) }

// attempt is what is seen of one exchange from below. net/http tells it from goroutines
// of its own.
type attempt struct {
	mu sync.Mutex
	// connected: from the moment a connection is there, bytes may have left: net/http
	// writes in a goroutine of its own, so later hooks can come too late.
	connected net.Addr
	at        []string
}

func (a *attempt) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		ConnectStart: func(_, address string) { a.note(address) },
		GotConn: func(i httptrace.GotConnInfo) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.connected = i.Conn.RemoteAddr()
		},
	}
}

// maxTried bounds the addresses that are shown.
const maxTried = 4

func (a *attempt) note(address string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.at) < maxTried {
		a.at = append(a.at, address)
	}
}

// addresses are the one that answered, or else those that were tried.
func (a *attempt) addresses() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.connected != nil {
		return []string{a.connected.String()}
	}
	return slices.Clone(a.at)
}

// failed is the error of an exchange that brought no answer.
func (a *attempt) failed(err error, tried string) *Error {
	a.mu.Lock()
	sent := a.connected != nil
	a.mu.Unlock()
	var proxy *ProxyError
	switch {
	case errors.As(err, &proxy):
		return &Error{Err: err, Tried: tried}
	case certificateRefused(err):
		return &Error{Err: fmt.Errorf("%w: %w", ErrCertificateRefused, discreet(err)), Tried: tried}
	case sent:
		err = discreet(err)
	}
	return &Error{Sent: sent, Err: err, Tried: tried}
}
