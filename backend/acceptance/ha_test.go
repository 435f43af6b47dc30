package acceptance

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Three Vaults on raft, each with the plugin: the leader works, the others
// forward, and who leads next goes on from what is in storage.

const revocation = "/oauth2/revoke"

func TestClusterGoesOnWhenItsLeaderDies(t *testing.T) {
	t.Parallel()
	needsServers(t)
	cluster, hydra := harness.StartCluster(t, harness.VaultOptions{}), sharedHydra(t)
	w := newWire(t, hydra.URL)
	leader := cluster.Leader(t)
	s := sceneOn(t, leader, hydra, harness.HydraClient{}, with(w.through(), harness.Fields{"timeout": slowTimeout}))
	s.role(t, "deploy", nil)
	s.role(t, "few", harness.Fields{"max_grants_per_entity": 2})
	s.role(t, "iced", nil)
	ci := newSigner(t, "https://ci.example.com")
	ci.trust(t, s.Mount, "ci")
	s.role(t, "once", harness.Fields{"subject_issuers": "ci", "subject_single_use": true})
	agent := s.agent(t, harness.Agent{Name: "ann"})
	// by is the mount as the agent, or root, sees it at a node.
	by := func(node *harness.Vault) *harness.Mount { return node.As(agent.Token).Mount(s.Path) }
	root := func(node *harness.Vault) *harness.Mount { return node.As(leader.Token).Mount(s.Path) }

	standby := follower(cluster, leader)
	forwarded := read(t, by(standby), "deploy")
	hydra.MustBeActive(t, forwarded.Token)
	renewed, err := standby.As(agent.Token).Client(t).Sys().Renew(forwarded.LeaseID, 600)
	require.NoError(t, err)
	require.InDelta(t, 600, renewed.LeaseDuration, 2)
	used := ci.token(t, nil)
	issue(t, by(standby), "once", harness.Fields{"subject_token": used})
	require.Len(t, storm(t, by(standby), "few", 5), 2)
	root(standby).Write(t, "revoke/role/iced", harness.Fields{"freeze": true})
	byHand, byItself := read(t, by(standby), "deploy"), read(t, by(standby), "deploy")
	w.Cut()
	for _, c := range []child{byHand, byItself} {
		require.ErrorContains(t, endLease(t, standby.As(leader.Token), c.LeaseID), "not dead yet")
	}

	onRecord := root(standby).List(t, "grants")

	killed, next := cluster.KillLeader(t)
	require.Equal(t, leader, killed)
	t.Run("the next leader carries on", func(t *testing.T) {
		require.ElementsMatch(t, onRecord, root(next).List(t, "grants"))
		for _, c := range []child{byHand, byItself} {
			require.Equal(t, true, root(next).Read(t, "grants/"+c.GrantID).Data["pending"])
		}
		_, err := by(next).TryWrite(t, "creds/once", harness.Fields{"subject_token": used})
		refused(t, err, 400, "invalid_grant", "used already")
		require.Empty(t, storm(t, by(next), "few", 3), "the quota is spent")
		_, err = by(next).TryRead(t, "creds/iced")
		refused(t, err, 403, "access_denied", "frozen")
	})
	t.Run("and ends what the last one could not", func(t *testing.T) {
		standby := follower(cluster, next, killed)
		require.Equal(t, true, root(next).Read(t, "grants/"+byItself.GrantID).Data["pending"])
		before := w.Passed(revocation)
		w.Mend()
		// The sweep of every minute may be first: so what it counts is not looked at.
		root(standby).Write(t, "revoke/grant/"+byHand.GrantID, nil)
		hydra.MustBeInactive(t, byHand.Token)
		require.NoError(t, endLease(t, standby.As(leader.Token), byHand.LeaseID))
		require.NoError(t, endLease(t, standby.As(leader.Token), forwarded.LeaseID))
		hydra.MustBeInactive(t, forwarded.Token)
		inactiveWithin(t, hydra, byItself.Token, sweepPatience) // by the sweep of every minute
		require.Equal(t, 3, w.Passed(revocation)-before, "one revocation for each, by the leader alone")
	})
	t.Run("also when the lead is handed on", func(t *testing.T) {
		killed.Restart(t)
		third := cluster.StepDown(t)
		require.NotEqual(t, next, third)
		c := read(t, by(killed), "deploy")
		hydra.MustBeActive(t, c.Token)
		require.NoError(t, endLease(t, killed.As(leader.Token), c.LeaseID))
		hydra.MustBeInactive(t, c.Token)
		_, err := by(third).TryWrite(t, "creds/once", harness.Fields{"subject_token": used})
		refused(t, err, 400, "invalid_grant", "used already")
		before := w.Requests(revocation)
		requireTally(t, root(third).Write(t, "revoke/entity/"+agent.EntityID, nil), 3, 0, 0, 0)
		require.Equal(t, 3, w.Requests(revocation)-before)
		require.Empty(t, root(third).List(t, "grants"))
	})
}

// follower is a node that is none of these.
func follower(cluster *harness.Cluster, but ...*harness.Vault) *harness.Vault {
	return cluster.Nodes[slices.IndexFunc(cluster.Nodes, func(node *harness.Vault) bool { return !slices.Contains(but, node) })]
}

// A Vault that is killed alone leaves its plugin process behind, without storage,
// with a token in its hands and a failed revocation on its mind.
func TestPluginLeftBehindDoesNoHarm(t *testing.T) {
	t.Parallel()
	needsServers(t)
	vault, hydra := harness.StartVault(t, harness.VaultOptions{Storage: harness.File}), sharedHydra(t)
	w := newWire(t, hydra.URL)
	s := sceneOn(t, vault, hydra, harness.HydraClient{}, with(w.through(), harness.Fields{"timeout": slowTimeout}))
	s.role(t, "deploy", nil)
	agent := s.agent(t, harness.Agent{Name: "ann"})
	pending, held := read(t, s.Mount, "deploy"), read(t, s.Mount, "deploy")
	w.Cut()
	require.Error(t, endLease(t, vault.Session, pending.LeaseID))
	w.Mend()
	mint := holdMint(t, s, w, agent, "deploy")

	orphans := vault.KillLeavingPlugins(t)
	require.Len(t, orphans, 1)
	require.Error(t, <-mint.result)
	mint.release()
	soonInactive(t, hydra, mint.token) // it can record nothing, so it kills
	settled := w.Passed(revocation)

	vault.Restart(t)
	awake(t, s.Mount)
	require.Equal(t, 1, w.Passed(revocation)-settled, "the sweep's own")
	hydra.MustBeInactive(t, pending.Token)
	require.NoError(t, endLease(t, vault.Session, pending.LeaseID))
	hydra.MustBeActive(t, held.Token)
	require.Equal(t, []string{held.GrantID}, s.List(t, "grants"))

	before := w.Requests(revocation)
	c := read(t, s.Mount, "deploy")
	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	require.NoError(t, endLease(t, vault.Session, held.LeaseID))
	require.Equal(t, 2, w.Requests(revocation)-before, "one revocation for each token")
	require.NotContains(t, vault.PluginPIDs(t), orphans[0].PID)
	t.Logf("the plugin left behind is still there: %t", orphans[0].Alive())
	time.Sleep(3 * time.Second)
	require.Equal(t, 2, w.Requests(revocation)-before, "and nothing more")
}
