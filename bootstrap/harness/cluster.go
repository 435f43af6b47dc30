package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/api"
)

// Cluster is three Vaults that share raft storage. One leads and runs the plugin;
// the others forward requests to it.
type Cluster struct{ Nodes []*Vault }

const (
	clusterSize = 3
	// askTimeout is for one round of questions: a node that is losing the lead may keep
	// one waiting for long.
	askTimeout = 30 * time.Second
)

// StartCluster starts three nodes and registers the plugin. Their storage is Raft
// whatever the options say.
func StartCluster(t TB, options VaultOptions) *Cluster {
	t.Helper()
	options.Storage = Raft
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	c := &Cluster{}
	for i := range clusterSize {
		node := newVault(t, options, fmt.Sprintf("vault-%d", i+1))
		node.launch(t)
		if i == 0 {
			node.initialise(t)
		} else {
			first := c.Nodes[0]
			node.unsealKey, node.Token = first.unsealKey, first.Token
			if _, err := node.Client(t).Sys().RaftJoin(&api.RaftJoinRequest{LeaderAPIAddr: first.Addr, LeaderCACert: string(first.CA)}); err != nil {
				t.Fatalf("%s joins: %v", node.nodeID, err)
			}
		}
		node.Unseal(t)
		c.Nodes = append(c.Nodes, node)
	}
	c.hastenVoters(t)
	for _, node := range c.Nodes {
		node.among = c
	}
	if !options.WithoutPlugin {
		c.Leader(t).registerPlugin(t)
	}
	return c
}

// hastenVoters: until autopilot has promoted both followers, losing the leader
// would lose the cluster. By default it watches them for ten seconds first.
func (c *Cluster) hastenVoters(t TB) {
	t.Helper()
	client := c.Nodes[0].Client(t)
	if _, err := client.Logical().Write("sys/storage/raft/autopilot/configuration", Fields{"server_stabilization_time": "1s"}); err != nil {
		t.Fatalf("autopilot: %v", err)
	}
	Eventually(t, Patience, "all nodes vote", func() error {
		state, err := client.Sys().RaftAutopilotState()
		if err != nil {
			return err
		}
		if state == nil || len(state.Voters) != clusterSize {
			return fmt.Errorf("voters: %+v", state)
		}
		return nil
	})
}

// Leader is the node that leads now, or as soon as one does.
func (c *Cluster) Leader(t TB) *Vault {
	t.Helper()
	return c.awaitLeader(t, nil)
}

// StepDown makes the leader give up and returns the next one.
func (c *Cluster) StepDown(t TB) *Vault {
	t.Helper()
	old := c.Leader(t)
	if err := old.Client(t).Sys().StepDown(); err != nil {
		t.Fatalf("step-down: %v", err)
	}
	return c.awaitLeader(t, old)
}

// KillLeader kills the leader as a power cut would, and returns it with the next
// one. Restart brings it back.
func (c *Cluster) KillLeader(t TB) (killed, leader *Vault) {
	t.Helper()
	killed = c.Leader(t)
	killed.Kill(t)
	return killed, c.awaitLeader(t, killed)
}

func (c *Cluster) awaitLeader(t TB, not *Vault) *Vault {
	t.Helper()
	var leader *Vault
	Eventually(t, Patience, "a node leads, and all answer", func() (err error) {
		leader, err = c.settled(t, not)
		return err
	})
	return leader
}

// Settle returns when every node that runs and is unsealed names the same leader, and
// answers. After a change of the lead a follower forwards to the leader of before for
// a while, and answers 500 or, where its connection is being replaced, nothing: that is
// no answer, so whoever has changed the lead, or has let a node come back, asks until
// the cluster has settled. StepDown, KillLeader, Unseal and Restart do.
func (c *Cluster) Settle(t TB) {
	t.Helper()
	c.awaitLeader(t, nil)
}

// settled is the leader, or what is in the way. not is a node that may not be it.
func (c *Cluster) settled(t TB, not *Vault) (leader *Vault, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	named := map[string]bool{}
	for _, node := range c.Nodes {
		if !node.process.alive() {
			continue
		}
		client := node.Client(t)
		if seal, err := client.Sys().SealStatusWithContext(ctx); err != nil || seal.Sealed {
			if err != nil {
				return nil, fmt.Errorf("%s: %w", node.nodeID, err)
			}
			continue // it is nobody's follower
		}
		status, err := client.Sys().LeaderWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", node.nodeID, err)
		}
		if status.IsSelf && node != not {
			leader = node
		}
		named[status.LeaderAddress] = true
		// A follower forwards this, and mounts come up after the leader is known.
		if _, err := client.Sys().ListMountsWithContext(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", node.nodeID, err)
		}
	}
	switch {
	case leader == nil:
		return nil, errors.New("no node leads yet")
	case len(named) != 1 || !named[leader.Addr]:
		return nil, fmt.Errorf("%s leads, and the nodes name %v", leader.nodeID, slices.Sorted(maps.Keys(named)))
	}
	return leader, nil
}
