package downstream

import "time"

// How many callers in different roles may have met the same before it is believed of
// everybody. A wish to be left alone lasts a minute, and a server that is overloaded says it
// to anybody; what is not worth asking for again lasts an hour, and two names are one
// person's soon.
const (
	fewBusy = 1
	fewMoot = 8
)

// belief is what a provider's answer to one request is taken to say of the next ones,
// for a while: of requests of that kind, of more kinds of the same caller or the same
// role once they have met it too, and of all once more than a few callers in as many roles
// have. The zero belief is none.
type belief struct {
	of    []scope // each of one caller or one role, but for a single one of all
	until time.Time
	why   error // what is answered meanwhile
}

// learn notes that a request of the kind has met it.
func (b *belief) learn(k Kind, few int, why error, now, until time.Time) {
	if !now.Before(b.until) {
		*b = belief{}
	}
	b.add(just(k), few)
	b.why = why
	if until.After(b.until) {
		b.until = until
	}
}

func (b *belief) add(s scope, few int) {
	for i, known := range b.of {
		if both := known.with(s); known.isWide() || !both.isWide() {
			b.of[i] = both
			return
		}
	}
	if b.of = append(b.of, s); len(b.of) > few {
		b.of = []scope{b.scope()}
	}
}

// holds reports whether it is believed of the kind.
func (b *belief) holds(k Kind, now time.Time) bool {
	if !now.Before(b.until) {
		return false
	}
	for _, s := range b.of {
		if s.covers(k) {
			return true
		}
	}
	return false
}

// scope is the least one of all that it is believed of.
func (b *belief) scope() scope {
	var all scope
	for i, s := range b.of {
		if all = all.with(s); i == 0 {
			all = s
		}
	}
	return all
}
