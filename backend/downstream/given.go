package downstream

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// GaveBefore reports whether the provider has given a secret of this child to a request
// before it, as far as is remembered: then the child is another's too. It is to be asked
// once of each child, whatever its class, as that may change with the configuration.
func (p *Provider) GaveBefore(child *provider.Child) bool {
	if p.Traits.Signed { // no two of these are the same
		return false
	}
	now := p.registry.deps.Now()
	return p.site.given.add(child.Secrets, child.ExpiresAt, now)
}

// GivesAgain reports whether the provider has of late given the same secret to several
// requests.
func (p *Provider) GivesAgain() bool {
	at := p.site.given.sawAgain()
	return !at.IsZero() && p.registry.deps.Now().Sub(at) < rememberedAgain
}

// rememberedAgain is for how long a check tells of it.
const rememberedAgain = 24 * time.Hour

// maxGiven is how many secrets of one provider are remembered, at some hundred bytes each.
const maxGiven = 20_000

// given remembers which secrets a provider has answered with of late. Some servers give
// one token to all who ask for the same until it expires: to kill it for one holder is to
// kill it for all. What is kept are keyed hashes, in memory alone. It is safe for
// concurrent use.
type given struct {
	key [32]byte

	mu sync.Mutex
	// again is when the provider last gave a secret that it had given before.
	again time.Time
	seen  map[fingerprint]time.Time // until when
	order []fingerprint             // a ring, the oldest at next
	next  int
}

type fingerprint [16]byte

func newGiven() *given {
	r := &given{seen: map[fingerprint]time.Time{}}
	_, _ = rand.Read(r.key[:]) // it never fails
	return r
}

// add remembers the secrets of one child until then, and reports whether one of them
// was there before. A zero time is an end that is not known: it is remembered as long
// as there is room. Of a child that repeats another nothing is added.
func (r *given) add(secrets map[string]secret.Text, until, now time.Time) (repeated bool) {
	prints := make([]fingerprint, 0, len(secrets))
	for _, s := range secrets {
		if !s.Empty() {
			prints = append(prints, r.print(s))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range prints {
		if end, seen := r.seen[p]; seen && (end.IsZero() || now.Before(end)) {
			r.again = now
			return true
		}
	}
	for _, p := range prints {
		r.put(p, until)
	}
	return false
}

// put is for whoever holds mu.
func (r *given) put(p fingerprint, until time.Time) {
	if _, there := r.seen[p]; !there {
		if len(r.order) < maxGiven {
			r.order = append(r.order, p)
		} else {
			delete(r.seen, r.order[r.next])
			r.order[r.next] = p
			r.next = (r.next + 1) % maxGiven
		}
	}
	r.seen[p] = until
}

// sawAgain is when the provider last gave a secret that it had given before; zero if it
// never did.
func (r *given) sawAgain() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.again
}

func (r *given) print(s secret.Text) fingerprint {
	mac := hmac.New(sha256.New, r.key[:])
	mac.Write([]byte(s.Reveal()))
	var p fingerprint
	copy(p[:], mac.Sum(nil))
	return p
}
