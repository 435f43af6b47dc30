package httpclient

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
)

// Tally is how the exchanges under one context ended. It is safe for concurrent use.
type Tally struct{ answered, failed, unanswered, astray atomic.Bool }

type tallyKey struct{}

// Watch returns a context whose exchanges are noted in the tally. A request that is
// not sent because of what it is itself is no exchange.
func Watch(ctx context.Context) (context.Context, *Tally) {
	t := &Tally{}
	return context.WithValue(ctx, tallyKey{}, t), t
}

// Answered reports whether a server answered: with anything but a 5xx, too much of it
// included, or by refusing our certificate.
func (t *Tally) Answered() bool { return t.answered.Load() }

// Failed reports whether a server answered with a 5xx.
func (t *Tally) Failed() bool { return t.failed.Load() }

// Unanswered reports whether an exchange brought no connection, no whole answer in
// time, or nothing that is HTTP.
func (t *Tally) Unanswered() bool { return t.unanswered.Load() }

// Astray reports whether a request was not sent because it would have gone where no
// secret may go: a mistake in the type of provider that made it.
func (t *Tally) Astray() bool { return t.astray.Load() }

// watched notes how an exchange ended.
func watched(ctx context.Context, status int, err error) {
	t, ok := ctx.Value(tallyKey{}).(*Tally)
	switch {
	case !ok:
	case err == nil && status < http.StatusInternalServerError,
		errors.Is(err, ErrBodyTooLarge), errors.Is(err, ErrCertificateRefused):
		t.answered.Store(true)
	case err == nil:
		t.failed.Store(true)
	default:
		t.unanswered.Store(true)
	}
}

func astray(ctx context.Context) {
	if t, ok := ctx.Value(tallyKey{}).(*Tally); ok {
		t.astray.Store(true)
	}
}

type paceKey struct{}

type pace struct {
	begun atomic.Bool
	wait  func(context.Context) error
}

// Pace returns a context in which each exchange but the first waits for its turn at the
// provider. Whoever makes the context has waited for the first one's.
func Pace(ctx context.Context, wait func(context.Context) error) context.Context {
	return context.WithValue(ctx, paceKey{}, &pace{wait: wait})
}

// paced waits for a further exchange's turn.
func paced(ctx context.Context) error {
	p, ok := ctx.Value(paceKey{}).(*pace)
	if !ok || !p.begun.Swap(true) {
		return nil
	}
	return p.wait(ctx)
}
