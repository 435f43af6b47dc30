package subject

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// Token is a subject or actor token whose signature and registered claims were
// verified. It does not hold the token itself. Treat it as immutable: it may be
// read by many goroutines.
type Token struct {
	// IssuerName is the operator's name for whose keys verified the token, and
	// Issuer is iss. An issuer with no bound iss may write there what it likes.
	IssuerName, Issuer string
	// IssuerPrint is the Fingerprint of the issuer whose keys verified the token.
	IssuerPrint string
	// Subject is sub, never empty: who or what the token is about. It is unique
	// only together with Issuer.
	Subject string
	// ID is jti, or "" where there is none that can be read. See ReplayKey.
	ID string
	// Audience is aud as a list.
	Audience []string

	// ExpiresAt is exp. With a clock skew the token is accepted until
	// AcceptedUntil, a little later; nothing that derives from the token may
	// outlive ExpiresAt, so in that last moment it has no life left to give.
	ExpiresAt, AcceptedUntil time.Time
	// IssuedAt is iat, zero where there is none.
	IssuedAt time.Time
	// AuthTime is auth_time, when the user last logged in, zero where there is
	// none that can be read (OpenID Connect Core 2).
	AuthTime time.Time
	// ACR and AMR say how the user logged in (OpenID Connect Core 2, RFC 8176), and are
	// empty where they cannot be read: then no role that asks for them is satisfied.
	ACR string
	AMR []string

	// HasScopes says that the token names its scopes at all, in scope (RFC 8693
	// 4.2, RFC 9068 2.2.3) or scp. Scopes are those of RFC 6749's alphabet; where
	// both claims are there, those that are in both. A token that names none,
	// as an identity token, does not restrict them.
	HasScopes bool
	Scopes    []string
	// OtherScopes are what scope or scp names beside Scopes: a value of one claim
	// that the other lacks, or no scope-token. Leaving them out is right where the
	// token bounds something else, and wrong where it is itself handed on: a service
	// may read just that claim.
	OtherScopes []string

	// Details is authorization_details (RFC 9396 9.1), nil where the token has none.
	Details *access.Details

	// MayAct is may_act, who may act for the subject (RFC 8693 4.4), or nil. See
	// CheckActor. Actor is act, who already does (RFC 8693 4.1), or nil; only its
	// outermost level counts.
	MayAct, Actor map[string]any

	// KeyBound says that the token is bound to a key, whatever that key's kind (cnf,
	// RFC 7800 3): it is worth nothing without the proof that its bearer holds it.
	KeyBound bool

	// Person are what ties the subject to Vault entities, by the issuer's configuration.
	Person []person.Tie

	// Claims are all claims, numbers as json.Number.
	Claims map[string]any

	clockSkew time.Duration
	// unbound says that nothing ties iss to the keys that verified the token.
	unbound bool
}

// BoundIssuer is iss if the configuration ties it to the keys that verified the
// token, else "": then it is no more than what these keys' owner wrote.
func (t *Token) BoundIssuer() string {
	if t.unbound {
		return ""
	}
	return t.Issuer
}

// ReplayKey names this one token for the memory of used ones, and says until
// when it must be remembered: as long as the token could be accepted again. The
// key is short, reveals nothing and is bound to the issuer, because a jti is
// unique only there (RFC 7519 4.1.7). A token without a jti that can be read is an *fault.Error
// with invalid_grant: it cannot be told from its copies.
func (t *Token) ReplayKey() (key string, until time.Time, err error) {
	if _, odd := t.Claims["jti"]; odd && t.ID == "" {
		return "", time.Time{}, refuse("the token's jti is not a string of printable characters of a plausible length (RFC 7519 4.1.7), " +
			"and this role accepts each token once: have the issuer put one into its tokens")
	}
	if t.ID == "" {
		return "", time.Time{}, refuse("the token has no jti, and this role accepts each token once: " +
			"have the issuer put a jti into its tokens")
	}
	// The length keeps two pairs of issuer and jti from joining to one text.
	sum := sha256.Sum256([]byte(strconv.Itoa(len(t.Issuer)) + ":" + t.Issuer + t.ID))
	return base64.RawURLEncoding.EncodeToString(sum[:]), t.AcceptedUntil, nil
}

// newToken reads the registered claims. It judges their types and nothing else:
// a claim of the wrong type, null included, makes the whole token malformed,
// because what it restricts could not be known. How somebody logged in restricts
// nothing but where a role asks for it (StepUp), and neither does the token's own name
// (ReplayKey).
func newToken(claims map[string]any) (*Token, *fault.Error) {
	r := reader{claims: claims}
	t := &Token{
		Issuer:    r.identifier("iss", true),
		Subject:   r.identifier("sub", true),
		ID:        word(claims, "jti"),
		Audience:  r.strings("aud", true),
		ExpiresAt: r.date("exp", true),
		IssuedAt:  r.date("iat", false),
		ACR:       word(claims, "acr"),
		AMR:       amr(claims),
		MayAct:    r.object("may_act"),
		Actor:     r.object("act"),
		Claims:    claims,
	}
	t.AuthTime, _ = form.NumericDate(claims["auth_time"])
	t.Scopes, t.OtherScopes, t.HasScopes = r.scopes()
	t.Details = r.details()
	_, t.KeyBound = claims["cnf"]
	if _, told := claims["events"]; told {
		r.fail("the token tells of events (RFC 8417, OpenID Connect Back-Channel Logout) and stands for nobody")
	}
	if r.err != nil {
		return nil, r.err
	}
	return t, nil
}

// reader reads typed claims and keeps the first error.
type reader struct {
	claims map[string]any
	err    *fault.Error
}

func (r *reader) malformed(claim, what string) {
	r.fail("the token's claim %s is not %s", claim, what)
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = refuse(format, args...)
	}
}

// get gives the claim, and notes an error if it is missing and required.
func (r *reader) get(claim string, required bool) (any, bool) {
	v, ok := r.claims[claim]
	if !ok && required && r.err == nil {
		r.err = refuse("the token has no claim %s, which is required", claim)
	}
	return v, ok
}

func (r *reader) identifier(claim string, required bool) string {
	v, ok := r.get(claim, required)
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok || !isIdentifier(s) {
		r.malformed(claim, "a string of printable characters of a plausible length")
		return ""
	}
	return s
}

// word is a claim that is judged only where a role asks for it, "" where it is no text
// that one could ask for.
func word(claims map[string]any, claim string) string {
	if s, isString := claims[claim].(string); isString && isIdentifier(s) {
		return s
	}
	return ""
}

// amr is nil where it is neither a list of strings nor a single one.
func amr(claims map[string]any) []string {
	r := reader{claims: claims}
	return r.strings("amr", false)
}

// IsIdentifier reports whether a token could name its issuer or its subject so.
func IsIdentifier(s string) bool { return isIdentifier(s) }

// isIdentifier bounds what names someone or something, and keeps out what would
// break a log line. Spaces are allowed: GitHub's sub holds environments' names.
func isIdentifier(s string) bool {
	if s == "" || len(s) > maxIdentifier || !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) < 0
}

// strings reads a list of strings, or a single one (RFC 7519 4.1.3).
func (r *reader) strings(claim string, required bool) []string {
	v, ok := r.get(claim, required)
	if !ok {
		return nil
	}
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		list := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				r.malformed(claim, "a string or a list of strings")
				return nil
			}
			list = append(list, s)
		}
		return list
	}
	r.malformed(claim, "a string or a list of strings")
	return nil
}

func (r *reader) date(claim string, required bool) time.Time {
	v, ok := r.get(claim, required)
	if !ok {
		return time.Time{}
	}
	date, ok := form.NumericDate(v)
	if !ok {
		r.malformed(claim, "a NumericDate (a number of seconds since 1970)")
	}
	return date
}

func (r *reader) object(claim string) map[string]any {
	v, ok := r.get(claim, false)
	if !ok {
		return nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		r.malformed(claim, "an object")
	}
	return object
}

// scopes reads scope and scp. What is no scope-token, or not in both where both are
// there, is among others: leaving it out of scopes only narrows.
func (r *reader) scopes() (scopes, others []string, given bool) {
	var named []string
	for _, claim := range []string{"scope", "scp"} {
		if _, ok := r.claims[claim]; !ok {
			continue
		}
		var these []string
		for _, part := range r.strings(claim, false) {
			these = append(these, strings.Fields(part)...)
		}
		named = append(named, these...)
		these = keep(these, func(s string) bool { return access.CheckScope(s) == nil })
		if given {
			these = keep(these, func(s string) bool { return slices.Contains(scopes, s) })
		}
		scopes, given = these, true
	}
	return scopes, keep(named, func(s string) bool { return !slices.Contains(scopes, s) }), given
}

// details reads authorization_details: if they cannot be read, what they restrict
// cannot be known.
func (r *reader) details() *access.Details {
	v, ok := r.get("authorization_details", false)
	if !ok {
		return nil
	}
	raw, err := json.Marshal(v)
	if err == nil {
		var details access.Details
		if details, err = access.ParseDetails(raw); err == nil {
			return &details
		}
	}
	r.malformed("authorization_details", "a list of authorization details (RFC 9396 2)")
	return nil
}

func keep(list []string, ok func(string) bool) []string {
	var kept []string
	for _, v := range list {
		if ok(v) {
			kept = append(kept, v)
		}
	}
	return kept
}

func refuse(format string, args ...any) *fault.Error {
	return fault.New(fault.InvalidGrant, format, args...)
}
