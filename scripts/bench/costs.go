package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// costCases are the kinds of grants of which the costs are told. The floor is what Vault
// asks for any lease.
func costCases() []benchCase {
	onFloor := func(harness.TB, *world, *site) (engine, error) { return floor, nil }
	all := []benchCase{
		{name: "floor", role: onFloor}, {name: "oauth2", role: mintRole}, {name: "github", role: githubRole}, {name: "jwt", role: jwtRole},
		{name: "exchange", role: exchangeRole}, {name: "sharing=entity", role: sharingRole},
	}
	for i := range all {
		all[i].storage, all[i].raw = harness.Raft, true
	}
	return all
}

// cost is what one issue, and the grant while it lives, takes.
type cost struct {
	plugin, vault float64 // µs of CPU
	record, lease float64 // bytes in storage, keys and values, without what the backend adds
	disk          float64 // bytes of the backend's file
	memory        float64 // bytes of Vault's live heap
	resident      float64 // bytes of the plugin's process, which needs not grow
}

// tellCosts measures each kind in a Vault of its own, and writes the table for the
// documents.
func tellCosts(out io.Writer, s settings, only string) error {
	names, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	table := &strings.Builder{}
	fmt.Fprintf(table, "%s, %d CPUs, %s, %s, integrated storage, %d leases of %d entities each:\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOARCH, runtime.Version(), s.leases, s.callers)
	lines := tabwriter.NewWriter(table, 0, 0, 1, ' ', 0)
	fmt.Fprintln(lines, "| what\t| CPU of the plugin, µs\t| CPU of Vault, µs\t| record, bytes\t| lease and index, bytes\t| on disk, bytes\t| Vault's live heap, bytes\t| plugin's memory, bytes\t|")
	fmt.Fprintln(lines, "| ---\t| ---:\t| ---:\t| ---:\t| ---:\t| ---:\t| ---:\t| ---:\t|")
	for _, c := range costCases() {
		if !names.MatchString(c.name) {
			continue
		}
		err := harness.Run(io.Discard, func(t harness.TB) {
			found := newWorld(t, s, c).costOf(t, c)
			fmt.Fprintf(lines, "| %s\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t|\n", c.name, found.plugin, found.vault, found.record, found.lease, found.disk, found.memory, found.resident)
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s is done\n", c.name)
	}
	_ = lines.Flush()
	_, err = io.WriteString(out, "\n"+table.String())
	return err
}

// costOf is the cost of one of as many grants, beside as many that were there.
func (w *world) costOf(t harness.TB, c benchCase) cost {
	e, err := c.role(t, w, w.now)
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	w.connect(usual)
	w.issueMany(t, e, usual, w.leases/4) // warm
	before := w.weigh(t, e)
	w.issueMany(t, e, usual, w.leases)
	after := w.weigh(t, e)
	each := func(now, then float64) float64 { return (now - then) / float64(w.leases) }
	return cost{
		plugin: each(after.plugin, before.plugin), vault: each(after.vault, before.vault),
		record: each(after.record, before.record), lease: each(after.lease, before.lease), disk: each(after.disk, before.disk),
		memory: each(after.memory, before.memory), resident: each(after.resident, before.resident),
	}
}

// weigh is what all grants together have taken so far.
func (w *world) weigh(t harness.TB, e engine) cost {
	// The live heap comes last: it costs a collection.
	plugin, vault := w.vault.PluginUsage(t, e.plugin), w.vault.Usage(t)
	found := cost{
		plugin: micros(plugin.CPU), vault: micros(vault.CPU), resident: float64(plugin.RSS),
		lease: w.bytesBelow(t, "sys/expire/"), disk: w.onDisk(t),
	}
	if e.plugin != floorPlugin {
		found.record = w.bytesBelow(t, ofMount(w.mountUUID(t, w.now)))
	}
	found.memory = w.liveHeap(t)
	return found
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// sampled is how many entries' values are read to know their size.
const sampled = 300

// bytesBelow is how much is stored below a path, by all keys and a sample of the values.
func (w *world) bytesBelow(t harness.TB, path string) float64 {
	storage := &rawStorage{connection: w.connections[0], token: w.vault.Token, below: path}
	var keys []string
	for folders := []string{""}; len(folders) > 0; {
		folder := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		names, err := storage.List(context.Background(), folder)
		if err != nil {
			t.Fatalf("what is in storage: %v", err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "/") {
				folders = append(folders, folder+name)
			} else {
				keys = append(keys, folder+name)
			}
		}
	}
	var inKeys, inValues, read float64
	for i, key := range keys {
		inKeys += float64(len(path) + len(key))
		if i%max(1, len(keys)/sampled) != 0 {
			continue
		}
		entry, err := storage.Get(context.Background(), key)
		if err != nil {
			t.Fatalf("what is in storage: %v", err)
		}
		if entry != nil {
			inValues, read = inValues+float64(len(entry.Value)+sealed), read+1
		}
	}
	if read == 0 {
		return 0
	}
	return inKeys + inValues/read*float64(len(keys))
}

// sealed is what the barrier adds to a value: its term, version, nonce and tag.
const sealed = 4 + 1 + 12 + 16

// onDisk is how large the file of the storage backend is.
func (w *world) onDisk(t harness.TB) float64 { return float64(w.vault.DataSize(t, "vault.db")) }

var heapAlloc = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)

// liveHeap is what Vault's process has on its heap after a collection.
func (w *world) liveHeap(t harness.TB) float64 {
	answer, err := w.vault.Client(t).Logical().ReadRawWithData("sys/pprof/heap", url.Values{"gc": {"1"}, "debug": {"1"}})
	if err != nil {
		t.Fatalf("Vault's heap: %v", err)
	}
	defer answer.Body.Close()
	profile, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("Vault's heap: %v", err)
	}
	found := heapAlloc.FindSubmatch(profile)
	if found == nil {
		t.Fatalf("Vault's heap: no word of it in its profile, which begins %.40q", profile)
	}
	n, _ := strconv.ParseFloat(string(found[1]), 64)
	return n
}
