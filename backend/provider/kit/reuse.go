package kit

import (
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Reused is a JWT by which the broker authenticates to a system that takes the same one
// more than once: a mint then costs no signature. It is safe for concurrent use; the zero
// value holds none. A system that takes each jti once (RFC 7523 3) wants a new JWT
// for each request instead.
type Reused struct {
	mu    sync.Mutex
	token secret.Text
	until time.Time
}

// reserve is the part of a JWT's life, of which it is one in so many, that is left when
// another one is made: for the way to the system, and its clock.
const reserve = 5

// Get is the JWT made last, or a new one if that is in the last fifth of its life. make
// signs one that ends at that time, without the network: others wait for it.
func (r *Reused) Get(now time.Time, make func() (token secret.Text, ends time.Time, err error)) (secret.Text, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.until) {
		return r.token, nil
	}
	token, ends, err := make()
	if err != nil {
		return secret.Text{}, err
	}
	r.token, r.until = token, ends.Add(-ends.Sub(now)/reserve)
	return token, nil
}

// Is reports whether the text is the JWT that is used now: no answer has it in the place of
// a child.
func (r *Reused) Is(text secret.Text) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !text.Empty() && r.token.Equal(text)
}

// Forget has the next Get make a new one: the system has refused this one, or the key
// has changed.
func (r *Reused) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token, r.until = secret.Text{}, time.Time{}
}
