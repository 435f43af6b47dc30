package decision_test

import (
	"net/netip"
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

// TestMappedAddresses: a condition and bound_cidrs see the same address, at the
// issue and at a renewal, however the connection spelled it.
func TestMappedAddresses(t *testing.T) {
	program, err := condition.Compile(`request.remote_addr == "192.0.2.7"`)
	require.NoError(t, err)
	for _, spelling := range []string{"192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207"} {
		p := &decision.Policy{Condition: program, Who: decision.Who{CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
		s := decision.Situation{MountMaxTTL: time.Hour, Caller: decision.Caller{RemoteAddr: netip.MustParseAddr(spelling)}}
		require.Empty(t, p.Decide(s, decision.Request{}).Refusals, spelling)
		require.Empty(t, p.CheckRenewal(s, decision.Recorded{RemoteAddr: spelling}), spelling)
	}
	zoned, err := condition.Compile(`request.remote_addr == "fe80::1"`)
	require.NoError(t, err)
	p := &decision.Policy{Condition: zoned, Who: decision.Who{CIDRs: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}}}
	s := decision.Situation{MountMaxTTL: time.Hour, Caller: decision.Caller{RemoteAddr: netip.MustParseAddr("fe80::1%eth0")}}
	require.Empty(t, p.Decide(s, decision.Request{}).Refusals)
}
