package decision_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// TestForwardAlwaysFits: a token is handed on only if all of it is within role and
// request, and nothing of it outlives what the role grants.
func TestForwardAlwaysFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRole(t)
		r.Mode, r.Resources, r.Permissions, r.Details, r.DefaultScopes = provider.ModeForward, nil, nil, nil, nil
		r.SubjectIssuers = []string{"ci"}
		if r.Audiences == nil {
			r.Audiences = listOf(t, targetPatterns, "audiences")
		}
		w := world{role: r, traits: able()}.compile(t)
		s, q := drawSituation(t, w), drawRequest(t, w)
		if token := s.Subject.Token(); token != nil {
			token.Audience = listOf(t, targetValues, "aud")
		}
		d := w.Decide(s, q)
		checkDecision(t, w, s, q, d)
		if !d.Allowed() && s.Subject.Token() != nil {
			narrower := *s.Subject.Token()
			narrower.Audience = append(slices.Clone(narrower.Audience), "https://evil.test")
			wider := s
			wider.Subject = subject.Verified(&narrower)
			must(t, !w.Decide(wider, q).Allowed(), "what is wider is not allowed where the narrower was refused")
		}
	})
}

// checkForwarded checks that an allowed token is within everything as it is.
func checkForwarded(t tester, w world, s decision.Situation, q decision.Request, d *decision.Decision) {
	t.Helper()
	shown := s.Subject.Token()
	token := access.Access{Scopes: access.Exactly(shown.Scopes...), Audiences: access.Exactly(shown.Audience...)}
	must(t, d.Access.Equal(token), "%v is what the token holds, %v", d.Access.Flat(), token.Flat())
	must(t, token.Audiences.Within(w.Ceiling.Audiences), "the audiences are within the role's")
	must(t, shown.HasScopes || !w.Bounded[access.DimScopes], "scopes that are not told cannot be bounded")
	must(t, len(shown.Scopes) == 0 || w.Bounded[access.DimScopes] && token.Scopes.Within(w.Ceiling.Scopes), "the scopes are within the role's")
	must(t, q.Scopes == nil || token.Scopes.Within(access.Exactly(q.Scopes...)), "the scopes are within the request")
	must(t, q.Audiences == nil || token.Audiences.Within(access.Exactly(q.Audiences...)), "the audiences are within the request")
	must(t, len(shown.OtherScopes) == 0, "no service reads other scopes than these")
	must(t, shown.Details == nil, "no role that forwards bounds details")
	left := shown.ExpiresAt.Sub(s.Now)
	for _, most := range []time.Duration{w.role.MaxTTL, w.ProviderMaxTTL, s.MountMaxTTL} {
		must(t, most <= 0 || left <= most, "a token that lives %v where %v is the most", left, most)
	}
}
