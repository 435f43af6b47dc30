// Package authserver is a server for tests, with a token table, real protocol
// behaviour and switchable faults. A fake rather than a mock: what is asked is whether
// a token lives, not which call was made.
package authserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// Server is an OAuth 2.0 authorization server of our own: RFC 6749 (client
// credentials and refresh), 7009, 7523 and 8693 (exchange), 7662, 8414, 8707 and 9396 as a careful server
// would have them, and faults that no real server can be told to have. It is
// safe for concurrent use.
type Server struct {
	// URL is the issuer, without a slash at its end.
	URL string
	// CAPEM is the certificate to trust, if the server speaks TLS.
	CAPEM string

	server  *httptest.Server
	key     *ecdsa.PrivateKey
	options Options

	mu        sync.Mutex
	clients   map[string]*Client
	tokens    map[string]*Token
	counts    Counts
	faults    map[Endpoint]Fault
	requests  []Request
	serial    int
	used      map[string]bool // jti of assertions and proofs
	certified map[string]bool
	subjects  map[string]Bearer
}

// Options are an Server's fixed properties; the zero value is a plain one.
type Options struct {
	// TLS serves https with a certificate of its own (CAPEM); ExpiredTLS with one
	// that has expired.
	TLS, ExpiredTLS bool
	// Lifetime of access tokens, by default an hour.
	Lifetime time.Duration
	// JWT makes access tokens RFC 9068 JWTs.
	JWT bool
	// RotateRefresh replaces a refresh token whenever it is used; the second use
	// of one kills its whole family (RFC 9700 4.14.2).
	RotateRefresh bool
	// FamilyRevocation kills the refresh token together with a revoked access
	// token of its family, as Hydra does.
	FamilyRevocation bool
	// WithoutDiscovery, WithoutRevocation, WithoutIntrospection leave endpoints out.
	WithoutDiscovery, WithoutRevocation, WithoutIntrospection bool
	// OIDCOnly has OpenID Connect's discovery document and not RFC 8414's.
	OIDCOnly bool
	// MutualTLS asks for client certificates (with TLS), and names endpoints of
	// their own for them (RFC 8705 5): elsewhere none is looked at.
	MutualTLS bool
	// RefuseCertificates ends every handshake in which one comes.
	RefuseCertificates bool
	// AnyAudience takes assertions for any endpoint of the server, not only for the
	// issuer and the token endpoint.
	AnyAudience bool
	// OneToken gives one token to all requests of a client for the same, until it has
	// expired or is revoked.
	OneToken bool
	// NeedsScope grants nothing to a request without a scope (RFC 6749 3.3).
	NeedsScope bool
	// DPoPNonce wants a nonce in every proof (RFC 9449 8).
	DPoPNonce bool
	// Now is the clock, time.Now by default.
	Now func() time.Time `json:"-"`
}

// Client is one registered client. A public one has no secrets.
type Client struct {
	ID      string
	Secrets []string
	// Scopes and Audiences are what it may have. Without a request it gets all
	// of the scopes and none of the audiences.
	Scopes, Audiences []string
	// JWKS are the keys of private_key_jwt, as text, or with x5c the certificates of
	// self_signed_tls_client_auth. AuthorityPEM and Subject are who signs the
	// certificate of tls_client_auth, and its distinguished name.
	JWKS, AuthorityPEM, Subject string
	// CertificateBound binds access tokens to the certificate that came.
	CertificateBound bool

	confirmation map[string]string // of the request under way
}

// Token is an issued token, as the server remembers it.
type Token struct {
	Value    string
	Refresh  bool
	Client   string
	Subject  string // the client itself, if it is empty
	Actor    string
	Scopes   []string
	Audience []string
	Details  json.RawMessage `json:",omitempty"`
	Expires  time.Time
	Family   int
	Dead     bool
	// Confirmation is the cnf claim, nil for bearer tokens.
	Confirmation map[string]string
}

// Endpoint names one of the server's endpoints.
type Endpoint string

// The endpoints.
const (
	EndpointToken      Endpoint = "/token"
	EndpointRevoke     Endpoint = "/revoke"
	EndpointIntrospect Endpoint = "/introspect"
	EndpointJWKS       Endpoint = "/jwks"
	EndpointMetadata   Endpoint = "/.well-known/oauth-authorization-server"
	EndpointOIDC       Endpoint = "/.well-known/openid-configuration"

	// mutualTLS is what the paths of the endpoints for certificates begin with.
	mutualTLS = "/mtls"
)

// Counts are how often something happened.
type Counts struct {
	// Requests by endpoint, the refused ones included.
	Requests map[Endpoint]int
	// Minted access tokens, and tokens Revoked that were alive.
	Minted, Revoked int
}

// Request is one request as it came.
type Request struct {
	Method string
	Path   string
	Header http.Header
	Body   string
}

// Form is the request's body as a form.
func (r Request) Form() url.Values {
	form, _ := url.ParseQuery(r.Body)
	return form
}

// New starts a server that ends with the test.
func New(t testing.TB, o Options, clients ...Client) *Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if o.Lifetime == 0 {
		o.Lifetime = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		key:       key,
		options:   o,
		clients:   map[string]*Client{},
		tokens:    map[string]*Token{},
		counts:    Counts{Requests: map[Endpoint]int{}},
		faults:    map[Endpoint]Fault{},
		used:      map[string]bool{},
		certified: map[string]bool{},
		subjects:  map[string]Bearer{},
	}
	for _, c := range clients {
		s.SetClient(c)
	}
	s.server = httptest.NewUnstartedServer(s)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are the point
	switch {
	case o.ExpiredTLS:
		s.server.TLS, s.CAPEM = expiredCertificate(t)
		s.server.StartTLS()
	case o.TLS:
		if o.MutualTLS { // asked for, not demanded: what will do is judged later
			s.server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
			if o.RefuseCertificates {
				s.server.TLS.ClientAuth = tls.VerifyClientCertIfGiven // by the system's authorities
			}
		}
		s.server.StartTLS()
		s.CAPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw}))
	default:
		s.server.Start()
	}
	s.URL = s.server.URL
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

// SetClient registers a client or changes it.
func (s *Server) SetClient(c Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c.ID] = &c
}

// Endpoint is the URL of e.
func (s *Server) Endpoint(e Endpoint) string { return s.URL + string(e) }

// IssueRefreshToken gives client a refresh token with all of its scopes, as after
// a user's consent.
func (s *Server) IssueRefreshToken(client string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return s.issue(Token{Refresh: true, Client: client, Scopes: s.clients[client].Scopes, Family: s.serial}).Value
}

// Certified are the paths to which a client certificate was shown.
func (s *Server) Certified() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.certified)
}

// Active reports whether token is alive, whoever asks.
func (s *Server) Active(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive(s.tokens[token])
}

// Live are the access tokens that are alive.
func (s *Server) Live() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var live []string
	for value, t := range s.tokens {
		if !t.Refresh && s.alive(t) {
			live = append(live, value)
		}
	}
	slices.Sort(live)
	return live
}

// Lookup is what the server remembers of token.
func (s *Server) Lookup(token string) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[token]
	if t == nil {
		return Token{}, false
	}
	return *t, true
}

// Kill ends token as an operator of the server would.
func (s *Server) Kill(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tokens[token]; t != nil {
		t.Dead = true
	}
}

// Counts are how often things have happened so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Requests = map[Endpoint]int{}
	for e, n := range s.counts.Requests {
		c.Requests[e] = n
	}
	return c
}

// Requests are all requests so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// LastRequest is the last one that e got.
func (s *Server) LastRequest(e Endpoint) Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.requests) {
		if r.Path == string(e) {
			return r
		}
	}
	return Request{}
}

func (s *Server) alive(t *Token) bool {
	return t != nil && !t.Dead && (t.Expires.IsZero() || t.Expires.After(s.options.Now()))
}

// issue enters a token with a value of its own. The caller holds mu.
func (s *Server) issue(t Token) *Token {
	s.serial++
	kind := "at"
	if t.Refresh {
		kind = "rt"
	} else {
		t.Expires = s.options.Now().Add(s.options.Lifetime)
		s.counts.Minted++
	}
	t.Value = fmt.Sprintf("%s-%d-%s", kind, s.serial, randomText())
	if s.options.JWT && !t.Refresh {
		t.Value = s.sign(t)
	}
	s.tokens[t.Value] = &t
	return &t
}

func randomText() string {
	raw := make([]byte, 12)
	_, _ = rand.Read(raw) // never fails
	return fmt.Sprintf("%x", raw)
}
