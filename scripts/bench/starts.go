package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
)

// A full ledger's grants are of many roles, about perRole each, spread over all holders. Some
// of the roles, which are killed right after a start, have a provider of their own.
const (
	perRole          = 1000
	killedAfterStart = 40
)

// roles is of how many roles the grants of a full ledger are.
func (w *world) roles() int { return max(2*killedAfterStart, w.grants/perRole) }

// roleOf is of which role the n-th grant is; 0 is the pattern's.
func roleOf(n, roles int) int {
	role := int(uint32(n)*2654435761>>8) % roles // as good as random, and the same each time
	if role >= killedAfterStart {
		return 0
	}
	return role
}

func roleName(role int) string { return fmt.Sprintf("killed-%d", role) }

func providerOf(role int) string { return fmt.Sprintf("oauth2/killed-%d", role) }

// startsRole is for what is done right after a start.
func startsRole(_ harness.TB, _ *world, at *site) (engine, error) {
	return engine{plugin: at.plugin, creds: at.path + "/revoke"}, nil
}

// killRoleAfterStart starts the engine again, and then measures how long it takes until all
// grants of a role are dead; killProviderAfterStart does so of a provider.
func killRoleAfterStart(t harness.TB, w *world, e engine, _ int, _ amount) job {
	return w.killAfterStart(t, e, func(n int) string { return "role/" + roleName(n) })
}

func killProviderAfterStart(t harness.TB, w *world, e engine, _ int, _ amount) job {
	return w.killAfterStart(t, e, func(n int) string { return "provider/" + providerOf(n) })
}

func (w *world) killAfterStart(t harness.TB, e engine, what func(n int) string) job {
	options := load.Options{Clients: 1, Calls: 1}
	if e.plugin == floorPlugin {
		j := issue(t, w, e, 1, amount{})
		return job{options, j.call}
	}
	at := w.siteOf(e)
	w.killed[at.path]++
	n := w.killed[at.path]
	if n >= killedAfterStart {
		t.Fatalf("more rounds than roles to kill")
	}
	w.restart(t, at)
	at.mount.Read(t, "roles/mint") // it serves
	return job{options, func(ctx context.Context, client, _ int) error {
		for revoked := 0; ; {
			answer, err := w.connections[client].Do(ctx, w.vault.Token, http.MethodPut, e.creds+"/"+what(n), []byte(`{}`))
			if err != nil {
				return err
			}
			var killed struct {
				Data     struct{ Revoked, Pending int }
				Warnings []string
			}
			if err := json.Unmarshal(answer, &killed); err != nil {
				return err
			}
			revoked += killed.Data.Revoked
			if killed.Data.Pending > 0 { // a build that waits for its ledger answers before that
				continue
			}
			if revoked == 0 {
				return fmt.Errorf("nothing was killed of %s: %s", what(n), strings.Join(killed.Warnings, "; "))
			}
			return nil
		}
	}}
}

// siteOf is where an engine that is not the floor runs.
func (w *world) siteOf(e engine) *site {
	if w.base != nil && e.plugin == w.base.plugin {
		return w.base
	}
	return w.now
}
