package backend

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// heed does what a security event means: it kills all that its subject is found in, and
// freezes first if the operator wants that of such events. When it returns without an error
// this is durable, and the event may be acknowledged; the kills go on by themselves. Where
// it fails, or the process ends before the event is acknowledged, the event comes again:
// what is killed twice is dead all the same.
func (b *broker) heed(ctx context.Context, name string, entry *storedSignal, receiver *signal.Receiver, e *signal.Event) (string, error) {
	named, trusted, err := b.namedBy(ctx, entry, receiver, e)
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
	asked.Froze = trusted && signal.ActionOn(entry.Events, e) == signal.Freeze
	asked.Always = asked.Froze
	given := len(named)
	who, named, err := b.whoIs(ctx, named, asked)
	if len(named) < given {
		asked.Note = strings.TrimPrefix(asked.Note+"; a name that the event gives is shared by too many to be one person's, and was left out", "; ")
	}
	if err == nil && trusted {
		err = b.logOff(ctx, named, who, e.Happened)
	}
	if err != nil {
		return "", err
	}
	for _, what := range who {
		b.freezer.Interrupt(what) // a mint in flight rests on what has ended
	}
	if err := b.killAllOf(ctx, named, who, asked); err != nil {
		return "", err
	}
	for _, what := range who {
		b.Logger().Info("a security event ends grants", "signal", name, "jti", short(e.ID), "event", e.Kind, "what", what.Plain(), "frozen", asked.Froze)
	}
	switch {
	case !trusted:
		return signal.OutcomeUnknown, nil
	case asked.Froze:
		return signal.OutcomeFrozen, nil
	case len(who) == 0:
		return signal.OutcomeNobody, nil
	}
	return signal.OutcomeKilled, nil
}

// logOff has no token taken any more that was issued before the event, about whoever is
// named or was found: else the same agent would exchange again what it still has.
func (b *broker) logOff(ctx context.Context, named []*criterion, who []ending.Thing, happened time.Time) error {
	longest := subject.DefaultMaxLifetime
	if err := b.issuers.each(ctx, func(i *storedIssuer) { longest = max(longest, i.MaxSubjectLifetime) }); err != nil {
		return err
	}
	upTo := happened
	if latest := b.now().Add(subject.MaxClockSkew); upTo.After(latest) {
		upTo = latest
	}
	var ties []person.Tie
	for _, c := range named {
		ties = append(ties, c.ties...)
	}
	for _, what := range who {
		if iss, sub, ok := what.Subject(); ok {
			ties = append(ties, person.Subject(iss, sub))
		}
	}
	for _, tie := range person.Clean(ties) {
		full, err := b.logoffs.add(ctx, tie, upTo, b.now().Add(longest+2*subject.MaxClockSkew))
		if err != nil {
			return err
		}
		if full {
			b.Logger().Warn("the ends of more sessions are known than are kept: a token of this one can be exchanged until it expires", "tie", tie.String())
		}
	}
	return nil
}

// killAllOf orders the kill of everything that the person's identities have.
func (b *broker) killAllOf(ctx context.Context, named []*criterion, who []ending.Thing, asked kills.Asked) (err error) {
	switch len(who) {
	case 0:
	case 1:
		_, err = b.kill(ctx, who[0], asked)
	default:
		_, err = b.killPerson(ctx, named[0].id(), who, asked)
	}
	return err
}

// whoIs finds all that is the person's who is named, and freezes it if that is asked. Of
// several names each is enough: one that is no person's here is left out of taken, and only
// where there is no other one the event is refused.
func (b *broker) whoIs(ctx context.Context, named []*criterion, asked kills.Asked) (who []ending.Thing, taken []*criterion, err error) {
	var refused *signal.Refusal
	for _, c := range named {
		identities, err := b.identitiesOf(ctx, c, asked)
		if errors.As(err, &refused) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		taken = append(taken, c)
		for _, what := range identities {
			if !slices.Contains(who, what) {
				who = append(who, what)
			}
		}
	}
	if len(taken) == 0 && refused != nil {
		return nil, nil, refused
	}
	if !asked.Froze {
		return who, taken, nil
	}
	for _, what := range who {
		if err := b.freezer.Freeze(ctx, what, asked.By); err != nil {
			return nil, nil, err
		}
	}
	return who, taken, nil
}

// identitiesOf are the subjects and entities that are one person's, as far as it is kept
// what ties them: Vault is asked about nobody, so that an event takes effect at once however
// many hold something. A name that may become somebody's is frozen as such.
func (b *broker) identitiesOf(ctx context.Context, c *criterion, asked kills.Asked) ([]ending.Thing, error) {
	direct := c.ties[0].Kind == person.KindSubject
	finding, err := b.findingOf(ctx, c)
	if err != nil {
		return nil, err
	}
	finding.quiet = true
	if direct && finding.mapping.IsEmpty() && b.persons.tiesNobody() {
		return []ending.Thing{thingOfTie(c.ties[0])}, nil // and what ties it need not be read
	}
	who, err := finding.look(c.ties)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(c.ties, func(t person.Tie) bool { return slices.Contains(who.Common, t) }) {
		return nil, signal.Unhandled("the subject is not one person's here")
	}
	if who.Cut || len(who.Common) > 0 {
		b.Logger().Warn("a security event is about somebody with whom many share something: only the nearest are taken for the same person", "by", asked.By, "person", c.String())
	}
	if asked.Froze && !direct {
		if who, err = b.freezePerson(ctx, asked.By, c, finding, who); err != nil {
			return nil, err
		}
	}
	var things []ending.Thing
	for _, i := range who.Identities {
		things = append(things, thingOfTie(i.Tie))
	}
	return things, nil
}

// accountClaims are the claims by which a token names the account of a subject.
var accountClaims = []string{"preferred_username", "upn", "unique_name", "username", "account"}

// namedBy are those whom the event names, and whether one of them is somebody whom anybody
// here may know. That none is, is no mistake of the transmitter's, which may tell
// everything to everybody; grants of before the issuer was deleted may be theirs.
//
// Where the signal names no transmitter, any trusted issuer may be one: of its own subjects,
// and nobody else's.
func (b *broker) namedBy(ctx context.Context, entry *storedSignal, receiver *signal.Receiver, e *signal.Event) (named []*criterion, trusted bool, err error) {
	var last error
	only := ""
	if entry.Issuer == "" {
		only = e.Issuer
	}
	for _, id := range e.Subject.Names {
		var found []*criterion
		if only != "" && id.Format == signal.FormatIssSub && id.Issuer != only {
			last = signal.Unhandled("the subject is another issuer's than the SET, and no transmitter is named that may speak of it")
			continue
		}
		switch id.Format {
		case signal.FormatIssSub:
			found = []*criterion{subjectCriterion(id.Issuer, id.Subject)}
		case signal.FormatOpaque: // agreed between both sides: the sub at the transmitter itself
			found = []*criterion{subjectCriterion(e.Issuer, id.Value)}
		case signal.FormatEmail:
			found, err = b.mappedTo(ctx, only, []string{"email"}, id.Value)
		case signal.FormatAccount:
			found, err = b.mappedTo(ctx, only, accountClaims, id.Value)
		}
		if err != nil {
			return nil, false, err
		}
		if len(found) == 0 {
			last = signal.Unhandled("nobody is known here by a subject of the format %s", id.Format)
			continue
		}
		known := found[0].ties[0].Kind != person.KindSubject
		if iss := found[0].ties[0].At; !known {
			if known, err = b.trustsIss(ctx, iss); err != nil {
				return nil, false, err
			}
			if !known {
				receiver.NoteUnknownIssuer(iss)
			}
		}
		named, trusted = append(named, found...), trusted || known
	}
	if len(named) == 0 {
		return nil, false, last
	}
	return named, trusted, nil
}

func subjectCriterion(iss, sub string) *criterion {
	return &criterion{asked: map[string]string{fieldIssuer: iss, fieldSubjectID: sub}, ties: []person.Tie{person.Subject(iss, sub)}}
}

// mappedTo are the criteria by which operators have said that such a claim names an entity,
// of tokens of one issuer or, with none, of any.
func (b *broker) mappedTo(ctx context.Context, only string, claims []string, value string) (named []*criterion, err error) {
	add := func(c *criterion) {
		if !slices.ContainsFunc(named, func(n *criterion) bool { return maps.Equal(n.asked, c.asked) }) && len(person.Clean(slices.Clone(c.ties))) > 0 {
			named = append(named, c)
		}
	}
	err = b.issuers.each(ctx, func(i *storedIssuer) {
		if only != "" && i.IssuerURL() != only {
			return
		}
		if mounts := i.EntityAliasMount; len(mounts) > 0 && slices.Contains(claims, lastOf(cmp.Or(i.EntityAliasClaim, subject.DefaultAliasClaim))) {
			mounts = slices.Compact(slices.Sorted(slices.Values(mounts)))
			add(&criterion{
				asked: map[string]string{fieldAliasName: value, fieldAliasMount: strings.Join(mounts, ",")}, mounts: mounts, ties: person.AtEach(mounts, value),
			})
		}
		for _, key := range slices.Sorted(maps.Keys(i.EntityMetadata)) {
			if slices.Contains(claims, lastOf(i.EntityMetadata[key])) {
				add(&criterion{
					asked: map[string]string{fieldMetadataKey: key, fieldMetadataValue: value}, keys: []string{key},
					ties: []person.Tie{{Kind: person.KindMetadata, At: key, Value: value}},
				})
			}
		}
	})
	return named, err
}

// lastOf is the name of a claim, wherever in the token it stands.
func lastOf(claim string) string { return claim[strings.LastIndexByte(claim, '/')+1:] }

// trustsIss reports whether tokens of that iss may be among what grants rest on.
func (b *broker) trustsIss(ctx context.Context, iss string) (trusted bool, err error) {
	err = b.issuers.each(ctx, func(i *storedIssuer) { trusted = trusted || i.IssuerURL() == iss })
	return trusted, err
}

// each visits every issuer. One that cannot be read is an error: what it says may matter.
func (i *issuers) each(ctx context.Context, visit func(*storedIssuer)) error {
	names, err := i.List(ctx, "")
	if err != nil {
		return err
	}
	for _, name := range names {
		entry, err := i.Get(ctx, name)
		if errors.Is(err, stored.ErrAbsent) {
			continue
		}
		if err != nil {
			return err
		}
		visit(entry)
	}
	return nil
}
