package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
)

// profile has profiles written of one engine's turn until stop: of Vault, by its own
// sys/pprof, and of a broker that is built to write some (make profile).
func (w *world) profile(t harness.TB, c benchCase, e engine) (stop func()) {
	if w.profiles == "" {
		return func() {}
	}
	w.profiled++
	name := filepath.Join(w.profiles, fmt.Sprintf("%s-%s-%03d", strings.ReplaceAll(c.name, " ", "_"), e.plugin, w.profiled))
	vault := make(chan error, 1)
	go func() { vault <- w.profileVault(name + "-vault.cpu") }()
	written := ""
	if e.plugin == harness.PluginName {
		written = harness.PluginPath(t)
		w.signal(t)
	}
	return func() {
		if err := <-vault; err != nil {
			t.Fatalf("profile of Vault: %v", err)
		}
		if written == "" {
			return
		}
		_ = os.Remove(written + ".allocs")
		w.signal(t)
		for _, kind := range []string{".cpu", ".allocs"} {
			harness.Eventually(t, harness.Patience, "the plugin has written its profile", func() error {
				return os.Rename(written+kind, name+kind)
			})
		}
	}
}

func (w *world) profileVault(file string) error {
	// Of whole seconds alone, as long as the turn at most.
	seconds := max(1, int(w.turn.Seconds()))
	connection := load.NewConnection(w.vault.Addr, requestTimeout)
	defer connection.Close()
	profile, err := connection.Do(context.Background(), w.vault.Token, http.MethodGet, fmt.Sprintf("sys/pprof/profile?seconds=%d", seconds), nil)
	if err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o600)
}

// signal asks the plugin's processes to begin a profile, or to end it.
func (w *world) signal(t harness.TB) {
	for _, pid := range w.vault.PluginPIDs(t) {
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
			t.Fatalf("asking the plugin for a profile: %v", err)
		}
	}
}
