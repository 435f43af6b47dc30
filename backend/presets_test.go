package backend

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest/systems"
)

// newPresetMount is an engine with the provider http/p by that preset, on a server that
// answers as the preset's system, and the role r for what the script asks.
func newPresetMount(t *testing.T, preset string) (*mount, *systems.System) {
	t.Helper()
	m := newEmptyMount(t, setup{})
	script := systems.Read(t, filepath.Join("..", "testdata", "http", preset))
	if script.Signed != "" {
		m.must(m.write("config", map[string]any{"issuer": ownURL}))
		script.Signed = "eyJ" // whatever the broker signs
	}
	system := systems.Start(t, script, m.clock.Now)
	m.extra = append(m.extra, "username", "password")
	fields := map[string]any{"base_url": system.URL, "preset": preset}
	maps.Copy(fields, script.Provider)
	for name, value := range script.Secrets {
		fields[name] = m.hide(value)
		if name == "secrets" {
			var named map[string]any
			require.NoError(t, json.Unmarshal([]byte(value), &named))
			fields[name] = named
		}
	}
	m.must(m.write("providers/http/p", fields))
	r := script.Request
	role := map[string]any{"provider": "http/p", "ttl": "30m", "max_ttl": "1h"}
	for name, values := range map[string][]string{"scopes": r.Scopes, "audiences": r.Audiences, "resources": r.Resources} {
		if len(values) > 0 {
			role[name] = strings.Join(values, ",")
		}
	}
	for name, values := range map[string]map[string]string{"permissions": r.Permissions, "parameters": r.Parameters} {
		if len(values) > 0 {
			role[name] = values
		}
	}
	m.must(m.write("roles/r", role))
	return m, system
}

// Whatever a definition is like, the engine needs nothing more than its name.
func TestPresetsFromTheirConfigurationToTheirEnd(t *testing.T) {
	for _, preset := range presetNames(t) {
		t.Run(preset, func(t *testing.T) {
			m, system := newPresetMount(t, preset)
			require.NotEmpty(t, m.must(m.read("providers/http/p")).Data["definition"])
			l := m.mustSession(call{})
			part, _ := l.data["access_token"].(string)
			if part == "" {
				part, _ = l.data["password"].(string)
			}
			token := m.hide(part)
			require.True(t, system.Alive(token))
			require.NotEmpty(t, l.data["lease_expires_at"])
			m.clock.advance(29 * time.Minute)
			require.NoError(t, m.revoke(l))
			if l.data["revocation"] == "token" {
				require.False(t, system.Alive(token))
				require.Zero(t, system.Left())
				require.Empty(t, m.allGrants())
			}
		})
	}
}

// A role that asks for nothing, where nothing would be all or none, is refused when written.
func TestPresetsWantACeilingWhereTheSystemNeedsOne(t *testing.T) {
	for _, preset := range []string{"gitea", "vault", "grafana", "harbor", "sonarqube", "datadog", "cloudflare", "elasticsearch", "artifactory"} {
		m, _ := newPresetMount(t, preset)
		_, err := m.write("roles/empty", map[string]any{"provider": "http/p"})
		requireCode(t, err, fault.InvalidRequest)
	}
}

// What a lost answer has left is looked for by its name and ended, by the sweep alone; where
// a system has no names, the loss is counted and the token lives until its time is up.
func TestNoPresetsMintLeavesAnythingBehind(t *testing.T) {
	nameless := map[string]bool{"vault": true, "vault_jwt": true, "artifactory": true}
	for _, preset := range presetsThatEnd(t) {
		for _, r := range systems.Read(t, filepath.Join("..", "testdata", "http", preset)).Routes {
			if r.Makes == "" {
				continue
			}
			t.Run(preset+" "+r.Makes, func(t *testing.T) {
				m, system := newPresetMount(t, preset)
				system.HangUp(r.Call)
				_, err := m.session(call{})
				requireCode(t, err, fault.TemporarilyUnavailable)
				system.HangUp("")
				m.clock.advance(5 * time.Minute)
				m.sweep()
				m.waitForKills()
				require.Empty(t, m.allGrants())
				left := 0
				if nameless[preset] {
					left = 1
				}
				require.Equal(t, left, system.Left())
			})
		}
	}
}

// presetsThatEnd are those whose children can be ended.
func presetsThatEnd(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(presetNames(t), func(name string) bool { return strings.HasSuffix(name, "_oidc") })
}

func presetNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("provider/http/presets/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".json")
	}
	return files
}
