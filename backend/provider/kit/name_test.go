package kit_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// systems are what some systems take for a name.
var systems = map[string]struct {
	names kit.Names
	takes *regexp.Regexp
}{
	"an AWS session name": {kit.MustNames("vault-", 64, kit.LowerDigits), regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)},
	"a Kubernetes label":  {kit.MustNames("", 63, kit.LowerDigits), regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)},
	"a Kubernetes name":   {kit.MustNames("broker-", 63, kit.LowerDigits), regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)},
	"a GCP account":       {kit.MustNames("b", 30, kit.LowerDigits), regexp.MustCompile(`^[a-z][-a-z0-9]{4,28}[a-z0-9]$`)},
	"hexadecimal digits":  {kit.MustNames("", 32, "0123456789abcdef"), regexp.MustCompile(`^[0-9a-f]{32}$`)},
}

// drawID is the id of a grant to an entity of the root namespace, of another one, or to nobody.
func drawID(t *rapid.T, label string) string {
	holder := rapid.OneOf(
		rapid.Just(""),
		rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`),
		rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.[A-Za-z0-9]{5}`),
		rapid.StringMatching(`[A-Za-z0-9_+= äß-]{1,200}`),
	).Draw(t, label)
	id, err := grant.NewID(holder)
	require.NoError(t, err)
	return id
}

func TestANameIsTakenAndMadeAgain(t *testing.T) {
	for system, s := range systems {
		t.Run(system, rapid.MakeCheck(func(t *rapid.T) {
			id := drawID(t, "holder")
			name := s.names.Of(id)
			require.Regexp(t, s.takes, name)
			require.Equal(t, name, s.names.Of(strings.Clone(id)))
			holder, _ := grant.HolderOf(id)
			if len(holder) > 8 {
				require.NotContains(t, name, holder)
			}
		}))
	}
}

// TestNamesTellGrantsApart also where the ids differ in what a shorter or simpler name
// would have lost: the case, the end, the middle.
func TestNamesTellGrantsApart(t *testing.T) {
	for system, s := range systems {
		t.Run(system, rapid.MakeCheck(func(t *rapid.T) {
			id := drawID(t, "holder")
			at := rapid.IntRange(0, len(id)-1).Draw(t, "at")
			for _, other := range []string{strings.ToUpper(id), id[:at] + id[at+1:], id[:at] + "~" + id[at:], id + "0", drawID(t, "another")} {
				if other != id {
					require.NotEqual(t, s.names.Of(id), s.names.Of(other))
				}
			}
		}))
	}
	seen := map[string]bool{}
	for range 50_000 {
		id, err := grant.NewID("")
		require.NoError(t, err)
		name := systems["a GCP account"].names.Of(id)
		require.False(t, seen[name])
		seen[name] = true
	}
}

// TestNamesDoNotChange: an intent of an earlier build is looked for by the name that that
// build has given.
func TestNamesDoNotChange(t *testing.T) {
	id := "7a3c1b52-90de-4f61-8a55-0123456789ab.WxYz1.n00112233445566778899aabbccddeeff"
	require.Equal(t, "vault-gy9cpfpaexqreb8aa3nbxwsamn76why", systems["an AWS session name"].names.Of(id))
	require.Equal(t, "bgy9cpfpaexqreb8aa3nbxwsamn76w", systems["a GCP account"].names.Of(id))
}

func TestNamesThatAreTooShortAreAMistake(t *testing.T) {
	require.Panics(t, func() { kit.MustNames("tokenbroker-", 30, kit.LowerDigits) })
	require.Panics(t, func() { kit.MustNames("a prefix that is longer than the name", 30, kit.LowerDigits) })
}
