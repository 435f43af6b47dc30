package signal

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
)

const (
	// maxDepth bounds how deep a SET may nest: the user of a complex subject, the deepest,
	// is four deep in old events.
	maxDepth = 16
	// MaxAge is how old a SET may be, and for how long one that was handled is remembered:
	// so none is ever handled twice for want of memory. It is longer than any grant lives
	// that rests on what such an event ended.
	MaxAge = 30 * 24 * time.Hour
	// maxAhead is by how much the transmitter's clock may be ahead. A SET has no time from
	// which on it is valid, so this only keeps what is remembered bounded.
	maxAhead = 24 * time.Hour
	// unknownKeyFor is for how long a SET is asked for again whose key is not published.
	unknownKeyFor = 10 * time.Minute
)

// algorithms are those by which a SET may be signed. CAEP's interoperability profile has
// RS256; none and the HMACs are nobody's signature.
var algorithms = []jwa.SignatureAlgorithm{jwa.RS256, jwa.ES256, jwa.ES384, jwa.PS256, jwa.EdDSA}

// Event is what a SET says, once it is certain that the transmitter says it.
type Event struct {
	// ID is the jti, Issuer the iss.
	ID, Issuer string
	// URI is the event's type, Kind its name if it can be acted upon.
	URI, Kind string
	// IssuedAt is when the SET was made, Happened when what it is about has happened, as
	// far as it says so.
	IssuedAt, Happened time.Time
	// Subject is whom it is about. It is nil if that cannot be read, for the reason
	// Unreadable.
	Subject    *Subject
	Unreadable error
	// Members are those of the event.
	Members map[string]any
}

// Trust is whose SETs are taken.
type Trust struct {
	// Audiences: a SET must be for one of them.
	Audiences []string
	// KeysOf are the keys of whoever iss names. The error is ErrForeign if that is nobody
	// whose SETs are taken, and another one if that cannot be told now.
	KeysOf func(ctx context.Context, iss string) (*jwks.Set, error)

	// impatient is true once keys have been waited for in a turn: what else is signed by a
	// key that is not known waits for the next one.
	impatient bool
}

// ErrForeign says that an iss is not one whose SETs are taken here.
var ErrForeign = errors.New("the SET is of another issuer than this stream's")

// Verify reads a SET that came by the name key (RFC 8936 2.3), which its jti must equal.
// The error is a *Refusal.
//
// RFC 8417 2 and SSF 1.0 4.1: the type is explicit, so that nothing else that the same keys
// sign is taken for a SET; it has neither exp nor sub, so that no SET is taken for a token
// elsewhere; and it is about one event.
func (t *Trust) Verify(ctx context.Context, key, compact string, now time.Time) (*Event, error) {
	token, err := jwks.Parse(compact)
	if err != nil {
		return nil, refuse(codeRequest, "%s", err)
	}
	switch typ := strings.TrimPrefix(strings.ToLower(token.Header.Type), "application/"); {
	case !slices.Contains(algorithms, token.Header.Algorithm):
		return nil, refuse(codeAuth, "the SET's algorithm (alg) is not allowed: RS256, PS256, ES256, ES384 and EdDSA are")
	case typ != "secevent+jwt":
		return nil, refuse(codeRequest, "the token's typ is not secevent+jwt")
	}
	claims, err := form.Object(token.Payload, maxDepth)
	if err != nil {
		return nil, refuse(codeRequest, "the SET's claims cannot be used: %s", err)
	}
	iss, _ := claims["iss"].(string)
	if err := t.verifySignature(ctx, iss, token); err != nil {
		return nil, err
	}
	if !t.isFor(claims["aud"]) {
		return nil, refuse(codeAudience, "the SET's aud is not this receiver's")
	}
	return readEvent(claims, key, iss, now)
}

// verifySignature asks for the keys only of who is trusted, so that a foreign SET never has
// any fetched.
func (t *Trust) verifySignature(ctx context.Context, iss string, token *jwks.Token) error {
	keys, err := t.KeysOf(ctx, iss)
	if errors.Is(err, ErrForeign) {
		return refuse(codeIssuer, "the SET's iss is not one whose events are taken here")
	}
	if err == nil {
		verify := keys.VerifyTokenPatiently
		if t.impatient {
			verify = keys.VerifyToken
		}
		err = verify(ctx, token, algorithms)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwks.ErrUnknownKey):
		// Whoever rotates may publish a moment later, or by way of a cache.
		t.impatient = true
		return &Refusal{Code: codeKey, Description: "the SET was signed by a key that is not among the issuer's", Later: true, Last: unknownKeyFor}
	case errors.Is(err, jwks.ErrInvalid):
		return refuse(codeAuth, "the SET's signature was not made by a key of its issuer")
	}
	return &Refusal{Code: codeKey, Description: "the issuer's keys could not be had", Later: true}
}

func (t *Trust) isFor(aud any) bool {
	list, ok := aud.([]any)
	if !ok {
		list = []any{aud}
	}
	return slices.ContainsFunc(list, func(a any) bool {
		text, ok := a.(string)
		return ok && slices.Contains(t.Audiences, text)
	})
}

func readEvent(claims map[string]any, key, iss string, now time.Time) (*Event, error) {
	for _, name := range []string{"exp", "sub"} {
		if _, present := claims[name]; present {
			return nil, refuse(codeRequest, "the SET has %s, which a SET must not have (SSF 1.0 4.1)", name)
		}
	}
	id, _ := claims["jti"].(string)
	issued, dated := form.NumericDate(claims["iat"])
	switch {
	case !isIdentifier(id):
		return nil, refuse(codeRequest, "the SET has no jti")
	case id != key:
		return nil, refuse(codeRequest, "the SET's jti is not the one under which it came")
	case !dated:
		return nil, refuse(codeRequest, "the SET has no iat, or one that is no NumericDate")
	case now.Sub(issued) > MaxAge:
		return nil, refuse(codeRequest, "the SET is older than %d days", int(MaxAge.Hours()/24))
	case issued.Sub(now) > maxAhead:
		return nil, refuse(codeRequest, "the SET's iat lies more than a day in the future")
	}
	events, ok := claims["events"].(map[string]any)
	if !ok || len(events) != 1 {
		return nil, refuse(codeRequest, "the SET must be about exactly one event (SSF 1.0 4.1)")
	}
	e := &Event{ID: id, Issuer: iss, IssuedAt: issued, Happened: issued}
	for uri, payload := range events {
		e.URI, e.Kind = uri, kindOf(uri)
		if e.Members, ok = payload.(map[string]any); !ok {
			return nil, refuse(codeRequest, "the event's payload is no JSON object")
		}
	}
	for _, said := range []any{claims["toe"], e.Members["event_timestamp"]} { // RFC 8417 2.2, CAEP 1.0 2
		if at, ok := form.NumericDate(said); ok && at.Before(issued) && issued.Sub(at) < MaxAge {
			e.Happened = at
		}
	}
	e.Subject, e.Unreadable = subjectOf(claims, e.Members)
	return e, nil
}

// subjectOf is the SET's sub_id or, of the drafts before SSF 1.0, the event's subject.
// Where both are there and differ, nobody knows who is meant.
func subjectOf(claims, members map[string]any) (*Subject, error) {
	said, present := claims["sub_id"]
	old, hasOld := members["subject"]
	switch {
	case present && hasOld && !reflect.DeepEqual(said, old):
		return nil, errors.New("sub_id and the event's subject are not the same")
	case !present && !hasOld:
		return nil, errors.New("there is no sub_id")
	case !present:
		said = old
	}
	return parseSubject(said)
}
