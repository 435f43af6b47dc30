package agent

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// fake is a Vault whose leases are for a minute.
type fake struct {
	mu      sync.Mutex
	issued  int
	live    map[string]time.Time // until when
	renewed int
	fixed   bool
	down    error
}

func (f *fake) Get(_ context.Context, a vault.Ask) (*vault.Child, error) {
	time.Sleep(time.Second)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, f.down
	}
	f.issued++
	id := fmt.Sprint("lease", f.issued)
	f.live[id] = time.Now().Add(time.Minute)
	return &vault.Child{
		Role: a.Role, LeaseID: id, Renewable: !f.fixed, Lease: time.Minute, Ends: time.Now().Add(time.Minute),
		Data: map[string]any{"access_token": fmt.Sprint("token", f.issued)},
	}, nil
}

func (f *fake) Renew(_ context.Context, child *vault.Child) (time.Time, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewed++
	if f.down != nil {
		return time.Time{}, false, f.down
	}
	if !time.Now().Before(f.live[child.LeaseID]) {
		return time.Time{}, false, fail.New(fail.Refused, "the token of this lease is dead")
	}
	f.live[child.LeaseID] = time.Now().Add(time.Minute)
	return time.Now().Add(time.Minute), true, nil
}

func (f *fake) Revoke(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, id)
	return nil
}

func (f *fake) alive() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, until := range f.live {
		if time.Now().Before(until) {
			n++
		}
	}
	return n
}

// keeping runs a story with a keeper, and ends with nothing alive.
func keeping(t *testing.T, story func(t *testing.T, f *fake, k *Keeper)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{live: map[string]time.Time{}}
		k := NewKeeper(func(vault.Connection) (Client, error) { return f, nil })
		story(t, f, k)
		k.Close()
		require.Zero(t, f.alive())
		_, err := k.Get(t.Context(), wants("deploy"))
		require.Equal(t, fail.Unavailable, fail.KindOf(err))
	})
}

func wants(role string) Wanted {
	return Wanted{Ask: vault.Ask{Role: role}, Hold: 15 * time.Minute}
}

func get(t *testing.T, k *Keeper, w Wanted) *Lent {
	t.Helper()
	lent, err := k.Get(t.Context(), w)
	require.NoError(t, err)
	return lent
}

func TestAHundredAskAndGetOneChild(t *testing.T) {
	keeping(t, func(t *testing.T, f *fake, k *Keeper) {
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				require.Equal(t, "token1", get(t, k, wants("deploy")).Child.Text("access_token"))
			})
		}
		all.Wait()
		require.Equal(t, 1, f.issued)

		get(t, k, wants("other"))
		narrow := wants("deploy")
		narrow.Ask.Scopes = []string{"a"}
		get(t, k, narrow)
		somebody := wants("deploy")
		somebody.Connection.Token = "hvs.somebody-else"
		get(t, k, somebody)
		require.Equal(t, 4, f.issued)
	})
}

// What is promised is kept, and not longer.
func TestAChildLivesAsLongAsItIsPromised(t *testing.T) {
	keeping(t, func(t *testing.T, f *fake, k *Keeper) {
		lent := get(t, k, wants("deploy"))
		require.WithinDuration(t, time.Now().Add(time.Minute), lent.Until, 2*time.Second, "no longer than the lease, as far as is known")
		time.Sleep(10 * time.Minute)
		require.Equal(t, 1, f.alive())
		require.Zero(t, k.Idle())
		require.Equal(t, "token1", get(t, k, wants("deploy")).Child.Text("access_token"))
		time.Sleep(14 * time.Minute)
		require.Equal(t, 1, f.alive())
		require.Len(t, k.Status(), 1)
		time.Sleep(2 * time.Minute)
		require.Zero(t, f.alive())
		require.Empty(t, k.Status())
		require.Equal(t, 16*time.Minute, k.Idle())
	})
}

func TestAKilledChildIsNotHandedOutAgain(t *testing.T) {
	keeping(t, func(t *testing.T, f *fake, k *Keeper) {
		get(t, k, wants("deploy"))
		require.NoError(t, f.Revoke(t.Context(), "lease1"))
		time.Sleep(31 * time.Second)
		require.Equal(t, "token2", get(t, k, wants("deploy")).Child.Text("access_token"))
	})
}

func TestASealedVaultLeavesWhatIsKept(t *testing.T) {
	keeping(t, func(t *testing.T, f *fake, k *Keeper) {
		get(t, k, wants("deploy"))
		f.mu.Lock()
		f.down = fail.New(fail.Unavailable, "Vault is sealed")
		f.mu.Unlock()
		time.Sleep(31 * time.Second)
		require.Equal(t, "token1", get(t, k, wants("deploy")).Child.Text("access_token"))
		time.Sleep(time.Minute)
		_, err := k.Get(t.Context(), wants("deploy"))
		require.ErrorContains(t, err, "sealed")
		f.mu.Lock()
		f.down = nil
		f.mu.Unlock()
		require.Equal(t, "token2", get(t, k, wants("deploy")).Child.Text("access_token"))
	})
}

// A lease that cannot be renewed is followed by another one; whoever has the first can use
// it to its end.
func TestALeaseThatCannotBeRenewedIsFollowedByAnother(t *testing.T) {
	keeping(t, func(t *testing.T, f *fake, k *Keeper) {
		f.fixed = true
		get(t, k, wants("deploy"))
		time.Sleep(50 * time.Second)
		require.Equal(t, "token2", get(t, k, wants("deploy")).Child.Text("access_token"))
		require.Equal(t, 2, f.alive())
		require.Zero(t, f.renewed)
	})
}

func TestAChildThatAToolRefusesIsRevoked(t *testing.T) {
	keeping(t, func(t *testing.T, f *fake, k *Keeper) {
		get(t, k, wants("deploy"))
		k.Forget(wants("deploy"), "another")
		k.Forget(wants("other"), "token1")
		require.Equal(t, "token1", get(t, k, wants("deploy")).Child.Text("access_token"))
		k.Forget(wants("deploy"), "token1")
		synctest.Wait()
		require.Zero(t, f.alive())
		require.Equal(t, "token2", get(t, k, wants("deploy")).Child.Text("access_token"))
	})
}

// Whoever gives up while a token is on its way leaves it to the next.
func TestATokenThatNobodyWaitsForIsKept(t *testing.T) {
	keeping(t, func(t *testing.T, f *fake, k *Keeper) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = k.Get(ctx, wants("deploy"))
		time.Sleep(2 * time.Second)
		get(t, k, wants("deploy"))
		require.LessOrEqual(t, f.issued, 1)
		get(t, k, wants("deploy"))
		require.Equal(t, 1, f.issued)
	})
}
