package acceptance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// What the sweep does without being asked: holders that should not hold, kills
// that failed, grants whose lease is lost. And the numbers that tell about it.

var errNone = errors.New("none yet")

func TestOffboarding(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	logical := s.vault.Client(t).Logical()
	entity := func(who *harness.Session, fields harness.Fields) {
		_, err := logical.Write("identity/entity/id/"+who.EntityID, fields)
		require.NoError(t, err)
	}
	until := func(d time.Duration) harness.Fields {
		return harness.Fields{"condition": fmt.Sprintf("now < timestamp('%s')", time.Now().Add(d).UTC().Format(time.RFC3339))}
	}
	for role, terms := range map[string]harness.Fields{
		"plain":    nil,
		"group":    {"bound_group_names": s.local("staff")},
		"metadata": {"bound_entity_metadata": map[string]string{"team": "blue"}},
		"cleared":  {"condition": "identity.metadata['clearance'] == 'high'"},
		"brief":    until(time.Hour),
		"closed":   nil,
	} {
		s.role(t, role, terms)
	}
	newcomer := func(name string) *harness.Session {
		return s.agent(t, harness.Agent{
			Name: name, Groups: []string{"staff"}, Metadata: map[string]string{"team": "blue", "clearance": "high"},
		})
	}
	stays := newcomer("stays")
	leavers := []struct {
		why, role string
		leave     func(who *harness.Session)
	}{
		{"the entity is deleted", "plain", func(who *harness.Session) {
			_, err := logical.Delete("identity/entity/id/" + who.EntityID)
			require.NoError(t, err)
		}},
		{"the entity is disabled", "plain", func(who *harness.Session) { entity(who, harness.Fields{"disabled": true}) }},
		{"the entity is merged away", "plain", func(who *harness.Session) {
			into, err := logical.Write("identity/entity", harness.Fields{"name": s.local("survivor")})
			require.NoError(t, err)
			_, err = logical.Write("identity/entity/merge", harness.Fields{
				"from_entity_ids": who.EntityID, "to_entity_id": into.Data["id"], "force": true,
			})
			require.NoError(t, err)
		}},
		{"the group is left", "group", func(*harness.Session) {
			_, err := logical.Write("identity/group/name/"+s.local("staff"), harness.Fields{"member_entity_ids": stays.EntityID})
			require.NoError(t, err)
		}},
		{"the metadata is changed", "metadata", func(who *harness.Session) {
			entity(who, harness.Fields{"metadata": map[string]string{"team": "red", "clearance": "high"}})
		}},
		{"the condition on the identity is false", "cleared", func(who *harness.Session) {
			entity(who, harness.Fields{"metadata": map[string]string{"team": "blue", "clearance": "low"}})
		}},
		{"the condition on the time is false", "brief", func(*harness.Session) { s.Write(t, "roles/brief", until(2*time.Second)) }},
		{"the role is deleted", "closed", func(*harness.Session) { s.Delete(t, "roles/closed") }},
	}
	gone, kept := map[string]child{}, map[string]child{}
	agents := make([]*harness.Session, len(leavers))
	for i, l := range leavers {
		agents[i] = newcomer(fmt.Sprintf("leaver-%d", i))
		gone[l.why] = read(t, s.As(agents[i]), l.role)
	}
	for _, role := range []string{"plain", "group", "metadata", "cleared"} {
		kept[role] = read(t, s.As(stays), role)
	}
	kept["nobody's"] = read(t, s.Mount, "plain")

	swept := s.Write(t, "sweep", nil)
	require.Equal(t, "0", fmt.Sprint(swept.Data["killed"]), "nobody has left yet")
	for i, l := range leavers {
		l.leave(agents[i])
	}
	s.sweepAway(t, slices.Collect(maps.Values(gone))...)
	for why, c := range gone {
		require.False(t, s.hydra.Introspect(t, c.Token).Active, why)
		require.Nil(t, s.Read(t, "grants/"+c.GrantID), why)
		require.NoError(t, endLease(t, s.vault.Session, c.LeaseID), "Vault's own end of the lease: %s", why)
	}
	for role, c := range kept {
		require.True(t, s.hydra.Introspect(t, c.Token).Active, "who stays keeps %s", role)
	}
	metrics := scrape(t, s)
	require.Equal(t, 2.0, metrics.value("broker_grants_killed_total", "cause", "holder_gone"))
	require.Equal(t, 1.0, metrics.value("broker_grants_killed_total", "cause", "holder_disabled"))
	require.Equal(t, 4.0, metrics.value("broker_grants_killed_total", "cause", "holder_unfit"))
	require.Equal(t, 1.0, metrics.value("broker_grants_killed_total", "cause", "role_deleted"))
}

// Vault gives up after six attempts; here it is asked eight times. Meanwhile
// everything changes that a kill could depend on.
func TestOutageLongerThanVaultsPatience(t *testing.T) {
	t.Parallel()
	hydra := ownHydra(t)
	vault, w := harness.StartVault(t, harness.VaultOptions{Storage: harness.File}), newWire(t, hydra.URL)
	s := sceneOn(t, vault, hydra, harness.HydraClient{}, w.through())
	s.role(t, "deploy", nil)
	s.role(t, "forced", nil)
	c, forced := read(t, s.Mount, "deploy"), read(t, s.Mount, "forced")

	w.Cut()
	for range 8 {
		require.ErrorContains(t, endLease(t, vault.Session, c.LeaseID), "not dead yet")
	}
	require.GreaterOrEqual(t, number(t, s.Read(t, "grants/"+c.GrantID), "attempts"), 8.0)
	require.True(t, leaseLives(t, vault, c.LeaseID))
	// This is how an operator makes Vault forget leases that it cannot revoke. The
	// broker does not forget.
	vault.CLI(t, "lease", "revoke", "-force", "-prefix", s.At("creds/forced"))
	require.False(t, leaseLives(t, vault, forced.LeaseID))

	s.Delete(t, "roles/deploy")
	vault.Kill(t)
	vault.Restart(t)
	upgrade(t, vault)
	vault.KillPlugin(t)
	awake(t, s.Mount)
	hydra.SetSecret(t, s.client.ID, confidential("client secret", "the-secret-after-the-change"))
	s.Write(t, "providers/oauth2/hydra", harness.Fields{"client_secret": "the-secret-after-the-change", "verify_connection": false})

	for _, pending := range []child{c, forced} {
		require.Equal(t, true, s.Read(t, "grants/"+pending.GrantID).Data["pending"])
		hydra.MustBeActive(t, pending.Token)
	}
	w.Mend()
	s.sweepAway(t, c, forced)
	for _, dead := range []child{c, forced} {
		hydra.MustBeInactive(t, dead.Token)
	}
	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	require.False(t, leaseLives(t, vault, c.LeaseID))
	require.Empty(t, s.List(t, "grants"))
}

// upgrade registers the plugin again and lets every mount take it up.
func upgrade(t *testing.T, vault *harness.Vault) {
	t.Helper()
	path := harness.PluginPath(t)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha256.Sum256(content)
	require.NoError(t, vault.Client(t).Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: harness.PluginName, Type: api.PluginTypeSecrets, Command: filepath.Base(path),
		SHA256: hex.EncodeToString(sum[:]),
	}))
	_, err = vault.Client(t).Sys().ReloadPlugin(&api.ReloadPluginInput{Plugin: harness.PluginName})
	require.NoError(t, err)
}

// A lease that Vault has lost: its entry is gone from storage, and a crash makes
// Vault forget what it had in memory.
func TestGrantThatOutlivesItsLostLeaseIsKilled(t *testing.T) {
	t.Parallel()
	needsServers(t)
	vault := harness.StartVault(t, harness.VaultOptions{Storage: harness.File, Config: map[string]any{"raw_storage_endpoint": true}})
	s := sceneOn(t, vault, sharedHydra(t), harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	// Long enough for Vault to lose the lease before it ends.
	const life = 40 * time.Second
	began := time.Now()
	lost, stays := read(t, s.Mount, "deploy", "ttl="+life.String()), read(t, s.Mount, "deploy")
	ends := time.Now().Add(life) // or a little earlier

	_, err := vault.Client(t).Logical().Delete("sys/raw/sys/expire/id/" + lost.LeaseID)
	require.NoError(t, err)
	vault.Kill(t)
	vault.Restart(t)
	awake(t, s.Mount)
	require.False(t, leaseLives(t, vault, lost.LeaseID), "Vault has lost it")
	require.True(t, leaseLives(t, vault, stays.LeaseID))
	activeUntil(t, s.hydra, lost.Token, began.Add(life))

	time.Sleep(time.Until(ends.Add(time.Second)))
	s.sweepAway(t, lost)
	s.hydra.MustBeInactive(t, lost.Token)
	require.Equal(t, []string{stays.GrantID}, s.List(t, "grants"))
	s.hydra.MustBeActive(t, stays.Token)
	require.Equal(t, 1.0, scrape(t, s).value("broker_grants_killed_total", "cause", "overstayed"))
}

// sample is one value of a mount's metrics; of a histogram it is the count.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

type samples []sample

// scrape reads the metrics as Prometheus does: by HTTP, in its text format.
func scrape(t *testing.T, s *scene) (all samples) {
	t.Helper()
	answer, err := s.vault.Client(t).Logical().ReadRaw(s.At("metrics"))
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Contains(t, answer.Header.Get("Content-Type"), "text/plain")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	require.NoError(t, err)
	for name, family := range families {
		for _, m := range family.GetMetric() {
			one := sample{name: name, labels: map[string]string{}}
			for _, pair := range m.GetLabel() {
				one.labels[pair.GetName()] = pair.GetValue()
			}
			one.value = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			all = append(all, one)
		}
	}
	return all
}

// value is the sum of the samples with these labels, given as name and value in
// turn.
func (all samples) value(name string, labels ...string) (sum float64) {
	for _, one := range all {
		matches := one.name == name
		for i := 0; i < len(labels); i += 2 {
			matches = matches && one.labels[labels[i]] == labels[i+1]
		}
		if matches {
			sum += one.value
		}
	}
	return sum
}

func TestMetricsMoveWithWhatHappens(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	value := func(name string, labels ...string) float64 {
		t.Helper()
		return scrape(t, s).value(name, labels...)
	}
	var held []child
	for range 3 {
		held = append(held, read(t, s.Mount, "deploy"))
	}
	require.Equal(t, 3.0, value("broker_grants_issued_total", "provider", "oauth2/hydra", "role", "deploy"))
	require.Equal(t, 3.0, value("broker_grants_live", "provider", "oauth2/hydra", "revocable", "true"))
	require.Equal(t, 3.0, value("broker_provider_call_duration_seconds", "call", "mint", "outcome", "ok"))
	require.Zero(t, value("broker_outbox_depth"))

	_, err := s.TryRead(t, "creds/deploy", "scopes=nobody:has")
	refused(t, err, 400, "invalid_scope")
	require.Equal(t, 1.0, value("broker_refusals_total", "code", "invalid_scope"))
	require.Zero(t, value("broker_lost_answers_total"))

	// The connection stands, and the answer does not come: was anything minted?
	w.Cut()
	_, err = s.TryRead(t, "creds/deploy")
	refused(t, err, 503, "temporarily_unavailable")
	require.Equal(t, 1.0, value("broker_lost_answers_total", "provider", "oauth2/hydra"))
	require.Equal(t, 1.0, value("broker_refusals_total", "code", "temporarily_unavailable"))
	require.Equal(t, 1.0, value("broker_provider_call_duration_seconds", "call", "mint", "outcome", "temporarily_unavailable"))

	require.Error(t, endLease(t, s.vault.Session, held[0].LeaseID))
	// The sweep of every minute may try as well.
	require.GreaterOrEqual(t, value("broker_revocations_failed_total", "provider", "oauth2/hydra"), 1.0)
	require.Equal(t, 1.0, value("broker_outbox_depth"))
	time.Sleep(time.Second)
	require.GreaterOrEqual(t, value("broker_outbox_oldest_seconds"), 1.0)
	require.Equal(t, 3.0, value("broker_grants_live"), "what could not be killed is alive")

	w.Mend()
	sweeps := value("broker_sweep_duration_seconds")
	s.sweepAway(t, held[0])
	require.Greater(t, value("broker_sweep_duration_seconds"), sweeps)
	require.Zero(t, value("broker_outbox_depth"))
	require.Zero(t, value("broker_outbox_oldest_seconds"))
	require.Equal(t, 2.0, value("broker_grants_live"))
	s.Write(t, "revoke/role/deploy", nil)
	require.Equal(t, 2.0, value("broker_grants_killed_total", "cause", "revoke/role"))
	require.Zero(t, value("broker_grants_live"))
	require.Zero(t, value("broker_sweeps_failed_total"))
}
