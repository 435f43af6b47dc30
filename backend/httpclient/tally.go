package httpclient

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
)

// Tally is how the exchanges under one context ended. It is safe for concurrent use.
type Tally struct{ answered, failed, unanswered atomic.Bool }

type tallyKey struct{}

// Watch returns a context whose exchanges are noted in the tally. A request that Do
// refuses to send is no exchange.
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

// watched notes how an exchange ended.
func watched(ctx context.Context, resp *Response, err error) {
	t, ok := ctx.Value(tallyKey{}).(*Tally)
	switch {
	case !ok:
	case err == nil && resp.Status < http.StatusInternalServerError,
		errors.Is(err, ErrBodyTooLarge), errors.Is(err, ErrCertificateRefused):
		t.answered.Store(true)
	case err == nil:
		t.failed.Store(true)
	default:
		t.unanswered.Store(true)
	}
}
