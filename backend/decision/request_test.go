package decision_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
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

// A provider that expands patterns itself is handed them, where the caller is silent and
// no condition has to see what would come of them.
func TestPatternsForAProviderThatExpandsThem(t *testing.T) {
	ceiling, err := access.Ceiling("acme/*", "acme/api")
	require.NoError(t, err)
	looks, err := condition.Compile(`request.resources.size() > 0`)
	require.NoError(t, err)
	idle, err := condition.Compile(`now > timestamp("2020-01-01T00:00:00Z")`)
	require.NoError(t, err)
	s := decision.Situation{Now: time.Unix(1_800_000_000, 0), MountMaxTTL: time.Hour}
	resources := access.Dimensions{access.DimResources: true}
	for name, c := range map[string]struct {
		expands   access.Dimensions
		condition *condition.Program
		asked     []string
		allowed   bool
	}{
		"one that does":                         {resources, nil, nil, true},
		"one that does not":                     {nil, nil, nil, false},
		"with a condition that looks at it":     {resources, looks, nil, false},
		"with a condition that does not":        {resources, idle, nil, true},
		"a value":                               {resources, looks, []string{"acme/web"}, true},
		"a pattern that a caller has asked for": {resources, nil, []string{"acme/a*"}, false},
	} {
		p := &decision.Policy{Ceiling: access.Access{Resources: ceiling}, Bounded: resources, Askable: resources, Expands: c.expands, Condition: c.condition}
		d := p.Decide(s, decision.Request{Resources: c.asked})
		require.Equal(t, c.allowed, d.Allowed(), name)
		if c.allowed && c.asked == nil {
			require.True(t, d.Access.Resources.Equal(ceiling), name)
			_, violation := p.Accept(d.Access, decision.Answer{Granted: access.Access{Resources: access.Exactly("acme/x", "acme/api")}, Confirmed: resources})
			require.Nil(t, violation, name)
			_, violation = p.Accept(d.Access, decision.Answer{Granted: access.Access{Resources: access.Exactly("acme/x", "evil/api")}, Confirmed: resources})
			require.Equal(t, fault.ProviderViolation, violation.Code, name)
		}
	}
}
