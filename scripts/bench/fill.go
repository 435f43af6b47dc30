package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
)

const (
	fillers = 16
	// ledgerKeeps is how many records a ledger of the filler's may hold in its index.
	ledgerKeeps   = 10_000
	progressEvery = 10 * time.Second
	// loadPatience bounds how long a plugin may take to read a full ledger.
	loadPatience = 20 * time.Minute
)

// fill puts as many grants into the broker's ledger as the settings say. The
// product has no path for that, and gets none: the records are written from
// outside, through sys/raw, by the ledger's own code, after the pattern of one that
// the broker has made. Their holders are entities, or the sweep would kill them, and
// they outlive the benchmark. The plugin learns of them when it is started again,
// as it would after a fail-over.
func (w *world) fill(t harness.TB, at *site) {
	w.connect(fillers)
	pattern, uuid := w.pattern(t, at), w.mountUUID(t, at)
	holders := w.makeHolders(t, at)
	fillers := make([]*filler, fillers)
	for i := range fillers {
		fillers[i] = &filler{
			pattern: pattern, holders: holders,
			storage: &rawStorage{connection: w.connections[i], token: w.vault.Token, mountUUID: uuid},
		}
	}
	elapsed := w.inBulk(t, "grants", w.grants, func(ctx context.Context, client, n int) error { return fillers[client].write(ctx, n) })
	note := fmt.Sprintf("%d grants of %d holders were written in %s, %.0f/s", w.grants, w.holders, elapsed.Round(time.Second), float64(w.grants)/elapsed.Seconds())
	t.Logf("  %s", note)
	w.notes = append(w.notes, note, w.reload(t, at, holders[0]))
}

// pattern is a grant that the broker makes.
func (w *world) pattern(t harness.TB, at *site) *grant.Grant {
	e, err := mintRole(t, w, at)
	if err != nil {
		t.Fatalf("%v", err)
	}
	answer, err := w.connections[0].Do(context.Background(), w.callers[0], http.MethodGet, e.creds, nil)
	if err != nil {
		t.Fatalf("the first grant: %v", err)
	}
	var child struct {
		Data struct {
			GrantID string `json:"grant_id"`
		}
	}
	if err := json.Unmarshal(answer, &child); err != nil {
		t.Fatalf("the first grant: %v", err)
	}
	storage := &rawStorage{connection: w.connections[0], token: w.vault.Token, mountUUID: w.mountUUID(t, at)}
	g, err := grant.NewLedger(storage).Get(context.Background(), child.Data.GrantID)
	if err != nil {
		t.Fatalf("the first grant's record: %v", err)
	}
	return g
}

func (w *world) mountUUID(t harness.TB, at *site) string {
	mounts, err := w.vault.Client(t).Sys().ListMounts()
	if err != nil || mounts[at.path+"/"] == nil {
		t.Fatalf("finding the broker's mount: %v", err)
	}
	return mounts[at.path+"/"].UUID
}

func (w *world) makeHolders(t harness.TB, at *site) []string {
	holders := make([]string, w.holders)
	w.inBulk(t, "holders", w.holders, func(ctx context.Context, client, n int) error {
		body := fmt.Appendf(nil, `{"name":"holder-%d-of-%s"}`, n, at.path)
		answer, err := w.connections[client].Do(ctx, w.vault.Token, http.MethodPut, "identity/entity", body)
		if err != nil {
			return err
		}
		var made struct{ Data struct{ ID string } }
		err = json.Unmarshal(answer, &made)
		holders[n] = made.Data.ID
		return err
	})
	return holders
}

// inBulk does something often, says how far it is, and returns how long it took.
func (w *world) inBulk(t harness.TB, what string, count int, do load.Call) time.Duration {
	var done atomic.Int64
	stop := every(progressEvery, func() {
		t.Logf("  %s: %d of %d", what, done.Load(), count)
	})
	defer stop()
	result, err := load.Run(context.Background(), load.Options{Clients: fillers, Calls: count}, func(ctx context.Context, client, n int) error {
		defer done.Add(1)
		return do(ctx, client, n)
	})
	if err != nil {
		t.Fatalf("writing %s: %v", what, err)
	}
	return result.Elapsed
}

// every calls f in an interval until stop, which waits for the last call.
func every(interval time.Duration, f func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				f()
			}
		}
	}()
	return func() { close(quit); <-done }
}

// filler writes records after the pattern. It is not safe for concurrent use.
type filler struct {
	pattern *grant.Grant
	holders []string
	storage *rawStorage
	ledger  *grant.Ledger
	written int
}

// write makes the n-th record. The holders take turns.
func (f *filler) write(ctx context.Context, n int) error {
	if f.written%ledgerKeeps == 0 {
		f.ledger = grant.NewLedger(f.storage)
	}
	f.written++
	g := *f.pattern
	g.Holder = f.holders[n%len(f.holders)]
	g.Subject, g.SubjectIssuer = subjectOf(n), subjectName
	g.Facts.SubjectClaims = map[string]any{"iss": subjectIssuer, "sub": g.Subject}
	id, err := grant.NewIDFor(g.Holder, g.Subject)
	if err != nil {
		return err
	}
	// There is no lease: its end must not come while the benchmark runs.
	g.ID, g.LeaseEnds = id, g.MaxLease
	return f.ledger.Record(ctx, &g)
}

// reload starts the broker's engine again and waits until it knows its ledger. It
// returns in words how long that took.
func (w *world) reload(t harness.TB, at *site, holder string) string {
	started := time.Now()
	if _, err := w.vault.Client(t).Logical().Write("sys/plugins/reload/backend", harness.Fields{"plugin": at.plugin}); err != nil {
		t.Fatalf("reloading the broker: %v", err)
	}
	at.mount.Read(t, "roles/mint")
	serving := time.Since(started)
	stop := every(progressEvery, func() { t.Logf("  the broker reads its ledger") })
	defer stop()
	harness.Eventually(t, loadPatience, "the broker has read its ledger", func() error { return w.ledgerLoaded(at) })
	loaded := time.Since(started)
	w.mustHold(t, at, holder)
	memory := w.vault.PluginUsage(t, at.plugin)
	note := "started again, the broker served after " + serving.Round(time.Millisecond).String() +
		" and had read all of its ledger after " + loaded.Round(time.Millisecond).String() +
		", with " + strconv.FormatUint(memory.RSS>>20, 10) + " MiB of memory, " + strconv.FormatUint(memory.Peak>>20, 10) + " at its peak"
	t.Logf("  %s", note)
	return note
}

func (w *world) ledgerLoaded(at *site) error {
	metrics, err := w.connections[0].Do(context.Background(), w.vault.Token, http.MethodGet, at.path+"/metrics", nil)
	if err == nil && !bytes.Contains(metrics, []byte("\nbroker_ledger_loaded 1\n")) {
		err = errors.New("not yet")
	}
	return err
}

// mustHold makes sure that the records are what the broker takes for grants.
func (w *world) mustHold(t harness.TB, at *site, holder string) {
	want := (w.grants + w.holders - 1) / w.holders // the first one's share
	got := len(at.mount.List(t, "grants/entity/"+holder))
	if got != min(want, 1000) {
		t.Fatalf("the first holder has %d grants in the broker's ledger, want %d", got, want)
	}
}
