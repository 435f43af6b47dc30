package decision_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
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

// TestRenewalJudgesTheRecordedSubject: rule 8 leaves signature, jti and the age
// of the login to the issue; claims, acr and amr are facts that the role as it is
// now is held against.
func TestRenewalJudgesTheRecordedSubject(t *testing.T) {
	claims := map[string]any{"sub": "alice", "acr": "silver", "amr": []any{"pwd", "otp"}, "team": "payments"}
	bounds := func(b map[string][]string) *subject.ClaimBounds {
		compiled, err := subject.CompileClaims(b)
		require.NoError(t, err)
		return compiled
	}
	for name, c := range map[string]struct {
		terms  *decision.SubjectTerms
		claims map[string]any
		want   fault.Code
		words  string
	}{
		"the same role":          {&decision.SubjectTerms{StepUp: subject.StepUp{RequiredACR: []string{"silver"}, RequiredAMR: []string{"otp"}}}, claims, "", ""},
		"an older login by now":  {&decision.SubjectTerms{StepUp: subject.StepUp{MaxAuthAge: time.Second}}, claims, "", ""},
		"no subject any more":    {nil, claims, "", ""},
		"a subject from now on":  {&decision.SubjectTerms{}, nil, fault.AccessDenied, "this grant has no subject"},
		"other claims":           {&decision.SubjectTerms{Claims: bounds(map[string][]string{"team": {"ops"}})}, claims, fault.AccessDenied, "bound_subject_claims: team"},
		"a higher acr":           {&decision.SubjectTerms{StepUp: subject.StepUp{RequiredACR: []string{"gold"}}}, claims, fault.StepUp, `acr_values="gold"`},
		"one more method":        {&decision.SubjectTerms{StepUp: subject.StepUp{RequiredAMR: []string{"pwd", "hwk"}}}, claims, fault.StepUp, "lacks hwk"},
		"a method, amr a string": {&decision.SubjectTerms{StepUp: subject.StepUp{RequiredAMR: []string{"pwd"}}}, map[string]any{"amr": "pwd"}, "", ""},
		"a method, amr of junk":  {&decision.SubjectTerms{StepUp: subject.StepUp{RequiredAMR: []string{"pwd"}}}, map[string]any{"amr": []any{1, nil}}, fault.StepUp, "lacks pwd"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &decision.Policy{Subject: c.terms}
			reasons := p.CheckRenewal(decision.Situation{Now: time.Unix(1_800_000_000, 0)}, decision.Recorded{Claims: c.claims})
			if c.want == "" {
				require.Empty(t, reasons)
				return
			}
			require.Len(t, reasons, 1)
			require.Equal(t, c.want, reasons[0].Code)
			require.True(t, faulttest.Says(reasons[0].Error(), c.words), "%q does not say %q", reasons[0], c.words)
		})
	}
}
