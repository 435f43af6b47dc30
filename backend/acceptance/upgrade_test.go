package acceptance

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// beforeVariable names an earlier build by its whole path. It lies beside the plugin. `make upgrade`
// sets it; a clean checkout has none, and may not have the history to build it from.
const beforeVariable = "BROKER_BEFORE"

// What the build from before has promised, this one keeps: beyond what outlives a
// restart, what was granted before is still reached by all that kills.
func TestPromisesOutliveAnUpgrade(t *testing.T) {
	t.Parallel()
	needsServers(t)
	before := os.Getenv(beforeVariable)
	if before == "" {
		t.Skipf("no earlier build: `make upgrade` sets %s", beforeVariable)
	}
	vault, hydra := harness.StartVault(t, harness.VaultOptions{Storage: harness.File, Before: before}), sharedHydra(t)
	require.NoError(t, vault.Client(t).Sys().EnableAuth("userpass", "userpass", ""))
	s := newStage(t, vault, hydra)
	old := runningVersion(t, s.scene)

	promises := append(promises[:len(promises):len(promises)], upgradePromises...)
	kept := make([]func(*testing.T), len(promises))
	for i, p := range promises {
		kept[i] = p.make(t, s)
	}
	vault.Upgrade(t)
	require.NotEqual(t, old, runningVersion(t, s.scene))
	for i, p := range promises {
		t.Run(p.what, kept[i])
	}
}

// upgradePromises are in addition to promises.
var upgradePromises = []promise{
	{"the kill switch reaches what was granted before", killSwitchReaches},
	{"who leaves after the upgrade takes along what was granted before", leaverLosesAll},
	{"what was configured before is written in part, and keeps the rest", writtenInPart},
}

func killSwitchReaches(t *testing.T, s *stage) func(*testing.T) {
	s.role(t, "switched", nil)
	c := read(t, s.Mount, "switched")
	return func(t *testing.T) {
		s.hydra.MustBeActive(t, c.Token)
		s.Write(t, "revoke/role/switched", nil)
		s.sweepAway(t, c)
		s.hydra.MustBeInactive(t, c.Token)
	}
}

func leaverLosesAll(t *testing.T, s *stage) func(*testing.T) {
	who := s.agent(t, harness.Agent{Name: "leaver"})
	c := read(t, s.As(who), "deploy")
	return func(t *testing.T) {
		s.hydra.MustBeActive(t, c.Token)
		require.Contains(t, s.List(t, "grants/entity/"+who.EntityID), c.GrantID)
		_, err := s.vault.Client(t).Logical().Write("identity/entity/id/"+who.EntityID, harness.Fields{"disabled": true})
		require.NoError(t, err)
		s.sweepAway(t, c)
		s.hydra.MustBeInactive(t, c.Token)
	}
}

// writtenInPart: what was configured before is changed in part by the new build, which
// must not lose the rest, least of all the parent.
func writtenInPart(t *testing.T, s *stage) func(*testing.T) {
	return func(t *testing.T) {
		s.Write(t, "providers/oauth2/hydra", harness.Fields{"timeout": "19s"})
		s.Write(t, "roles/deploy", harness.Fields{"ttl": "9m"})
		c := read(t, s.Mount, "deploy")
		s.hydra.MustBeActive(t, c.Token)
		require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
		s.hydra.MustBeInactive(t, c.Token)
	}
}

// runningVersion is what Vault says that the mount runs.
func runningVersion(t *testing.T, s *scene) string {
	t.Helper()
	mounts, err := s.vault.Client(t).Sys().ListMounts()
	require.NoError(t, err)
	mount, found := mounts[s.Path+"/"]
	require.True(t, found)
	require.NotEmpty(t, mount.RunningVersion)
	return mount.RunningVersion
}
