package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

// reading is what all the counters say at one moment.
type reading struct {
	storage     report.Storage
	provider    int64
	plugin      harness.Usage
	vault, auth time.Duration
	self        time.Duration
	machine     time.Duration // of all processes together
	at          time.Time
}

func (w *world) read(t harness.TB, e engine) reading {
	r := reading{
		storage: w.storageCalls(t),
		plugin:  w.vault.PluginUsage(t, e.plugin),
		vault:   w.vault.Usage(t).CPU,
		auth:    w.auth.Usage(t).CPU,
		self:    ownCPU(),
		machine: machineCPU(t),
		at:      time.Now(),
	}
	for _, count := range w.auth.Counts(t) {
		r.provider += count
	}
	return r
}

// since is what happened between two readings, for each call.
func (r reading) since(before reading, calls int) report.Turn {
	per := func(n float64) float64 { return n / float64(calls) }
	cpu := func(after, before time.Duration) float64 {
		return per(float64(after-before) / float64(time.Microsecond))
	}
	return report.Turn{
		Storage: report.Storage{
			Put:    per(r.storage.Put - before.storage.Put),
			Get:    per(r.storage.Get - before.storage.Get),
			Delete: per(r.storage.Delete - before.storage.Delete),
			List:   per(r.storage.List - before.storage.List),
		},
		Provider: per(float64(r.provider - before.provider)),
		CPU: report.CPU{
			Plugin: cpu(r.plugin.CPU, before.plugin.CPU), Vault: cpu(r.vault, before.vault),
			Provider: cpu(r.auth, before.auth), Load: cpu(r.self, before.self),
		},
		Others: r.others(before),
		RSS:    r.plugin.RSS, Peak: r.plugin.Peak,
	}
}

// others is how many CPUs processes used that are not the benchmark's.
func (r reading) others(before reading) float64 {
	ours := r.plugin.CPU - before.plugin.CPU + r.vault - before.vault + r.auth - before.auth + r.self - before.self
	others := r.machine - before.machine - ours
	// The counters tick at different moments.
	return max(others.Seconds(), 0) / r.at.Sub(before.at).Seconds()
}

func ownCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func (w *world) storageCalls(t harness.TB) report.Storage {
	c := load.NewConnection(w.vault.Addr, requestTimeout)
	defer c.Close()
	metrics, err := c.Do(context.Background(), w.vault.Token, http.MethodGet, "sys/metrics?format=prometheus", nil)
	if err == nil {
		var calls report.Storage
		if calls, err = parseBarrier(bytes.NewReader(metrics)); err == nil {
			return calls
		}
	}
	t.Fatalf("reading Vault's metrics: %v", err)
	return report.Storage{}
}

// parseBarrier reads how often each operation was done at the barrier, out of
// Prometheus' text format. One that was never done is not there.
func parseBarrier(metrics io.Reader) (report.Storage, error) {
	var s report.Storage
	for lines := bufio.NewScanner(metrics); ; {
		if !lines.Scan() {
			return s, lines.Err()
		}
		name, value, _ := strings.Cut(lines.Text(), " ")
		into := map[string]*float64{
			"vault_barrier_put_count": &s.Put, "vault_barrier_get_count": &s.Get,
			"vault_barrier_delete_count": &s.Delete, "vault_barrier_list_count": &s.List,
		}[name]
		if into == nil {
			continue
		}
		count, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return s, err
		}
		*into = count
	}
}
