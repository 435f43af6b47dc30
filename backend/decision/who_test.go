package decision_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// TestNobodyMeetsNoConditionOnIdentity: a condition that denies somebody is true
// of nobody, so it must not be asked about a caller without an entity.
func TestNobodyMeetsNoConditionOnIdentity(t *testing.T) {
	for expr, asks := range map[string]bool{
		`identity.name != "mallory"`:               true,
		`!("contractors" in identity.groups)`:      true,
		`identity.aliases.all(a, a.name != "bot")`: true,
		`identity.entity_id == ""`:                 true,
		`now > timestamp("2020-01-01T00:00:00Z")`:  false,
		`request.ttl <= duration("1h")`:            false,
	} {
		program, err := condition.Compile(expr)
		require.NoError(t, err)
		p := &decision.Policy{Condition: program}
		s := decision.Situation{Now: time.Unix(1_800_000_000, 0), MountMaxTTL: time.Hour}
		reasons := p.Decide(s, decision.Request{}).Refusals
		renewal := p.CheckRenewal(s, decision.Recorded{TTL: time.Hour})
		if !asks {
			require.Empty(t, reasons, expr)
			require.Empty(t, renewal, expr)
			continue
		}
		for _, got := range [][]*fault.Error{reasons, renewal} {
			require.NotEmpty(t, got, expr)
			require.Equal(t, fault.AccessDenied, got[0].Code)
			require.Contains(t, got[0].Message, "this token has no entity")
		}
	}
}
