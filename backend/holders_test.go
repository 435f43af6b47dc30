package backend

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// manyEntities is a Vault that knows ten thousand holders: each hundredth is
// disabled, and of each thousandth it cannot say anything.
type manyEntities struct {
	logical.StaticSystemView
	asked atomic.Int64
}

var errNoAnswer = errors.New("the identity store is busy")

func (m *manyEntities) EntityInfo(id string) (*logical.Entity, error) {
	m.asked.Add(1)
	var n int
	if _, err := fmt.Sscanf(id, "entity-%d", &n); err != nil {
		return nil, err
	}
	switch {
	case n%1000 == 7:
		return nil, errNoAnswer
	case n%2000 == 13:
		return nil, nil
	}
	return &logical.Entity{ID: id, Disabled: n%100 == 0}, nil
}

func TestTenThousandHoldersAreJudgedInSlices(t *testing.T) {
	const holders = 10_000
	ctx, now := context.Background(), time.Now()
	system := &manyEntities{}
	b := newBroker(catalog.Types(), &logical.InmemStorage{}, func() time.Time { return now })
	require.NoError(t, b.Setup(ctx, &logical.BackendConfig{System: system, Logger: hclog.NewNullLogger(), StorageView: b.storage}))
	for n := range holders {
		holder := fmt.Sprintf("entity-%05d", n)
		require.NoError(t, b.ledger.Record(ctx, &grant.Grant{
			ID: holder + ".1", Holder: holder, Provider: "oauth2/acme", Class: provider.ClassToken,
			Handle: secret.New("h"), IssuedAt: now, LeaseEnds: now.Add(time.Hour), ExpiresAt: now.Add(time.Hour),
		}))
	}

	var slices, judged int
	found := map[string]string{}
	for {
		unfits, checked, err := b.killer.sweepHolders(ctx, false, 2*time.Millisecond)
		require.NoError(t, err)
		require.Positive(t, checked, "every slice makes progress")
		slices, judged = slices+1, judged+checked
		for _, u := range unfits {
			require.NotContains(t, found, u.Holder)
			found[u.Holder] = u.cause
		}
		if b.killer.holders.after == "" {
			break // all of them were seen
		}
	}
	require.Greater(t, slices, 1, "one slice must not take them all")
	require.Equal(t, holders, judged)
	require.EqualValues(t, holders, system.asked.Load(), "Vault is asked once for each")
	require.Len(t, found, holders/100+holders/2000)
	require.Equal(t, causeHolderDisabled, found["entity-00100"])
	require.Equal(t, causeHolderGone, found["entity-00013"])
	require.NotContains(t, found, "entity-00007", "an error from Vault kills nobody")

	all, _, err := b.killer.sweepHolders(ctx, true, time.Minute)
	require.NoError(t, err)
	require.Len(t, all, len(found), "by hand it begins with the first")
}
