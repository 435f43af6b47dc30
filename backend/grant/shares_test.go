package grant

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestSharesAreReadAsTheyWereWritten: whatever their names, of this build or of one of before.
func TestSharesAreReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &Grant{ID: "alice.1", Holder: "alice", IssuedAt: noon, MaxLease: noon, LeaseEnds: noon}
		name := rapid.OneOf(
			rapid.Map(rapid.Int64Range(1, 1<<40), ShareName),
			rapid.StringMatching(`[A-Z2-7]{12}`),
			rapid.SampledFrom([]string{"0", "-1", "007", "+1", standIn}),
		)
		if rapid.Bool().Draw(t, "numbers") {
			name = rapid.Map(rapid.Int64Range(1, 300), ShareName)
		}
		want := map[string]int64{}
		for range rapid.IntRange(0, 140).Draw(t, "steps") {
			share := name.Draw(t, "share")
			if rapid.IntRange(0, 3).Draw(t, "ends") == 0 {
				g.EndShare(share)
				delete(want, share)
			} else {
				ends := noon.Add(time.Duration(rapid.Int64Range(0, int64(24*time.Hour/time.Millisecond)).Draw(t, "end")) * time.Millisecond)
				g.SetShare(share, ends)
				want[share] = ends.UnixMilli()
			}
			if _, has := want[share]; has != g.HasShare(share) {
				t.Fatalf("%q: %v", share, g.Shares)
			}
		}
		raw, err := g.encode()
		require.NoError(t, err)
		got, err := decode(raw)
		require.NoError(t, err)
		require.Len(t, got.Shares, len(want))
		require.Equal(t, want, byName(got.Shares))
		if len(want) > 0 {
			require.Equal(t, slices.Max(slices.Collect(maps.Values(want))), got.LeaseEnds.UnixMilli())
		}
		again, err := got.encode()
		require.NoError(t, err)
		require.Equal(t, string(raw), string(again))
	})
}

// grantOfBefore is as much as builds of before make of a record's shares.
type grantOfBefore struct {
	LeaseEnds time.Time        `json:"lease_ends"`
	Shares    map[string]int64 `json:"shares"`
}

// TestBuildsOfBeforeKeepASharedToken: for them it must neither be a token of one lease, whose
// end kills it, nor one whose last share has ended while somebody has a lease.
func TestBuildsOfBeforeKeepASharedToken(t *testing.T) {
	g := newGrant(t, "alice")
	for i := range int64(3) {
		g.SetShare(ShareName(i+1), noon.Add(time.Duration(i)*time.Minute))
	}
	raw, err := g.encode()
	require.NoError(t, err)
	var before grantOfBefore
	require.NoError(t, json.Unmarshal(raw, &before))
	for i := range int64(3) {
		require.NotContains(t, before.Shares, ShareName(i+1), "they do not renew what they would forget")
		delete(before.Shares, ShareName(i+1))
	}
	require.Len(t, before.Shares, 1)
	require.Equal(t, noon.Add(2*time.Minute), before.LeaseEnds)
	require.Equal(t, before.LeaseEnds.UnixMilli(), before.Shares[standIn])

	// What they have written lacks what they do not know.
	var members map[string]any
	require.NoError(t, json.Unmarshal(raw, &members))
	delete(members, "share_list")
	raw, err = json.Marshal(members)
	require.NoError(t, err)
	after, err := decode(raw)
	require.NoError(t, err)
	after.EndShare("1")
	require.Len(t, after.Shares, 1)
	require.Equal(t, before.LeaseEnds, after.LeaseEnds)
}

func TestSharesOfBuildsOfBeforeAreReadAndWrittenAsTheirs(t *testing.T) {
	g, err := decode([]byte(`{"id":"alice.1","holder":"alice","shares":{"DKHOLURTV7EZ":1795874083000,"6ZUUKUPPDGXI":1795874084000}}`))
	require.NoError(t, err)
	require.True(t, g.HasShare("DKHOLURTV7EZ"))
	g.EndShare("DKHOLURTV7EZ")
	g.EndShare("DKHOLURTV7EZ")
	raw, err := g.encode()
	require.NoError(t, err)
	var before grantOfBefore
	require.NoError(t, json.Unmarshal(raw, &before))
	require.Equal(t, map[string]int64{"6ZUUKUPPDGXI": 1795874084000}, before.Shares)
	require.NotContains(t, string(raw), "share_list")
}

func TestABrokenListOfSharesIsUnreadable(t *testing.T) {
	for _, list := range []string{"!", "gA", "Ag", "AgIC"} {
		_, err := decode([]byte(`{"id":"alice.1","holder":"alice","shares":{"+":1},"share_list":"` + list + `"}`))
		require.ErrorIs(t, err, ErrUnreadable, list)
	}
}

// A lease that is added writes all that share the token: so they must be short.
func TestManySharesAreAShortRecord(t *testing.T) {
	g := newGrant(t, "alice")
	alone, err := g.encode()
	require.NoError(t, err)
	for i := range int64(128) {
		g.SetShare(ShareName(1000+i), noon.Add(time.Duration(i)*7*time.Second))
	}
	raw, err := g.encode()
	require.NoError(t, err)
	require.Less(t, len(raw)-len(alone), 128*6)
}

func BenchmarkShares(b *testing.B) {
	g := newGrant(b, "alice")
	for i := range int64(128) {
		g.SetShare(ShareName(1000+i), noon.Add(time.Duration(i)*7*time.Second))
	}
	b.ReportAllocs()
	for b.Loop() {
		raw, err := g.Clone().encode()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(raw)), "B/record")
	}
}
