package harness

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"
)

// Cluster is three Vaults that share raft storage. One leads and runs the plugin;
// the others forward requests to it.
type Cluster struct{ Nodes []*Vault }

const (
	clusterSize = 3
	// A step-down takes until the followers notice, and a lost leader until they
	// have given up on it.
	electionTimeout = 60 * time.Second
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
	Eventually(t, electionTimeout, "all nodes vote", func() error {
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
	Eventually(t, electionTimeout, "a node leads", func() error {
		for _, node := range c.Nodes {
			if node == not || !node.process.alive() {
				continue
			}
			if status, err := node.Client(t).Sys().Leader(); err == nil && status.IsSelf {
				leader = node
				return nil
			}
		}
		return errors.New("none yet")
	})
	leader.awaitActive(t)
	return leader
}
