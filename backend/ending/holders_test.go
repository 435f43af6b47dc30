package ending

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each hundredth of ten thousand holders is disabled, some are gone, and of each
// thousandth Vault cannot say anything.
func TestTenThousandHoldersAreJudgedInSlices(t *testing.T) {
	const holders = 10_000
	w := newWorld(t)
	asked := 0
	w.standing = func(holder string) (Standing, error) {
		asked++
		var n int
		if _, err := fmt.Sscanf(holder, "entity-%d", &n); err != nil {
			return Standing{}, err
		}
		switch {
		case n%1000 == 7:
			return Standing{}, errors.New("the identity store is busy")
		case n%2000 == 13:
			return Standing{Gone: true}, nil
		}
		return Standing{Known: true, Disabled: n%100 == 0}, nil
	}
	for n := range holders {
		w.record(fmt.Sprintf("entity-%05d", n), "oauth2/acme")
	}

	var slices, judged int
	found := map[string]string{}
	for {
		unfits, checked, err := w.sweepHolders(t.Context(), false, 2*time.Millisecond)
		require.NoError(t, err)
		require.Positive(t, checked, "every slice makes progress")
		slices, judged = slices+1, judged+checked
		for _, u := range unfits {
			require.NotContains(t, found, u.Holder)
			found[u.Holder] = u.cause
		}
		if w.NextAfter() == "" {
			break // all of them were seen
		}
	}
	require.Greater(t, slices, 1, "one slice must not take them all")
	require.Equal(t, holders, judged)
	require.Equal(t, holders, asked, "Vault is asked once for each")
	require.Len(t, found, holders/100+holders/2000)
	require.Equal(t, CauseHolderDisabled, found["entity-00100"])
	require.Equal(t, CauseHolderGone, found["entity-00013"])
	require.NotContains(t, found, "entity-00007", "an error from Vault kills nobody")

	all, _, err := w.sweepHolders(t.Context(), true, time.Minute)
	require.NoError(t, err)
	require.Len(t, all, len(found), "by hand it begins with the first")
}
