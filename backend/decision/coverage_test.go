package decision_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
)

// coverage is what the table of decisions has shown.
type coverage struct {
	codes map[string]int // by stage and code
	pairs map[string]int // by pair and whether it was granted
}

func newCoverage() *coverage { return &coverage{codes: map[string]int{}, pairs: map[string]int{}} }

// terms are the ways in which a grant is bounded. play says whether a case has
// the term at work, words how a refusal speaks of it.
var terms = []struct {
	name  string
	play  func(*tableCase) bool
	words []string
}{
	{"scopes", func(c *tableCase) bool { return c.Role.Scopes != nil || c.Request.Scopes != nil }, []string{"scope", "scopes"}},
	{"audiences", func(c *tableCase) bool { return c.Role.Audiences != nil || c.Request.Audiences != nil }, []string{"audience", "audiences"}},
	{"resources", func(c *tableCase) bool { return c.Role.Resources != nil || c.Request.Resources != nil }, []string{"resource", "resources"}},
	{"permissions", func(c *tableCase) bool { return c.Role.Permissions != nil || c.Request.Permissions != nil }, []string{"permission", "permissions"}},
	{"authorization_details", func(c *tableCase) bool { return c.Role.Details != nil || c.Request.Details != nil }, []string{string(access.DimDetails)}},
	{"time", func(c *tableCase) bool { return c.Request.TTL != 0 || c.Want.TTL != 0 }, []string{"ttl", "lease", "life"}},
	{"who", func(c *tableCase) bool {
		return len(c.Role.BoundEntityIDs)+len(c.Role.BoundGroupNames)+len(c.Role.BoundEntityMetadata) > 0 || c.Caller.Disabled
	}, []string{"entity"}},
	{"cidr", func(c *tableCase) bool { return c.Role.BoundCIDRs != nil }, []string{"bound_cidrs"}},
	{"condition", func(c *tableCase) bool { return c.Role.Condition != "" }, []string{"condition"}},
	{"subject", func(c *tableCase) bool { return c.Role.SubjectIssuers != nil || c.Token != nil }, []string{"subject token", "subject_token", "the token"}},
}

func (c *coverage) add(tc *tableCase, o outcome) {
	for _, r := range o.refusals {
		c.codes[string(o.stage)+" "+string(r.Code)]++
	}
	var playing, named []string
	for _, term := range terms {
		if !term.play(tc) {
			continue
		}
		playing = append(playing, term.name)
		if slices.ContainsFunc(o.refusals, func(r *fault.Error) bool {
			return slices.ContainsFunc(term.words, func(w string) bool { return faulttest.Says(r.Error(), w) })
		}) {
			named = append(named, term.name)
		}
	}
	for i, a := range playing {
		for _, b := range playing[i+1:] {
			switch {
			case o.stage == stageGranted:
				c.pairs[pair(a, b, "granted")]++
			case slices.Contains(named, a) || slices.Contains(named, b):
				c.pairs[pair(a, b, "refused")]++
			}
		}
	}
}

func pair(a, b, end string) string { return fmt.Sprintf("%s with %s, %s", a, b, end) }

// require fails if something is covered no more: a code that the decision or the
// acceptance of an answer can give, or a pair of terms with both ends.
func (c *coverage) require(t *testing.T) {
	t.Helper()
	for _, want := range []string{
		"role_refused invalid_request",
		"refused invalid_request", "refused invalid_scope", "refused invalid_target", "refused invalid_grant",
		"refused access_denied", "refused insufficient_user_authentication", "refused temporarily_unavailable",
		"killed provider_violation",
	} {
		require.NotZero(t, c.codes[want], "no case is %s", want)
	}
	for i, a := range terms {
		for _, b := range terms[i+1:] {
			for _, end := range []string{"granted", "refused"} {
				if c.pairs[pair(a.name, b.name, end)] == 0 {
					t.Errorf("no case has %s", pair(a.name, b.name, end))
				}
			}
		}
	}
}
