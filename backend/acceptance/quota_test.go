package acceptance

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Quotas are exact however many ask at once, and whatever dies meanwhile.

// storm asks for n tokens at once and returns those that were given; all others
// must have been refused with slow_down.
func storm(t *testing.T, m *harness.Mount, role string, n int) []child {
	t.Helper()
	type result struct {
		child
		err error
	}
	results := make([]result, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			secret, err := m.TryRead(t, "creds/"+role)
			results[i].err = err
			if err == nil {
				results[i].child = child{Secret: secret, Token: text(secret, "access_token"), GrantID: text(secret, "grant_id")}
			}
		})
	}
	group.Wait()
	var all []child
	for _, r := range results {
		if r.err == nil {
			all = append(all, r.child)
			continue
		}
		refused(t, r.err, 429, "slow_down")
	}
	return all
}

// awake waits until the plugin answers again.
func awake(t *testing.T, m *harness.Mount) {
	t.Helper()
	harness.Eventually(t, patience, "the plugin answers", func() error {
		_, err := m.TryWrite(t, "sweep", nil)
		return err
	})
}

func TestQuotasAreExactAcrossCrashes(t *testing.T) {
	t.Parallel()
	needsServers(t)
	vault := harness.StartVault(t, harness.VaultOptions{Storage: harness.File})
	s := sceneOn(t, vault, sharedHydra(t), harness.HydraClient{}, harness.Fields{"verify": "response", "timeout": slowTimeout})
	const most, rate = 7, 5
	s.role(t, "few", harness.Fields{"max_grants_per_entity": most})
	s.role(t, "slow", harness.Fields{"max_issue_rate": rate})
	s.role(t, "free", nil)
	ann, bob := s.As(s.agent(t, harness.Agent{Name: "ann"})), s.As(s.agent(t, harness.Agent{Name: "bob"}))

	holds := storm(t, ann, "few", 40)
	require.Len(t, holds, most)
	require.Len(t, storm(t, bob, "few", 3), 3, "another entity has a quota of its own")
	rateSpent := time.Now()
	require.Len(t, storm(t, ann, "slow", 20), rate)
	require.Len(t, storm(t, bob, "slow", 3), 3)
	require.Len(t, storm(t, ann, "free", 3), 3, "another role is not concerned")

	require.NoError(t, endLease(t, vault.Session, holds[0].LeaseID))
	holds = append(holds[1:], storm(t, ann, "few", 10)...)
	require.Len(t, holds, most, "one ended, one more could be had")

	for _, d := range []disaster{pluginKilled, vaultKilled} {
		d.strike(t, vault)
		awake(t, s.Mount)
		require.Empty(t, storm(t, ann, "few", 10), "%s", d.name)
		if time.Since(rateSpent) < 50*time.Second {
			require.Empty(t, storm(t, ann, "slow", 5), "%s", d.name)
		}
		require.NoError(t, endLease(t, vault.Session, holds[0].LeaseID))
		holds = append(holds[1:], storm(t, ann, "few", 10)...)
		require.Len(t, holds, most, "%s", d.name)
	}
	for _, c := range holds {
		s.hydra.MustBeActive(t, c.Token)
	}
}

// A crash in the middle of a burst: what was given and what is on record never
// exceeds the quota, and in the end it can be used to the full.
func TestQuotaHoldsWhenThePluginDiesInABurst(t *testing.T) {
	t.Parallel()
	needsServers(t)
	vault := harness.StartVault(t, harness.VaultOptions{Storage: harness.File})
	s := sceneOn(t, vault, sharedHydra(t), harness.HydraClient{}, harness.Fields{"verify": "response", "timeout": slowTimeout})
	const most = 12
	s.role(t, "few", harness.Fields{"max_grants_per_entity": most})
	agent := s.agent(t, harness.Agent{Name: "bursting"})
	ann := s.As(agent)

	var mu sync.Mutex
	given := 0
	var clients sync.WaitGroup
	for range 60 {
		clients.Go(func() {
			if _, err := ann.TryRead(t, "creds/few"); err == nil {
				mu.Lock()
				given++
				mu.Unlock()
			}
		})
	}
	harness.Eventually(t, patience, "the burst has begun", func() error {
		mu.Lock()
		defer mu.Unlock()
		if given == 0 {
			return errNone
		}
		return nil
	})
	vault.KillPlugin(t)
	clients.Wait()
	awake(t, s.Mount)
	require.LessOrEqual(t, given, most)
	onRecord := len(s.List(t, "grants/entity/"+agent.EntityID))
	require.LessOrEqual(t, onRecord, most)
	require.GreaterOrEqual(t, onRecord, given, "what was given is on record")
	require.Len(t, storm(t, ann, "few", 2*most), most-onRecord)
}
