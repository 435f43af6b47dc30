package ending

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// Subject is a person, or a workload, by the issuer that vouches for it and its sub there.
// The issuer is its iss, or the name that it has, or had, in issuers where no iss is known:
// an issuer may be there by two names, and may be written again by another one.
//
// The Thing's name is the base64url of both, with a line break between them, since an
// identifier may hold any character that can be printed, and a sub of two kilobytes is no
// rarity. Names of which either holds a line break are nobody's.
func Subject(issuer, id string) Thing {
	return Thing{KindSubject, base64.RawURLEncoding.EncodeToString([]byte(issuer + "\n" + id))}
}

// Subject is whom a Thing of KindSubject means; false for another one.
func (t Thing) Subject() (issuer, id string, ok bool) {
	if t.Kind != KindSubject {
		return "", "", false
	}
	text, err := base64.RawURLEncoding.DecodeString(t.Name)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), "\n")
}

// Plain is String as a person reads it.
func (t Thing) Plain() string {
	if issuer, id, ok := t.Subject(); ok {
		return t.Kind + " " + id + " of " + issuer
	}
	return t.String()
}

// called is the word for it in what callers read.
func (t Thing) called() string {
	if t.Kind == KindSubject {
		return "subject or actor" // who acts is frozen as one on whose behalf
	}
	return t.Kind
}

// about fills in what an order has to know of a subject.
func (k *Killer) about(ctx context.Context, o *order) (err error) {
	issuer, _, ok := Thing{o.Kind, o.Name}.Subject()
	if ok && k.namesOf != nil {
		o.Named, err = k.namesOf(ctx, issuer)
	}
	return err
}

// Of finds the grants of a subject: the holders who may have some, and what tells which
// these are, among those that Ledger.WalkWith visits.
func (k *Killer) Of(ctx context.Context, subject Thing) (holders []string, means func(*grant.Summary) bool, err error) {
	o := &order{Kind: subject.Kind, Name: subject.Name}
	if err := k.about(ctx, o); err != nil {
		return nil, nil, err
	}
	holders, err = k.chosen(o).holders(ctx)
	return holders, o.ofSubject, err
}

// ofSubject reports whether an order means a grant by one of its parties. A name that was
// another issuer's before counts too: what that vouched for is not renewed any more.
func (o *order) ofSubject(s *grant.Summary) bool {
	issuer, id, ok := Thing{o.Kind, o.Name}.Subject()
	return ok && slices.ContainsFunc(s.Parties(), func(p grant.Party) bool {
		if p.ID != id || p.Iss == issuer || p.Issuer == issuer {
			return p.ID == id
		}
		return (p.Issuer != "" || p.Iss == "") && slices.Contains(o.Named, p.Issuer)
	})
}
