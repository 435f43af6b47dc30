package decision_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
)

// TestRenewalHoldsStarsAgainstPatterns: what a request may not have, a renewal
// may not keep.
func TestRenewalHoldsStarsAgainstPatterns(t *testing.T) {
	granted := access.Access{Scopes: access.Exactly("repo:*", "user")}
	for pattern, covers := range map[string]bool{"repo:**": true, "repo:*": false} {
		ceiling, err := access.Ceiling(pattern, "user")
		require.NoError(t, err)
		p := &decision.Policy{Ceiling: access.Access{Scopes: ceiling}, Bounded: access.Dimensions{access.DimScopes: true}}
		refusal := p.StillCovers(granted)
		require.Equal(t, covers, refusal == nil, pattern)
		if !covers {
			require.Contains(t, refusal.Message, `"scope:repo:*"`)
			require.NotContains(t, refusal.Message, "user")
		}
	}
}
