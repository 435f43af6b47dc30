package ending

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// exposure is until when one of some tokens may be accepted somewhere.
type exposure struct {
	until   time.Time
	endless bool // the end of one is not known
}

func (e *exposure) add(s *grant.Summary) {
	e.endless = e.endless || s.ExpiresAt.IsZero()
	if s.ExpiresAt.After(e.until) {
		e.until = s.ExpiresAt
	}
}

// endless stands in the exposure for a token whose end nobody knows: no provider
// is believed a longer one.
const endless = 10 * 365 * 24 * time.Hour

func (e exposure) from(now time.Time) time.Duration {
	if e.endless {
		return max(endless, e.until.Sub(now))
	}
	return max(0, e.until.Sub(now))
}

// Tally counts what a kill of many did.
type Tally struct {
	Revoked, Pending, ExpiryOnly int
	// Residual is for how long one of these tokens may still be accepted
	// somewhere: because nothing can kill it, because it is verified offline, or
	// because its kill is still p
	Residual time.Duration
}
