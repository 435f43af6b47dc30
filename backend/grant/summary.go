package grant

import (
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Overstay is how long after its lease's end a grant may still be Vault's to
// revoke before the sweep does it.
const Overstay = 2 * time.Minute

// EndlessLife is how long a record is kept of a token that was to die, that nothing can
// kill and of which nobody knows an end: without one of its own the record would be there
// for ever. Hardly any access token lives longer.
const EndlessLife = 24 * time.Hour

// Summary is what is needed of a grant to list, count and choose it, without a
// token or a handle.
type Summary struct {
	ID, Holder, Role, Provider string
	// Borrower is the grant's.
	Borrower string
	// Subject and Actor are the parties; without an ID there is none. Beside are those whom
	// the subject's token named too.
	Subject, Actor Party
	Beside         []Party
	// SubjectTies and ActorTies are the grant's.
	SubjectTies, ActorTies   []person.Tie
	Class                    provider.Class
	Revocable, SelfContained bool
	Withheld, Released       bool
	Lever                    string
	IssuedAt                 time.Time
	ExpiresAt, LeaseEnds     time.Time
	// Intent is an intent's deadline; zero for a grant.
	Intent time.Time
	// Doomed is set while a revocation that failed is due: since when, and when
	// its next attempt is.
	Doomed      bool
	Since, Next time.Time
	// Tried is the doom's.
	Tried int
	// Cause is why, Issuer and KeyID with what the broker has signed the token; "" as in
	// the grant.
	Cause, Issuer, KeyID string
}

// Summary is the grant without what is secret or long.
func (g *Grant) Summary() Summary {
	s := Summary{
		ID: g.ID, Holder: g.Holder, Role: g.Role, Provider: g.Provider, Borrower: g.Borrower,
		Subject: g.subject(), Actor: g.actor(), Beside: Named(g.Facts.SubjectClaims), SubjectTies: g.SubjectTies, ActorTies: g.ActorTies,
		Class: g.Class, Revocable: g.Revocable(), SelfContained: g.SelfContained, Withheld: g.Withheld,
		Released: g.Released, Lever: g.Lever, Intent: g.Intent,
		IssuedAt: g.IssuedAt, ExpiresAt: g.ExpiresAt, LeaseEnds: g.LeaseEnds,
		Issuer: g.Issuer, KeyID: g.KeyID,
	}
	if g.Doom != nil {
		s.Doomed, s.Since, s.Next, s.Cause = true, g.Doom.Since, g.Doom.Next, g.Doom.Cause
		s.Tried = g.Doom.Tried
	}
	return s
}

// Ties are what ties the parties to entities.
func (s *Summary) Ties() []person.Tie { return slices.Concat(s.SubjectTies, s.ActorTies) }

// TiesOf is what ties the parties with this id.
func (s *Summary) TiesOf(party string) (ties []person.Tie) {
	if s.Subject.ID == party {
		ties = append(ties, s.SubjectTies...)
	}
	if s.Actor.ID == party {
		ties = append(ties, s.ActorTies...)
	}
	return ties
}

// IsIntent reports whether it is not known yet whether there is a token.
func (s *Summary) IsIntent() bool { return !s.Intent.IsZero() }

// CertainlyExpired reports whether the token is dead of itself at now.
func (s *Summary) CertainlyExpired(now time.Time) bool {
	return !s.ExpiresAt.IsZero() && now.After(s.ExpiresAt.Add(ExpiryGrace))
}

// Over reports whether nothing is left to be done about the grant: its token has
// certainly expired, or is one that EndlessLife is for.
func (s *Summary) Over(now time.Time) bool {
	over, ever := s.over()
	return ever && now.After(over)
}

func (s *Summary) over() (at time.Time, ever bool) {
	switch {
	case !s.ExpiresAt.IsZero():
		return s.ExpiresAt.Add(ExpiryGrace), true
	case s.Revocable:
	case s.Doomed && s.Since.After(s.IssuedAt): // and given up: the provider kills none of them
		return s.Since.Add(EndlessLife), true
	case s.Doomed || s.Withheld:
		return s.IssuedAt.Add(EndlessLife), true
	}
	return time.Time{}, false
}

// Due is when the grant is the sweep's business, false if it never is: a doomed one
// when its next attempt is, an intent at its deadline, another when its lease has ended
// and Vault has had time to revoke it, unless it was released, and each once it is over.
func (s *Summary) Due() (due time.Time, ever bool) {
	over, ends := s.over()
	ever = s.Revocable
	switch {
	case s.Doomed:
		due = s.Next
	case s.IsIntent():
		due = s.Intent
	case s.Released:
		ever = false // its lever is, once nobody holds it
	default:
		due = s.LeaseEnds.Add(Overstay)
	}
	if ends && (!ever || over.Before(due)) {
		return over, true
	}
	return due, ever
}
