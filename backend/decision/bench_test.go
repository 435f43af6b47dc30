package decision_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// typical is what the budget of a decision is written for: a role with ten
// scopes, two audiences, two groups, three claims and a condition, and a request
// on behalf of a subject whose token has been verified.
func typical(tb testing.TB) (*decision.Policy, decision.Situation, decision.Request) {
	r := &role.Role{
		Provider: "test/it", Mode: provider.ModeMint, OnExcess: role.Strip, TTL: 10 * time.Minute, MaxTTL: time.Hour,
		Scopes: []string{
			"repo:read", "repo:write", "repo:delete", "issues:read", "issues:write",
			"packages:read", "packages:write", "deploy:staging", "deploy:production", "org:*",
		},
		Audiences:       []string{"https://api.example.com", "https://deploy.example.com/*"},
		BoundGroupNames: []string{"deployers", "release-managers"},
		BoundCIDRs:      []string{"10.0.0.0/8", "2001:db8::/32"},
		SubjectIssuers:  []string{"ci"},
		BoundSubjectClaims: map[string][]string{
			"repository": {"example/*"}, "/job/environment": {"staging", "production"}, "run_attempt": {"1"},
		},
		Condition: `identity.metadata["team"] == subject.claims.team && request.scopes.all(s, s != "repo:delete") && request.ttl <= duration("1h")`,
	}
	p, err := r.Compile(kind{}, able(), 0)
	require.NoError(tb, err)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := decision.Situation{
		Now: now, MountTTL: time.Hour, MountMaxTTL: 24 * time.Hour,
		Caller: decision.Caller{
			EntityID: "7d2e3179-f69b-450c-7179-ac8ee8bd8ca9", Name: "alice", Metadata: map[string]string{"team": "payments", "site": "fra"},
			Groups: []string{"everybody", "engineering", "release-managers"}, RemoteAddr: netip.MustParseAddr("10.1.2.3"),
			Aliases: []decision.Alias{{Name: "alice@example.com", MountAccessor: "auth_oidc_1234", MountType: "oidc"}},
		},
		Subject: subject.Verified(&subject.Token{
			IssuerName: "ci", Issuer: "https://ci.example.com", Subject: "repo:example/shop", ExpiresAt: now.Add(5 * time.Minute),
			Claims: map[string]any{
				"iss": "https://ci.example.com", "sub": "repo:example/shop", "repository": "example/shop",
				"job": map[string]any{"environment": "staging"}, "run_attempt": json.Number("1"), "team": "payments",
			},
		}),
	}
	q := decision.Request{
		Scopes: []string{"repo:read", "deploy:staging", "org:teams", "admin"}, Audiences: []string{"https://deploy.example.com/eu"}, TTL: 2 * time.Minute,
	}
	require.Empty(tb, p.Decide(s, q).Refusals)
	return p, s, q
}

// TestDecideAllocations keeps the budget of 60 allocations; the time, which
// depends on the machine, is BenchmarkDecide's.
func TestDecideAllocations(t *testing.T) {
	p, s, q := typical(t)
	allowed := true
	got := testing.AllocsPerRun(200, func() { allowed = allowed && p.Decide(s, q).Allowed() })
	require.True(t, allowed)
	require.LessOrEqual(t, got, 60.0)
	t.Logf("%v allocations", got)
}

// BenchmarkDecide: below 20 µs and 60 allocations.
func BenchmarkDecide(b *testing.B) {
	p, s, q := typical(b)
	for name, q := range map[string]decision.Request{"within": {Audiences: q.Audiences, Scopes: q.Scopes[:1]}, "stripped": q} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Decide(s, q).Allowed() {
					b.Fatal("refused")
				}
			}
		})
	}
}
