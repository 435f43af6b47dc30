package harness

import (
	"maps"
	"os"
	"path/filepath"
)

// configuration is the server's configuration file. It is the same at every launch.
func (v *Vault) configuration(t TB) map[string]any {
	t.Helper()
	config := map[string]any{
		"disable_mlock": true,
		"ui":            false,
		"log_level":     v.options.LogLevel,
		"api_addr":      v.Addr,
		// OpenBao wants that said before it lets the API enable an audit device. Vault has
		// no such setting, and only warns of it.
		"unsafe_allow_api_audit_creation": true,
	}
	if !v.options.WithoutPlugin {
		config["plugin_directory"] = filepath.Dir(PluginPath(t))
	}
	if v.options.Storage != Dev {
		data := filepath.Join(v.Dir, v.nodeID+"-data")
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatalf("vault storage: %v", err)
		}
		storage := map[string]any{"path": data}
		if v.options.Storage == Raft {
			storage["node_id"] = v.nodeID
			// Followers are promoted, and leaders replaced, in test time; but on a machine
			// that is busy a leader may not be heard of for more than a second.
			storage["performance_multiplier"] = "3"
			storage["autopilot_reconcile_interval"] = "500ms"
			storage["autopilot_update_interval"] = "200ms"
		}
		config["storage"] = map[string]any{string(v.options.Storage): storage}
		config["cluster_addr"] = "http://" + address(v.cluster)
	}
	if v.options.Storage != Dev || v.tls != nil {
		config["listener"] = []any{map[string]any{"tcp": v.listener()}}
	}
	maps.Copy(config, v.options.Config)
	return config
}

func (v *Vault) listener() map[string]any {
	listener := map[string]any{
		"address":         address(v.port),
		"cluster_address": address(v.cluster),
	}
	if v.tls == nil {
		listener["tls_disable"] = true
	} else {
		listener["tls_cert_file"], listener["tls_key_file"] = v.tls.certFile, v.tls.keyFile
	}
	return listener
}

// devAddress is where dev mode opens the listener that it always has, without TLS.
// A listener with TLS stands beside it.
func (v *Vault) devAddress(t TB) string {
	t.Helper()
	if v.tls != nil {
		return address(freePort(t))
	}
	return address(v.port)
}
