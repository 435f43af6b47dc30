package chaos

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

var (
	seed     = flag.Uint64("seed", 25, "seed of the faults; 0 chooses one")
	duration = flag.Duration("duration", 30*time.Second, "how long the faults last")
	clients  = flag.Int("clients", 20, "how many clients work")
	storage  = flag.String("storage", "raft", "Vault's storage: raft, or file, which SIGKILL may damage")
	nodes    = flag.Int("nodes", 1, "Vault's nodes: 1, or 3 on raft")
	leaseTTL = flag.Duration("lease-ttl", 0, "life of a lease; by default it fits the duration")
	pace     = flag.Duration("pace", 0, "pause between two requests of a client, on average")
	scrapes  = flag.String("scrapes", "", "a file for what the metrics are each second")
)

// TestFaultRun is short by default, with a seed that has faults of most kinds in
// its first seconds; `make chaos` makes it long.
func TestFaultRun(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real servers")
	}
	if *seed == 0 {
		*seed = uint64(rand.Uint32())
	}
	t.Setenv("BROKER_PLUGIN", ownPlugin(t))
	Run(t, Options{
		Seed: *seed, Duration: *duration, Clients: *clients, Storage: harness.Storage(*storage), Nodes: *nodes, LeaseTTL: *leaseTTL, Pace: *pace, Scrapes: *scrapes,
	})
}

// ownPlugin is a copy of the built plugin: Vault starts it again and again, and
// does not start one that somebody has built anew meanwhile.
func ownPlugin(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(harness.PluginPath(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), harness.PluginName)
	if err := os.WriteFile(path, content, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
