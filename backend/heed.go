package backend

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// heed does what a security event means: it kills all that its subject is found in, and
// freezes first if the operator wants that of such events. When it returns without an error
// this is durable, and the event may be acknowledged; the kills go on by themselves. Where
// it fails, or the process ends before the event is acknowledged, the event comes again:
// what is killed twice is dead all the same.
func (b *broker) heed(ctx context.Context, name string, entry *storedSignal, receiver *signal.Receiver, e *signal.Event) (string, error) {
	things, trusted, err := b.aboutWhom(ctx, receiver, e)
	if err != nil {
		return "", err
	}
	asked := kills.Asked{By: "signal " + name + " (jti " + short(e.ID) + ")", Event: e.Happened, Cause: ending.CauseSignal + e.Kind}
	if len(e.Subject.Narrowing) > 0 {
		asked.Note = "the event narrows its subject by " + strings.Join(e.Subject.Narrowing, ", ") + ", by which grants cannot be told apart: all of the person's are meant"
	}
	if asked.ID, err = kills.NewID(b.now()); err != nil {
		return "", err
	}
	outcome := signal.OutcomeKilled
	switch {
	case !trusted:
		outcome = signal.OutcomeUnknown
	case signal.ActionOn(entry.Events, e) == signal.Freeze:
		outcome = signal.OutcomeFrozen
		asked.Froze, asked.Always = true, true
	}
	for _, what := range things {
		if asked.Froze {
			err = b.freezer.Freeze(ctx, what, asked.By)
		} else {
			b.freezer.Interrupt(what) // a mint in flight rests on what has ended
		}
		if err != nil {
			return "", err
		}
	}
	for _, what := range things {
		if _, err := b.killer.KillAll(ctx, what, asked); err != nil {
			return "", err
		}
		b.Logger().Info("a security event ends grants", "signal", name, "jti", short(e.ID), "event", e.Kind, "what", what.Plain(), "frozen", asked.Froze)
	}
	return outcome, nil
}

// aboutWhom are those whom the event is about, each once, and whether any is of an issuer
// who is trusted here. That none is, is no mistake of the transmitter's, which may tell
// everything to everybody; grants of before the issuer was deleted may be theirs.
func (b *broker) aboutWhom(ctx context.Context, receiver *signal.Receiver, e *signal.Event) (things []ending.Thing, trusted bool, err error) {
	var last error
	for _, id := range e.Subject.Names {
		iss, sub := id.Issuer, id.Subject
		switch id.Format {
		case signal.FormatIssSub:
		case signal.FormatOpaque: // agreed between both sides: the sub at the transmitter itself
			iss, sub = e.Issuer, id.Value
		default:
			last = signal.Unhandled("nobody is known here by a subject of the format %s", id.Format)
			continue
		}
		known, err := b.trustsIss(ctx, iss)
		if err != nil {
			return nil, false, err
		}
		if trusted = trusted || known; !known {
			receiver.NoteUnknownIssuer(iss)
		}
		if what := ending.Subject(iss, sub); !slices.Contains(things, what) {
			things = append(things, what)
		}
	}
	if len(things) == 0 {
		return nil, false, last
	}
	return things, trusted, nil
}

// trustsIss reports whether tokens of that iss may be among what grants rest on.
func (b *broker) trustsIss(ctx context.Context, iss string) (bool, error) {
	names, err := b.issuers.List(ctx, "")
	if err != nil {
		return false, err
	}
	for _, name := range names {
		i, err := b.issuers.opened(ctx, name)
		if errors.Is(err, stored.ErrAbsent) {
			continue
		}
		if err != nil {
			return false, err
		}
		if i.URL() == iss {
			return true, nil
		}
	}
	return false, nil
}
