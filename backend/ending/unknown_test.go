package ending

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// The entry stays small, whatever happens.
func TestTheFirstLooksAreBounded(t *testing.T) {
	storage := &logical.InmemStorage{}
	f := &firstLooks{storage: storage, loaded: true, at: map[string]time.Time{}}
	for i := range maxFirstLooks + 100 {
		f.at[fmt.Sprintf("%0100d", i)] = dawn
	}
	require.NoError(t, f.save(t.Context()))
	entry, err := storage.Get(t.Context(), FirstLooksKey)
	require.NoError(t, err)
	require.Less(t, len(entry.Value), 300<<10)
	again := &firstLooks{storage: storage}
	require.NoError(t, again.load(t.Context()))
	require.Len(t, again.at, maxFirstLooks)
}
