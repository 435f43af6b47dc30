package downstream

import "time"

// belief is what a provider's answer to one request is taken to say of the next ones,
// for a while: of requests of that kind, and of more kinds once they have met it too.
// The zero belief is none.
type belief struct {
	scope scope
	until time.Time
	why   error // what is answered meanwhile
}

// learn notes that a request of the kind has met it.
func (b *belief) learn(k Kind, why error, now, until time.Time) {
	if now.Before(b.until) {
		b.scope = b.scope.with(just(k))
	} else {
		*b = belief{scope: just(k)}
	}
	b.why = why
	if until.After(b.until) {
		b.until = until
	}
}

// holds reports whether it is believed of the kind.
func (b *belief) holds(k Kind, now time.Time) bool {
	return now.Before(b.until) && b.scope.covers(k)
}
