package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

const (
	floorPlugin = "vault-plugin-secrets-floor"
	floorMount  = "floor"
	brokerMount = "broker"
	spareMount  = "spare"
)

// site is one build of the broker, on a mount of its own.
type site struct {
	plugin, path string
	mount        *harness.Mount
	// spare is the mount of the same build whose ledger stays empty.
	spare string
}

// basePlugin is the build to compare with. Its name is not what the other's begins
// with: processes are told by it.
const basePlugin = "vault-plugin-secrets-base"

// requestTimeout is longer than Vault's own limit on a request.
const requestTimeout = 2 * time.Minute

// world is a Vault with both engines, an authorization server, and callers.
type world struct {
	settings

	vault   *harness.Vault
	auth    *harness.FastAuth
	now     *site
	base    *site    // nil if there is nothing to compare with
	callers []string // tokens, each of an entity of its own
	first   string   // id of the first one's entity
	notes   []string // about the ledger's filling
	// subjects is how many had their turn, by the path.
	subjects map[string]int
	// killed is how many roles or providers were killed after a start, by the path.
	killed map[string]int

	connections []*load.Connection
	profiled    int // turns
}

// engine is one side of a case.
type engine struct {
	plugin string
	creds  string   // path to read
	also   string   // path of another provider's, to read in turn with it, if any
	bodies [][]byte // one per caller to write there instead, if any
}

var floor = engine{plugin: floorPlugin, creds: floorMount + "/creds/x"}

// inWorld runs the cases of a group in one world, which is gone afterwards.
func inWorld(out io.Writer, s settings, group []benchCase) (found []report.Case, version string, err error) {
	err = harness.Run(out, func(t harness.TB) {
		w := newWorld(t, s, group[0])
		version = w.version(t)
		for _, c := range group {
			found = append(found, w.measure(t, c))
		}
	})
	return found, version, err
}

func newWorld(t harness.TB, s settings, c benchCase) *world {
	config := map[string]any{
		"telemetry": map[string]any{"prometheus_retention_time": "24h", "disable_hostname": true},
	}
	if c.grants > 0 || c.raw {
		config["raw_storage_endpoint"] = true
	}
	w := &world{
		settings: s, subjects: map[string]int{}, killed: map[string]int{},
		vault: harness.StartVault(t, harness.VaultOptions{Storage: c.storage, Config: config, LogLevel: "warn"}),
		auth:  harness.StartFastAuth(t),
	}
	w.vault.Register(t, floorPlugin)
	if err := w.vault.Client(t).Sys().Mount(floorMount, &api.MountInput{Type: floorPlugin}); err != nil {
		t.Fatalf("enabling the floor: %v", err)
	}
	w.now = w.enable(t, harness.PluginName, brokerMount)
	if s.base != "" {
		w.registerBase(t, s.base)
		w.base = w.enable(t, basePlugin, "base")
	}
	w.logIn(t)
	if c.grants > 0 {
		for _, at := range w.sites() {
			w.fill(t, at)
		}
	}
	return w
}

// sites are the builds that are measured.
func (w *world) sites() []*site {
	if w.base == nil {
		return []*site{w.now}
	}
	return []*site{w.base, w.now}
}

// enable mounts a build, and gives it the provider.
func (w *world) enable(t harness.TB, plugin, path string) *site {
	at := &site{plugin: plugin, path: path, spare: spareMount + "-" + path}
	at.mount = w.mountAt(t, plugin, path)
	return at
}

func (w *world) mountAt(t harness.TB, plugin, path string) *harness.Mount {
	if err := w.vault.Client(t).Sys().Mount(path, &api.MountInput{Type: plugin}); err != nil {
		t.Fatalf("enabling %s: %v", plugin, err)
	}
	m := w.vault.Mount(path)
	w.provide(t, m)
	return m
}

// registerBase lays a copy of the build to compare with beside the other plugins,
// where Vault looks for it.
func (w *world) registerBase(t harness.TB, file string) {
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("BASE: %v", err)
	}
	beside := filepath.Join(filepath.Dir(harness.PluginPath(t)), basePlugin)
	// Another file, not other content: an earlier one may still be running.
	_ = os.Remove(beside)
	if err := os.WriteFile(beside, content, 0o755); err != nil {
		t.Fatalf("BASE: %v", err)
	}
	w.vault.Register(t, basePlugin)
}

func (w *world) provide(t harness.TB, m *harness.Mount) {
	m.Write(t, "providers/oauth2/fast", w.fast())
}

func (w *world) fast() harness.Fields {
	return harness.Fields{
		"token_url": w.auth.URL + "/token", "revocation_url": w.auth.URL + "/revoke",
		"client_id": harness.FastAuthClient.ID, "client_secret": harness.FastAuthClient.Secret,
	}
}

// connect makes sure that each client has a connection of its own.
func (w *world) connect(clients int) {
	for len(w.connections) < clients {
		w.connections = append(w.connections, load.NewConnection(w.vault.Addr, requestTimeout))
	}
}

func (w *world) version(t harness.TB) string {
	health, err := w.vault.Client(t).Sys().Health()
	if err != nil {
		t.Fatalf("asking Vault for its version: %v", err)
	}
	return "Vault v" + strings.TrimPrefix(health.Version, "v")
}

// measure is one case from top to bottom: what it needs, warm-up, rounds.
func (w *world) measure(t harness.TB, c benchCase) report.Case {
	found := c.line()
	found.Notes = w.takeNotes()
	broker, err := c.role(t, w, w.now)
	var refusal *notBuilt
	if errors.As(err, &refusal) {
		t.Logf("  not built: %s", refusal.answer)
		found.NotBuilt = refusal.answer
		return found
	}
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	engines := []engine{floor, broker}
	if w.base != nil {
		base, err := c.role(t, w, w.base)
		switch {
		case errors.As(err, &refusal):
			found.Notes = append(found.Notes, "not compared; the base says: "+refusal.answer)
		case err != nil:
			t.Fatalf("%s: the base: %v", c, err)
		default:
			engines = append(engines, base)
		}
	}
	turns := w.takeTurns(t, c, engines)
	found.Summarise(turns[0], turns[1])
	if len(turns) > 2 {
		found.Compare(turns[0], turns[2], turns[1])
	}
	return found
}

// takeTurns has each engine take its turn in every round, and returns them by engine.
func (w *world) takeTurns(t harness.TB, c benchCase, engines []engine) [][]report.Turn {
	w.connect(c.clients)
	rounds, much := w.measured(c)
	turns := make([][]report.Turn, len(engines))
	order := make([]int, len(engines))
	for i, e := range engines {
		w.turnOf(t, c, e, amount{duration: w.warmUp, leases: max(c.clients, w.leases/10)})
		turns[i], order[i] = make([]report.Turn, rounds), i
	}
	for round := range rounds {
		for _, i := range order {
			stop := w.profile(t, c, engines[i])
			turns[i][round] = w.turnOf(t, c, engines[i], much)
			stop()
		}
		// Whoever is later has more leases beside it: nobody always is.
		slices.Reverse(order)
		line := fmt.Sprintf("  %s, round %d/%d: floor %.0f/s, broker %.0f/s, ratio %.2f", c, round+1, rounds,
			turns[0][round].Rate, turns[1][round].Rate, turns[1][round].Rate/turns[0][round].Rate)
		if len(turns) > 2 {
			line += fmt.Sprintf(", base %.0f/s, broker to base %.2f", turns[2][round].Rate, turns[1][round].Rate/turns[2][round].Rate)
		}
		t.Logf("%s", line)
	}
	return turns
}

// measured is how often, and how much in each turn. A turn beside a million records in
// Vault's memory is as long as several of Vault's garbage collections, which slow
// down whoever has that turn.
func (w *world) measured(c benchCase) (rounds int, much amount) {
	if c.grants > 0 {
		return min(w.rounds, w.longRounds), amount{duration: w.longTurn, leases: w.leases}
	}
	return w.rounds, amount{duration: w.turn, leases: w.leases}
}

// takeNotes are for the first case of a world only.
func (w *world) takeNotes() []string {
	notes := w.notes
	w.notes = nil
	return notes
}

// turnOf is one engine's turn.
func (w *world) turnOf(t harness.TB, c benchCase, e engine, much amount) report.Turn {
	job := c.do(t, w, e, c.clients, much)
	if c.sweeps && e.plugin != floorPlugin {
		mount, _, _ := strings.Cut(e.creds, "/")
		defer w.keepSweeping(t, mount)()
	}
	before := w.read(t, e)
	result, err := load.Run(context.Background(), job.options, job.call)
	if err != nil {
		t.Fatalf("%s, %s: %v", c, e.creds, err)
	}
	if result.Calls() == 0 {
		t.Fatalf("%s, %s: not one call in %s", c, e.creds, result.Elapsed)
	}
	turn := w.read(t, e).since(before, result.Calls())
	turn.Calls, turn.Rate = result.Calls(), result.Rate()
	turn.P50, turn.P99 = milliseconds(result.Percentile(50)), milliseconds(result.Percentile(99))
	return turn
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// keepSweeping runs one sweep after the other until stop, which waits for the last.
func (w *world) keepSweeping(t harness.TB, mount string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	client := w.vault.Client(t)
	go func() {
		for ctx.Err() == nil {
			if _, err := client.Logical().WriteWithContext(ctx, mount+"/sweep", nil); err != nil && ctx.Err() == nil {
				done <- fmt.Errorf("sweep: %w", err)
				return
			}
		}
		done <- nil
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("%v", err)
		}
	}
}
