// Package transmitter is a transmitter of security events for tests: the Shared Signals
// Framework 1.0 with delivery by poll (RFC 8936), strict about what a receiver may send,
// and able to do what no real one can be told to do. None that others wrote can be had
// from a package registry.
package transmitter

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// The method of delivery, and where the names of events begin.
const (
	PollMethod = "urn:ietf:rfc:8936"
	CAEP       = "https://schemas.openid.net/secevent/caep/event-type/"
	RISC       = "https://schemas.openid.net/secevent/risc/event-type/"
	SSF        = "https://schemas.openid.net/secevent/ssf/event-type/"
)

// Audience is what the aud of the events is, unless Options say otherwise.
const Audience = "https://receiver.example.com/vault"

// Options are a Server's fixed properties; the zero value is a plain one.
type Options struct {
	// Path is behind the issuer's host, such as /realms/acme.
	Path string
	// Appended has the metadata behind the path alone, as Keycloak serves it.
	Appended bool
	// Tokens are those that a receiver may have; Accepts judges any other.
	Tokens  []string
	Accepts func(token string) bool
	// Audience of the events.
	Audience string
	// WithoutVerification and WithoutManagement leave endpoints out.
	WithoutVerification, WithoutManagement bool
	// Exists says that the receiver has a stream already.
	Exists bool
	// Hold is how long a poll is held at most if nothing is there.
	Hold time.Duration
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// Server is one transmitter with one stream. It is safe for concurrent use.
type Server struct {
	// URL is the issuer.
	URL string

	server  *httptest.Server
	options Options

	mu         sync.Mutex
	key        *ecdsa.PrivateKey
	keyID      string
	published  bool
	serial     int
	queue      []set // in the order of sending; acknowledged ones are taken out
	delivered  map[string]bool
	acked      []string
	ackedAt    map[string]time.Time // first
	refused    map[string]SetErr
	status     string
	streams    int
	requested  []string
	deaf       bool // to verification
	polls      []Poll
	violations []string
	tolerant   bool
	fault      Fault
	arrived    chan struct{} // closed and renewed when something is sent
	tokens     map[string]bool
}

type set struct {
	id, compact string
	ofStream    bool // it is about the stream itself, and comes when that is paused, too
}

// SetErr is what a receiver says of a SET that it does not take.
type SetErr struct {
	Code        string `json:"err"`
	Description string `json:"description"`
}

// Poll is a request to the poll endpoint, as it came.
type Poll struct {
	MaxEvents         *int              `json:"maxEvents"`
	ReturnImmediately bool              `json:"returnImmediately"`
	Ack               []string          `json:"ack"`
	SetErrs           map[string]SetErr `json:"setErrs"`
	Token             string            `json:"-"`
}

// TB is what is used of a test.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// New starts a server that ends with the test, which fails if the receiver has broken the
// protocol.
func New(t TB, o Options) *Server {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Audience == "" {
		o.Audience = Audience
	}
	s := &Server{
		options: o, status: "enabled", delivered: map[string]bool{}, refused: map[string]SetErr{}, ackedAt: map[string]time.Time{},
		arrived: make(chan struct{}), tokens: map[string]bool{},
	}
	for _, token := range o.Tokens {
		s.tokens[token] = true
	}
	if o.Exists {
		s.streams = 1
	}
	s.Rotate()
	s.server = httptest.NewUnstartedServer(s)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.server.Start()
	s.URL = s.server.URL + o.Path
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
		if wrong := s.Violations(); len(wrong) > 0 {
			t.Fatalf("the receiver has broken the protocol: %s", strings.Join(wrong, "; "))
		}
	})
	return s
}

// Rotate signs with a new key from now on, and publishes no other.
func (s *Server) Rotate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.published = key, true
	s.serial++
	s.keyID = fmt.Sprintf("key-%d", s.serial)
}

// Unpublish keeps the key set from holding the key by which is signed, until Publish.
func (s *Server) Unpublish() { s.publish(false) }

// Publish ends Unpublish.
func (s *Server) Publish() { s.publish(true) }

func (s *Server) publish(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published = is
}

// Event is what Send makes a SET of.
type Event struct {
	// Type is the whole URI.
	Type    string
	Subject map[string]any
	// Members are those of the event beside.
	Members map[string]any
	// IssuedAt is now by default.
	IssuedAt time.Time
	// Claims replace those of the SET; nil takes one away.
	Claims map[string]any
}

// IssSub is a subject by issuer and sub.
func IssSub(iss, sub string) map[string]any {
	return map[string]any{"format": "iss_sub", "iss": iss, "sub": sub}
}

// SessionRevoked is a CAEP event about a subject.
func SessionRevoked(subject map[string]any) Event {
	return Event{Type: CAEP + "session-revoked", Subject: subject}
}

// AccountDisabled is a RISC event about a subject.
func AccountDisabled(subject map[string]any) Event {
	return Event{Type: RISC + "account-disabled", Subject: subject, Members: map[string]any{"reason": "hijacking"}}
}

// Send puts an event into the stream, and returns its jti.
func (s *Server) Send(e Event) string {
	id, claims := s.Claims(e)
	s.put(set{id: id, compact: s.Sign("secevent+jwt", claims), ofStream: strings.HasPrefix(e.Type, SSF)})
	return id
}

// Claims are those of the SET that Send would make.
func (s *Server) Claims(e Event) (id string, claims map[string]any) {
	s.mu.Lock()
	s.serial++
	id = fmt.Sprintf("set-%06d", s.serial)
	s.mu.Unlock()
	if e.IssuedAt.IsZero() {
		e.IssuedAt = s.options.Now()
	}
	members := map[string]any{}
	maps.Copy(members, e.Members)
	claims = map[string]any{
		"iss": s.URL, "aud": s.options.Audience, "jti": id, "iat": e.IssuedAt.Unix(),
		"sub_id": e.Subject, "events": map[string]any{e.Type: members},
	}
	maps.Copy(claims, e.Claims)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return id, claims
}

// Sign makes a SET of any claims, with the server's key.
func (s *Server) Sign(typ string, claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	headers := jws.NewHeaders()
	for name, value := range map[string]string{jws.KeyIDKey: s.keyID, jws.TypeKey: typ} {
		if value != "" {
			_ = headers.Set(name, value)
		}
	}
	signed, err := jws.Sign(payload, jws.WithKey(jwa.ES256, s.key, jws.WithProtectedHeaders(headers)))
	if err != nil {
		panic(err)
	}
	return string(signed)
}

// Deliver puts anything into the stream under a jti.
func (s *Server) Deliver(id, compact string) { s.put(set{id: id, compact: compact}) }

func (s *Server) put(item set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, item)
	close(s.arrived)
	s.arrived = make(chan struct{})
}

// Pending are the jti of what was not acknowledged.
func (s *Server) Pending() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for _, item := range s.queue {
		ids = append(ids, item.id)
	}
	return ids
}

// Acknowledged are the jti of what was, in that order.
func (s *Server) Acknowledged() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.acked)
}

// AcknowledgedAt is when an event first was; zero if it was not.
func (s *Server) AcknowledgedAt(id string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ackedAt[id]
}

// Refused is what the receiver said of SETs that it does not take, by jti.
func (s *Server) Refused() map[string]SetErr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.refused)
}

// Polls are the polls that have come.
func (s *Server) Polls() []Poll {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.polls)
}

// Streams is how many streams there are.
func (s *Server) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

// Requested are the events that the receiver has asked for.
func (s *Server) Requested() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requested)
}

// SetStatus pauses, disables or enables the stream. tell says so by an event, too.
func (s *Server) SetStatus(status, reason string, tell bool) {
	s.mu.Lock()
	s.status = status
	s.mu.Unlock()
	if tell {
		s.Send(Event{Type: SSF + "stream-updated", Subject: s.streamSubject(), Members: map[string]any{"status": status, "reason": reason}})
	}
}

// Silence takes requests for verification and sends no event, or ends that.
func (s *Server) Silence(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = is
}

// Allow adds a token, Forbid takes one away.
func (s *Server) Allow(token string) { s.setToken(token, true) }

// Forbid is the end of a token.
func (s *Server) Forbid(token string) { s.setToken(token, false) }

func (s *Server) setToken(token string, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = is
}

// Violations are what the receiver has done against the protocol.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tolerant {
		return nil
	}
	return slices.Clone(s.violations)
}

// Tolerate says that what the receiver sends is no matter of this test.
func (s *Server) Tolerate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tolerant = true
}

func (s *Server) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, fmt.Sprintf(format, args...))
}

func (s *Server) streamSubject() map[string]any {
	return map[string]any{"format": "opaque", "id": streamID}
}

func (s *Server) keySet() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := jwk.NewSet()
	if s.published {
		public, err := jwk.FromRaw(s.key.Public())
		if err != nil {
			panic(err)
		}
		_ = public.Set(jwk.KeyIDKey, s.keyID)
		_ = public.Set(jwk.AlgorithmKey, jwa.ES256)
		_ = keys.AddKey(public)
	} else { // a set without any would be the word that all are withdrawn
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		public, _ := jwk.FromRaw(other.Public())
		_ = public.Set(jwk.KeyIDKey, "another")
		_ = keys.AddKey(public)
	}
	raw, err := json.Marshal(keys)
	if err != nil {
		panic(err)
	}
	return raw
}

// bearer is the token that came, if it is one that may be here.
func (s *Server) bearer(r *http.Request) (token string, ok bool) {
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	allowed := s.tokens[token]
	s.mu.Unlock()
	return token, found && (allowed || s.options.Accepts != nil && s.options.Accepts(token))
}
