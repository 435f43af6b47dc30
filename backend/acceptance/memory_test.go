package acceptance

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

const (
	loadClients  = 64
	loadDuration = 10 * time.Second
	memoryLimit  = 64 << 20
)

// A plugin of its own, with one mount, under more clients than most will ever see.
// It is not parallel: what it measures is this load and nothing else.
func TestPeakMemoryUnderLoad(t *testing.T) {
	needsServers(t)
	vault := harness.StartVault(t, harness.VaultOptions{})
	s := sceneOn(t, vault, sharedHydra(t), harness.HydraClient{}, harness.Fields{"verify": "response", "timeout": slowTimeout})
	s.role(t, "deploy", nil)
	idle := vault.PluginPeakMemory(t)

	var issued, failed atomic.Int64
	var lastFailure atomic.Value
	end := time.Now().Add(loadDuration)
	var clients sync.WaitGroup
	for range loadClients {
		client := vault.Client(t)
		clients.Go(func() {
			for time.Now().Before(end) {
				if err := issueAndRevoke(client, s.At("creds/deploy")); err != nil {
					failed.Add(1)
					lastFailure.Store(err)
					continue
				}
				issued.Add(1)
			}
		})
	}
	clients.Wait()
	peak := vault.PluginPeakMemory(t)
	t.Logf("%d clients issued and revoked %d tokens in %s (%d failed); the plugin's peak memory is %.1f MiB, %.1f MiB before the load",
		loadClients, issued.Load(), loadDuration, failed.Load(), mib(peak), mib(idle))
	require.Zero(t, failed.Load(), "the last failure: %v", lastFailure.Load())
	require.Positive(t, issued.Load())
	require.Less(t, peak, uint64(memoryLimit))
	require.Empty(t, s.List(t, "grants"))
}

func issueAndRevoke(client *api.Client, path string) error {
	secret, err := client.Logical().Read(path)
	if err != nil {
		return err
	}
	if secret == nil || text(secret, "access_token") == "" {
		return fmt.Errorf("an answer without a token")
	}
	_, err = client.Logical().Write("sys/leases/revoke", harness.Fields{"lease_id": secret.LeaseID, "sync": true})
	return err
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
