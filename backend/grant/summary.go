package grant

import "time"

// Overstay is how long after its lease's end a grant may still be Vault's to
// revoke before the sweep does it.
const Overstay = 2 * time.Minute

// Summary is what is needed of a grant to list, count and choose it, without a
// token or a handle.
type Summary struct {
	ID, Holder, Role, Provider string
	Revocable, SelfContained   bool
	Withheld                   bool
	IssuedAt                   time.Time
	ExpiresAt, LeaseEnds       time.Time
	// Doomed is set while a revocation that failed is due: since when, and when
	// its next attempt is.
	Doomed      bool
	Since, Next time.Time
}

// Summary is the grant without what is secret or long.
func (g *Grant) Summary() Summary {
	s := Summary{
		ID: g.ID, Holder: g.Holder, Role: g.Role, Provider: g.Provider,
		Revocable: !g.Handle.Empty(), SelfContained: g.SelfContained, Withheld: g.Withheld,
		IssuedAt: g.IssuedAt, ExpiresAt: g.ExpiresAt, LeaseEnds: g.LeaseEnds,
	}
	if g.Doom != nil {
		s.Doomed, s.Since, s.Next = true, g.Doom.Since, g.Doom.Next
	}
	return s
}

// CertainlyExpired reports whether the token is dead of itself at now.
func (s *Summary) CertainlyExpired(now time.Time) bool {
	return !s.ExpiresAt.IsZero() && now.After(s.ExpiresAt.Add(ExpiryGrace))
}

// Due is when the grant is the sweep's business, false if it never is: a doomed one
// when its next attempt is, another when its lease has ended and Vault has had time
// to revoke it, and each once it has certainly expired.
func (s *Summary) Due() (due time.Time, ever bool) {
	expires := s.ExpiresAt.Add(ExpiryGrace)
	due = s.LeaseEnds.Add(Overstay)
	if s.Doomed {
		due = s.Next
	}
	if !s.ExpiresAt.IsZero() && (!s.Revocable || expires.Before(due)) {
		return expires, true
	}
	return due, s.Revocable
}
