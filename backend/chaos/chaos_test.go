package chaos

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

var (
	seed     = flag.Uint64("seed", 25, "seed of the faults; 0 chooses one")
	duration = flag.Duration("duration", 30*time.Second, "how long the faults last")
	clients  = flag.Int("clients", 20, "how many clients work")
	storage  = flag.String("storage", "file", "Vault's storage: file or raft")
	nodes    = flag.Int("nodes", 1, "Vault's nodes: 1, or 3 on raft")
	leaseTTL = flag.Duration("lease-ttl", 0, "life of a lease; by default it fits the duration")
	pace     = flag.Duration("pace", 0, "pause between two requests of a client, on average")
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
	Run(t, Options{
		Seed: *seed, Duration: *duration, Clients: *clients, Storage: harness.Storage(*storage), Nodes: *nodes, LeaseTTL: *leaseTTL, Pace: *pace,
	})
}
