// Command bench measures what the broker adds. The floor is the same work done
// without it, in the same run: a token from Ory Hydra and its revocation there.
// The broker does both through Vault, with a decision, a ledger record and a
// lease. Only the ratio means anything: machines differ, and so do minutes.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds; the floor and the broker take turns")
	calls := flag.Int("calls", 200, "grants per round")
	clients := flag.Int("clients", 8, "concurrent clients")
	flag.Parse()
	err := harness.Run(os.Stdout, func(t harness.TB) { bench(t, *rounds, *calls, *clients) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench failed:", err)
		os.Exit(1)
	}
}

func bench(t harness.TB, rounds, calls, clients int) {
	vault := harness.StartVault(t, harness.VaultOptions{})
	hydra := harness.StartHydra(t, harness.HydraOptions{})
	parent := hydra.CreateClient(t, harness.HydraClient{Scopes: []string{"read"}})
	mount := vault.Enable(t, "broker")
	mount.Write(t, "providers/oauth2/hydra", harness.Fields{"issuer": hydra.URL, "client_id": parent.ID, "client_secret": parent.Secret})
	mount.Write(t, "roles/reader", harness.Fields{"provider": "oauth2/hydra", "scopes": "read", "ttl": "10m"})
	api := vault.Client(t)

	floor := func() error {
		hydra.Revoke(t, parent, hydra.Token(t, parent, []string{"read"}, nil))
		return nil
	}
	broker := func() error {
		child, err := api.Logical().Read("broker/creds/reader")
		if err != nil {
			return err
		}
		_, err = api.Logical().Write("sys/leases/revoke", map[string]any{"lease_id": child.LeaseID, "sync": true})
		return err
	}
	run(t, 1, clients, floor)
	run(t, calls/4, clients, broker) // warm up both
	var ratios []float64
	for round := range rounds {
		f, b := run(t, calls, clients, floor), run(t, calls, clients, broker)
		ratios = append(ratios, b.Seconds()/f.Seconds())
		t.Logf("round %d: floor %.2f ms, broker %.2f ms a grant, ratio %.2f", round+1, ms(f, calls), ms(b, calls), ratios[round])
	}
	slices.Sort(ratios)
	t.Logf("broker/floor: median %.2f, from %.2f to %.2f (%d clients, issue and revoke; memory of the plugin at its peak: %d MiB)",
		ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1], clients, vault.PluginPeakMemory(t)>>20)
}

func ms(d time.Duration, calls int) float64 { return d.Seconds() * 1000 / float64(calls) }

// run does the work calls times over the clients and returns how long it took.
func run(t harness.TB, calls, clients int, work func() error) time.Duration {
	var wg sync.WaitGroup
	errs := make(chan error, clients)
	started := time.Now()
	for c := range clients {
		wg.Go(func() {
			for i := c; i < calls; i += clients {
				if err := work(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		t.Fatalf("a call failed: %v", err)
	default:
	}
	return time.Since(started)
}
