// Package keyring holds the keys with which the broker signs JWTs of its own, and
// knows when each of them signs, is published and is forgotten. It does no I/O and
// reads no clock: the caller stores the ring and says what time it is.
//
// A key serves one [Purpose], which also fixes the typ of what it signs, so that
// nothing that was signed for one can be taken for another (RFC 8725 3.11 and
// 3.12). A key is published for [Lead] before it signs, so that whoever caches the
// key set knows it by then, and until what it may have signed last has expired for
// sure. There are two exceptions: the first key of a purpose signs at once, because
// no older set can be cached that would have to be outlived, and so do the keys of
// an emergency, where the old ones are worse than a verifier that has to fetch.
package keyring

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
)

// Purpose is what a key signs, and the only thing that it ever signs.
type Purpose string

// The purposes.
const (
	// Child signs the tokens that the broker hands out itself.
	Child Purpose = "child"
	// Actor signs actor tokens (RFC 8693 2.1) that name the Vault identity which acts.
	Actor Purpose = "actor"
	// Assertion signs the broker's own client assertions (RFC 7523 2.2).
	Assertion Purpose = "assertion"
)

// types are the typ by purpose. at+jwt is RFC 9068's. No RFC names one for actor
// tokens; RFC 8725 3.11 advises a type of one's own. For client assertions
// draft-ietf-oauth-rfc7523bis has client-authentication+jwt, which libraries that
// know RFC 7523 only may refuse (Nimbus takes JWT or nothing unless told otherwise):
// plain JWT is what all of them take, and still neither of the other two.
var types = map[Purpose]string{Child: "at+jwt", Actor: "actor+jwt", Assertion: "JWT"}

// Purposes are all purposes, in a fixed order.
func Purposes() []Purpose { return []Purpose{Actor, Assertion, Child} }

// Type is the typ in the header of what a key of the purpose signs.
func (p Purpose) Type() string { return types[p] }

const (
	// CacheTime is how long a published key set may be cached.
	CacheTime = 5 * time.Minute
	// Lead is how long a key is published before it signs: far longer than CacheTime,
	// for verifiers that do not heed it.
	Lead = time.Hour
	// Grace is how long a key stays published after all that it signed has expired,
	// for verifiers whose clock is late or who allow for one that is.
	Grace = time.Hour
	// MaxKeys is how many keys of one purpose there can be at a time.
	MaxKeys = 5
	// maxWithdrawn is how many ids of withdrawn keys are kept: those of some dozen
	// emergencies, after which nobody can still trust the first one's keys.
	maxWithdrawn = 256
	// MaxLife is the longest life that a ring can promise.
	MaxLife = 366 * 24 * time.Hour
)

// Errors that callers tell apart.
var (
	// ErrNoKey: there is no key to sign with.
	ErrNoKey = errors.New("there is no key to sign with")
	// ErrRefused: a rotation would break what the ring promises.
	ErrRefused = errors.New("the rotation is refused")
	// ErrInvalid: a token is not one that the ring signed for that purpose, or its
	// key has been retired.
	ErrInvalid = errors.New("the token was not signed by this ring")
	// ErrClaims: claims that cannot be signed, because of their end or their size.
	ErrClaims = errors.New("the claims cannot be signed")
)

// algorithms are what a ring signs with (RFC 7518 3.1, RFC 8037 3.1).
var algorithms = []jwa.SignatureAlgorithm{jwa.ES256, jwa.RS256, jwa.EdDSA}

// Algorithms are what a ring can sign with, the default first.
func Algorithms() []string {
	names := make([]string, len(algorithms))
	for i, alg := range algorithms {
		names[i] = alg.String()
	}
	return names
}

// Terms are what the keys have to meet from now on.
type Terms struct {
	// Algorithm is one of Algorithms. Another one than before rotates the keys.
	Algorithm string
	// LongestLife of anything that the keys sign. More than before holds for the keys
	// that still sign; less does not shorten what they signed before.
	LongestLife time.Duration
	// Period is how long a key signs. It must be longer than Lead.
	Period time.Duration
}

func (t Terms) check() error {
	switch {
	case !slices.Contains(Algorithms(), t.Algorithm):
		return fmt.Errorf("no keys of the algorithm %q can be made", t.Algorithm)
	case t.LongestLife <= 0 || t.LongestLife > MaxLife:
		return fmt.Errorf("the longest life must be positive and at most %s", MaxLife)
	case t.Period <= Lead:
		return fmt.Errorf("the rotation period must be longer than %s", Lead)
	}
	return nil
}

// Ring is an immutable set of keys, safe for concurrent use: what changes it makes
// another one. The zero value has no keys. It never prints its private keys; Encode
// is the only way to them.
type Ring struct {
	keys map[Purpose][]*key // by activeFrom
	// stopped is when the ring ceased to sign, or zero.
	stopped   time.Time
	verifiers map[Purpose]*jwks.Set
	// withdrawn are the ids of the last keys that an emergency took back.
	withdrawn []string
}

// build makes a ring whose keys verify.
func build(keys map[Purpose][]*key, stopped time.Time, withdrawn []string) (*Ring, error) {
	withdrawn = withdrawn[max(0, len(withdrawn)-maxWithdrawn):]
	r := &Ring{keys: keys, stopped: stopped, withdrawn: withdrawn, verifiers: map[Purpose]*jwks.Set{}}
	for purpose, list := range keys {
		if len(list) == 0 {
			continue
		}
		set, err := jwks.Static(document(list))
		if err != nil {
			return nil, err
		}
		r.verifiers[purpose] = set
	}
	return r, nil
}

// Info is what may be known of a key.
type Info struct {
	Purpose    Purpose
	ID         string // RFC 7638 thumbprint, the kid
	Algorithm  string
	ActiveFrom time.Time // when it begins to sign
}

func (k *key) info() Info {
	return Info{Purpose: k.purpose, ID: k.id, Algorithm: k.alg.String(), ActiveFrom: k.activeFrom}
}

// Published are the keys of the set that is published now, in a fixed order.
func (r *Ring) Published(now time.Time) []Info {
	var all []Info
	for _, k := range r.published(now) {
		all = append(all, k.info())
	}
	return all
}

// Newest is the key of the purpose that signs now or will soon; false if there is
// none.
func (r *Ring) Newest(p Purpose) (Info, bool) {
	list := r.keys[p]
	if len(list) == 0 {
		return Info{}, false
	}
	return list[len(list)-1].info(), true
}

// Oldest is the key of the purpose that has signed first of those that are not
// forgotten; false if there is none.
func (r *Ring) Oldest(p Purpose) (Info, bool) {
	if list := r.keys[p]; len(list) > 0 {
		return list[0].info(), true
	}
	return Info{}, false
}

// Active is the key of the purpose that signs now; false if none does.
func (r *Ring) Active(p Purpose, now time.Time) (Info, bool) {
	if k := r.active(p, now); k != nil {
		return k.info(), true
	}
	return Info{}, false
}

// Has reports whether the ring has the key, of that purpose: until all that it signed
// has expired, if nobody withdraws it.
func (r *Ring) Has(p Purpose, id string) bool {
	return slices.ContainsFunc(r.keys[p], func(k *key) bool { return k.id == id })
}

// JWKS is the published key set (RFC 7517 5) as JSON: public keys of all purposes.
func (r *Ring) JWKS(now time.Time) []byte { return document(r.published(now)) }

// ActiveAlgorithms are the algorithms of the published keys, sorted: what a
// verifier has to know.
func (r *Ring) ActiveAlgorithms(now time.Time) []string {
	var names []string
	for _, k := range r.published(now) {
		names = append(names, k.alg.String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Format implements fmt.Formatter for every verb: a ring in a log line tells how
// many keys it has.
func (r *Ring) Format(f fmt.State, _ rune) {
	count := 0
	for _, list := range r.keys {
		count += len(list)
	}
	_, _ = fmt.Fprintf(f, "[%d keys]", count)
}
