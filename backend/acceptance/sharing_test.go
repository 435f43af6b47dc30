package acceptance

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// TestAHundredJobsShareOneToken: an entity's identical requests, in a real Vault that
// has a lease for each of them, and dies and comes back meanwhile.
func TestAHundredJobsShareOneToken(t *testing.T) {
	t.Parallel()
	needsServers(t)
	const jobs = 100
	vault, hydra := harness.StartVault(t, harness.VaultOptions{Storage: harness.Raft}), sharedHydra(t)
	s := sceneOn(t, vault, hydra, harness.HydraClient{}, nil)
	s.role(t, "shared", harness.Fields{"sharing": "entity", "ttl": "10m"})
	agent, other := s.agent(t, harness.Agent{Name: "runner"}), s.agent(t, harness.Agent{Name: "other"})

	leases := make([]child, jobs)
	var all sync.WaitGroup
	for i := range leases {
		all.Go(func() { leases[i] = issue(t, s.As(agent), "shared", nil) })
	}
	all.Wait()
	for _, l := range leases {
		require.Equal(t, leases[0].Token, l.Token)
		require.Equal(t, leases[0].GrantID, l.GrantID)
	}
	require.Equal(t, []string{leases[0].GrantID}, s.List(t, "grants"))
	theirs := issue(t, s.As(other), "shared", nil)
	require.NotEqual(t, leases[0].Token, theirs.Token)

	for _, l := range leases[2:] {
		require.NoError(t, endLease(t, vault.Session, l.LeaseID))
	}
	hydra.MustBeActive(t, leases[0].Token)
	vault.Kill(t)
	vault.Restart(t)
	harness.Eventually(t, patience, "the lease has ended", func() error { return endLease(t, vault.Session, leases[1].LeaseID) })
	hydra.MustBeActive(t, leases[0].Token)
	require.NoError(t, endLease(t, vault.Session, leases[0].LeaseID))
	hydra.MustBeInactive(t, leases[0].Token)
	hydra.MustBeActive(t, theirs.Token)
}
