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

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
)

const (
	fillers = 16
	// batch is how many records are written by one request.
	batch         = 500
	progressEvery = 10 * time.Second
	// loadPatience bounds how long a plugin may take to read a full ledger.
	loadPatience = 20 * time.Minute
)

// fill puts as many grants into the broker's ledger as the settings say. The
// product has no path for that, and gets none: the records are made here, by the
// ledger's own code, after the pattern of one that the broker has made, and written by
// the floor, which has the broker's mount meanwhile. Their holders are entities, or the
// sweep would kill them, and they outlive the benchmark. The broker learns of them when
// it gets its mount back, as it would after a fail-over.
func (w *world) fill(t harness.TB, at *site) {
	w.connect(fillers)
	for n := range killedAfterStart {
		err := w.write(t, at, "providers/"+providerOf(n), w.fast())
		if err == nil { // or the sweep would kill what is of no role
			_, err = w.role(t, at, roleName(n), harness.Fields{"provider": providerOf(n)})
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
	pattern := w.pattern(t, at)
	holders := w.makeHolders(t, at)
	w.giveTo(t, at, floorPlugin)
	elapsed := w.inBulk(t, "batches of grants", (w.grants+batch-1)/batch, func(ctx context.Context, client, n int) error {
		f := &filler{pattern: pattern, holders: holders, each: w.grants / w.holders, roles: w.roles()}
		return f.write(ctx, n*batch, min(w.grants, (n+1)*batch), func(entries map[string]string) error {
			body, err := json.Marshal(map[string]any{"entries": entries})
			if err == nil {
				_, err = w.connections[client].Do(ctx, w.vault.Token, http.MethodPut, at.path+"/put", body)
			}
			return err
		})
	})
	w.giveTo(t, at, at.plugin)
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
	storage := &rawStorage{connection: w.connections[0], token: w.vault.Token, below: ofMount(w.mountUUID(t, at))}
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

// giveTo has the site's mount served by a program.
func (w *world) giveTo(t harness.TB, at *site, program string) {
	w.vault.RegisterAs(t, at.plugin, program)
	if program != at.plugin {
		w.restart(t, at)
	}
}

// restart starts the site's engine again.
func (w *world) restart(t harness.TB, at *site) {
	if _, err := w.vault.Client(t).Logical().Write("sys/plugins/reload/backend", harness.Fields{"plugin": at.plugin}); err != nil {
		t.Fatalf("reloading %s: %v", at.plugin, err)
	}
}

// filler makes records after the pattern.
type filler struct {
	pattern *grant.Grant
	holders []string
	each    int // grants of a holder
	roles   int
}

// write makes the records from one to another, and has them written. The holders take turns.
func (f *filler) write(ctx context.Context, from, to int, put func(entries map[string]string) error) error {
	made := &collector{entries: map[string]string{}}
	ledger := grant.NewLedger(made)
	for n := from; n < to; n++ {
		g := *f.pattern
		g.Holder = f.holders[n%len(f.holders)]
		g.Subject, g.SubjectIssuer = subjectOf(n), subjectName
		g.Facts.SubjectClaims = map[string]any{"iss": subjectIssuer, "sub": g.Subject}
		if role := roleOf(n, f.roles); role > 0 {
			g.Role, g.Provider = roleName(role), providerOf(role)
		}
		s := g.Summary()
		id, err := grant.NewIDBeside(g.Holder, f.each, grant.Told{Role: g.Role, Provider: g.Provider, Parties: s.Parties()})
		if err != nil {
			return err
		}
		// There is no lease: its end must not come while the benchmark runs.
		g.ID, g.LeaseEnds = id, g.MaxLease
		if err := ledger.Record(ctx, &g); err != nil {
			return err
		}
	}
	return put(made.entries)
}

// collector is a storage that takes what is written.
type collector struct {
	logical.InmemStorage
	entries map[string]string
}

func (c *collector) Put(_ context.Context, e *logical.StorageEntry) error {
	c.entries[e.Key] = string(e.Value)
	return nil
}

// reload starts the broker's engine again and waits until it knows its ledger. It
// returns in words how long that took.
func (w *world) reload(t harness.TB, at *site, holder string) string {
	started := time.Now()
	w.restart(t, at)
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
