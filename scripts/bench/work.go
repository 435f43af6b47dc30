package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
)

// amount is how much is done in one turn.
type amount struct {
	duration time.Duration
	leases   int // for what is about leases
}

// job is what the clients do in one turn.
type job struct {
	options load.Options
	call    load.Call
}

// operation gets ready, unmeasured, and says what is to be measured.
type operation func(t harness.TB, w *world, e engine, clients int, much amount) job

// issue reads creds. Callers take turns.
func issue(_ harness.TB, w *world, e engine, clients int, much amount) job {
	return job{load.Options{Clients: clients, Duration: much.duration}, func(ctx context.Context, client, n int) error {
		_, err := w.issueOne(ctx, client, e, n)
		return err
	}}
}

// renew goes around leases that were issued before.
func renew(t harness.TB, w *world, e engine, clients int, much amount) job {
	leases := w.issueMany(t, e, clients, much.leases)
	return job{load.Options{Clients: clients, Duration: much.duration}, func(ctx context.Context, client, n int) error {
		return w.lease(ctx, client, n, "sys/leases/renew", map[string]any{"lease_id": leases[n%len(leases)], "increment": "1h"})
	}}
}

// revoke ends leases that were issued before, and waits until each is dead.
func revoke(t harness.TB, w *world, e engine, clients int, much amount) job {
	leases := w.issueMany(t, e, clients, much.leases)
	return job{load.Options{Clients: clients, Calls: len(leases)}, func(ctx context.Context, client, n int) error {
		return w.lease(ctx, client, n, "sys/leases/revoke", map[string]any{"lease_id": leases[n], "sync": true})
	}}
}

// mass is how many grants one event kills.
const mass = 1000

// killAtOnce has one event kill all that the first caller holds, at each of its providers.
func killAtOnce(t harness.TB, w *world, e engine, _ int, much amount) job {
	w.connect(usual)
	count := min(mass, much.leases)
	other := e
	if e.also != "" {
		other.creds = e.also
	}
	_, err := load.Run(context.Background(), load.Options{Clients: usual, Calls: count}, func(ctx context.Context, client, n int) error {
		_, err := w.issueOne(ctx, client, []engine{e, other}[n%2], 0)
		return err
	})
	if err != nil {
		t.Fatalf("issuing leases: %v", err)
	}
	operator := w.vault.Client(t).Token()
	return job{load.Options{Clients: 1, Calls: 1}, func(ctx context.Context, client, _ int) error {
		if e.plugin == floorPlugin {
			_, err := w.connections[client].Do(ctx, operator, http.MethodPut, "sys/leases/revoke-prefix/"+e.creds, []byte(`{"sync":true}`))
			return err
		}
		mount, _, _ := strings.Cut(e.creds, "/")
		answer, err := w.connections[client].Do(ctx, operator, http.MethodPut, mount+"/revoke/entity/"+w.first, []byte(`{}`))
		if err != nil {
			return err
		}
		return allDead(answer, count)
	}}
}

// allDead holds the answer to a kill against how many grants there were.
func allDead(answer []byte, count int) error {
	var killed struct {
		Data struct{ Revoked, Pending int }
	}
	if err := json.Unmarshal(answer, &killed); err != nil {
		return err
	}
	if killed.Data.Revoked != count || killed.Data.Pending != 0 {
		return fmt.Errorf("of %d grants %d are dead and %d pending", count, killed.Data.Revoked, killed.Data.Pending)
	}
	return nil
}

func (w *world) lease(ctx context.Context, client, n int, path string, fields map[string]any) error {
	body, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	_, err = w.connections[client].Do(ctx, w.callers[n%len(w.callers)], http.MethodPut, path, body)
	return err
}

func (w *world) issueMany(t harness.TB, e engine, clients, count int) []string {
	leases := make([]string, count)
	_, err := load.Run(context.Background(), load.Options{Clients: clients, Calls: count}, func(ctx context.Context, client, n int) error {
		lease, err := w.issueOne(ctx, client, e, n)
		leases[n] = lease
		return err
	})
	if err != nil {
		t.Fatalf("issuing leases: %v", err)
	}
	return leases
}

// issueOne gets a secret as the n-th caller and returns its lease.
func (w *world) issueOne(ctx context.Context, client int, e engine, n int) (string, error) {
	caller := n % len(w.callers)
	method, body := http.MethodGet, []byte(nil)
	if e.bodies != nil {
		method, body = http.MethodPut, e.bodies[caller]
	}
	answer, err := w.connections[client].Do(ctx, w.callers[caller], method, e.creds, body)
	if err != nil {
		return "", err
	}
	return leaseIn(answer)
}

// leaseIn finds the lease without decoding the whole answer, which would cost the
// load generator what Vault could use.
func leaseIn(answer []byte) (string, error) {
	_, rest, found := bytes.Cut(answer, []byte(`"lease_id":"`))
	lease, _, closed := bytes.Cut(rest, []byte(`"`))
	if !found || !closed || len(lease) == 0 || !bytes.Contains(answer, []byte(`"access_token":"`)) {
		return "", errors.New("an answer without a lease or a token")
	}
	return string(lease), nil
}
