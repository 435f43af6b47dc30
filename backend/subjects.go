package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// A subject is who a token says that it is about, by iss and sub. Operators name the issuer
// by its name in issuers or by its iss; what is frozen and killed is the iss where that is
// known, so that neither a new name of the issuer nor a second one hides anybody.

// subjectThing is the subject that an operator has named.
func (b *broker) subjectThing(ctx context.Context, issuer, sub string) (ending.Thing, error) {
	for field, value := range map[string]string{"issuer": issuer, "subject": sub} {
		switch {
		case value == "":
			return ending.Thing{}, fault.New(fault.InvalidRequest, "%s is missing: a subject is named by issuer, the issuer's name in issuers or its iss, and subject, its sub there", field)
		case !subject.IsIdentifier(value):
			return ending.Thing{}, fault.New(fault.InvalidRequest, "%s is nobody's: it is longer than a token's may be, or holds a character that cannot be printed", field)
		}
	}
	iss, err := b.issOf(ctx, issuer)
	return ending.Subject(cmp.Or(iss, issuer), sub), err
}

var issuerName = regexp.MustCompile("^" + framework.GenericNameRegex("name") + "$")

// issOf is the iss of the issuer of that name; "" if there is none, or none that is known.
func (b *broker) issOf(ctx context.Context, name string) (string, error) {
	if !issuerName.MatchString(name) {
		return "", nil
	}
	i, err := b.issuers.Get(ctx, name)
	switch {
	case err == nil:
		return i.IssuerURL(), nil
	case errors.Is(err, stored.ErrAbsent), stored.Unreadable(err):
		return "", nil
	}
	return "", err
}

// namesOf are the names of the issuers whose iss is that, "" among them if it is the
// broker's own, which speaks for the entities that act.
func (b *broker) namesOf(ctx context.Context, iss string) (names []string, err error) {
	all, err := b.issuers.List(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		is, err := b.issOf(ctx, name)
		if err != nil {
			return nil, err
		}
		if is == iss {
			names = append(names, name)
		}
	}
	if own, _, err := b.ownIssuer(ctx); err == nil && own != "" && own == iss {
		names = append(names, "")
	}
	return names, nil
}

// knowsIssuer reports whether a subject's issuer is one that is there.
func (b *broker) knowsIssuer(ctx context.Context, what ending.Thing) (bool, error) {
	issuer, _, _ := what.Subject()
	names, err := b.namesOf(ctx, issuer)
	if err != nil || len(names) > 0 {
		return true, err
	}
	if !issuerName.MatchString(issuer) {
		return false, nil
	}
	return b.issuers.Exists(ctx, issuer) // one without an iss
}

// forms are all that a thing may be frozen as: a subject also by a name that its issuer
// had when nobody knew its iss.
func (b *broker) forms(ctx context.Context, what ending.Thing) ([]ending.Thing, error) {
	forms := []ending.Thing{what}
	issuer, sub, ok := what.Subject()
	if !ok {
		return forms, nil
	}
	names, err := b.namesOf(ctx, issuer)
	for _, name := range names {
		if name != "" && name != issuer {
			forms = append(forms, ending.Subject(name, sub))
		}
	}
	return forms, err
}

// isFrozen reports whether a thing gets no new grants now.
func (b *broker) isFrozen(ctx context.Context, what ending.Thing) (bool, error) {
	forms, err := b.forms(ctx, what)
	if err != nil {
		return false, err
	}
	for _, form := range forms {
		if frozen, err := b.freezer.Frozen(ctx, form); err != nil || frozen {
			return frozen, err
		}
	}
	return false, nil
}

// kill kills all that there is of a thing: its grants, which are everything so far. What a
// subject has beside them, such as a parent that it gave by consent, has its place here, and
// ends first: nothing new comes of it then.
func (b *broker) kill(ctx context.Context, what ending.Thing, asked kills.Asked) (*ending.Run, error) {
	return b.killer.KillAll(ctx, what, asked)
}

// killPerson is kill of all that there is of several things, which are one person's, as one
// kill.
func (b *broker) killPerson(ctx context.Context, id string, things []ending.Thing, asked kills.Asked) (*ending.Run, error) {
	return b.killer.KillPerson(ctx, id, things, asked)
}

// strangeSubject says of a subject that nobody knows what may be meant.
func (b *broker) strangeSubject(ctx context.Context, mount string, what ending.Thing) string {
	issuer, sub, _ := what.Subject()
	if known, err := b.knowsIssuer(ctx, what); known || err != nil {
		return fmt.Sprintf("no grant of the subject %q of the issuer %q is known, neither on its behalf nor with it as the actor", short(sub), short(issuer))
	}
	said := fmt.Sprintf("there is no issuer %q, by this name or with this iss, and no grant of its subject %q is known: ", short(issuer), short(sub))
	names, err := b.issuers.List(ctx, "")
	if err == nil {
		slices.Sort(names)
		if meant := near(issuer, names); len(meant) > 0 {
			return said + "did you mean " + strings.Join(meant, " or ") + "?"
		}
	}
	return said + "vault list " + mount + "issuers tells the names"
}
