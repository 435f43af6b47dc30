package decision_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// TestStarsInRequests: providers have wildcards of their own, wider than a glob's
// star, so a star that is asked for must not slip through one.
func TestStarsInRequests(t *testing.T) {
	for _, c := range []struct {
		ceiling, asked string
		allowed        bool
	}{
		{"repo:*", "repo:*", false},
		{"repo:*", "repo:a*", false},
		{"*", "*", false},
		{"repo:**", "repo:*", true},
		{"repo:**", "repo:a/*", true},
		{"repo:**", "*", false},
		{"**", "*", true},
		{"repo:*", "repo:read", true},
	} {
		ceiling, err := access.Ceiling(c.ceiling)
		require.NoError(t, err)
		p := &decision.Policy{Ceiling: access.Access{Scopes: ceiling}, Bounded: access.Dimensions{access.DimScopes: true}}
		s := decision.Situation{Now: time.Unix(1_800_000_000, 0), MountMaxTTL: time.Hour}
		d := p.Decide(s, decision.Request{Scopes: []string{c.asked}})
		require.Equal(t, c.allowed, d.Allowed(), "%s of %s", c.asked, c.ceiling)
		if !c.allowed {
			require.Equal(t, fault.InvalidScope, d.Refusals[0].Code)
			require.Contains(t, d.Refusals[0].Message, "names values, not patterns")
		}
		d = p.Decide(s, decision.Request{Scopes: []string{c.asked, "repo:x"}})
		if c.ceiling == "repo:*" && !c.allowed {
			require.Equal(t, []string{"scope:" + c.asked}, d.Stripped)
		}
	}
}
