package main

import (
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

// TestQuick runs all of the benchmark, briefly: every case has figures, and what can
// be counted has been counted. It asserts no time.
func TestQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("needs what `make build vault bench-tools` makes")
	}
	path := filepath.Join(t.TempDir(), "bench.json")
	out := &strings.Builder{}
	err := run(out, quick(), "", path)
	t.Log(out)
	require.NoError(t, err)

	found, err := report.Read(path)
	require.NoError(t, err)
	require.True(t, found.Settings.Quick)
	require.Contains(t, found.Machine.Vault, "v1.")
	require.Len(t, found.Cases, len(cases(quick().grants)))
	byName := map[string]report.Case{}
	for _, c := range found.Cases {
		byName[c.Name] = c
		require.True(t, c.Ran(), "%s: %s", c.Name, c.NotBuilt)
		checkFigures(t, c)
	}
	mint, revoke, renew := byName["oauth2"], byName["revoke"], byName["renew"]
	require.InDelta(t, 1, mint.Broker.Provider, 1e-9, "one round trip for each issue")
	require.Greater(t, mint.Own.Put, 0.5, "a record is written")
	require.Less(t, mint.Own.Get, 0.5, "and nothing is read")
	require.InDelta(t, 1, revoke.Broker.Provider, 1e-9, "one revocation for each")
	require.Greater(t, revoke.Own.Delete, 0.5, "a record is deleted")
	require.Zero(t, renew.Broker.Provider)

	death := byName[deathCase]
	require.InDelta(t, quick().leases, death.Broker.Provider, 1e-9, "one event kills each of them once")
	listed, killed := byName["a subject's grants listed, full ledger"], byName["a subject's grants killed, full ledger"]
	require.InDelta(t, perSubject, killed.Broker.Provider, 1e-9, "one revocation for each grant")
	require.Less(t, listed.Own.Get, perSubject+1.5, "the records of others are not read")
	require.Less(t, killed.Own.Get, 3*perSubject+1.5, "nor to kill")

	for _, what := range []string{"a role's", "a provider's"} {
		killed := byName[what+" grants killed after a start, full ledger"].Broker
		require.Positive(t, killed.Provider)
		require.Less(t, killed.Provider, float64(quick().grants)/killedAfterStart, "no other grants died")
	}

	full := byName["oauth2, full ledger"]
	require.Equal(t, quick().grants, full.Grants)
	require.Len(t, full.Notes, 2)
	svg := &strings.Builder{}
	require.NoError(t, found.Chart(svg))
	require.Contains(t, svg.String(), "oauth2, full ledger, 16 clients")
}

// TestQuickWithABase compares the plugin with itself. A verdict needs more rounds.
func TestQuickWithABase(t *testing.T) {
	if testing.Short() {
		t.Skip("needs what `make build vault bench-tools` makes")
	}
	path := filepath.Join(t.TempDir(), "bench.json")
	s := quick()
	require.NoError(t, harness.Run(io.Discard, func(t harness.TB) { s.base = harness.PluginPath(t) }))
	out := &strings.Builder{}
	err := run(out, s, "^jwt$|^oauth2, full ledger$", path)
	t.Log(out)
	require.NoError(t, err)
	found, err := report.Read(path)
	require.NoError(t, err)
	require.Len(t, found.Cases, 2)
	for _, c := range found.Cases {
		checkFigures(t, c)
		require.NotNil(t, c.Comparison, c.Name)
		require.Positive(t, c.Comparison.Base.Rate, c.Name)
		require.Positive(t, c.Comparison.Ratio.Median, c.Name)
	}
	require.Contains(t, out.String(), "Compared with "+s.base)
}

func checkFigures(t *testing.T, c report.Case) {
	t.Helper()
	for _, turn := range []report.Turn{c.Floor, c.Broker} {
		require.Positive(t, turn.Rate, c.Name)
		require.Positive(t, turn.P50, c.Name)
		require.GreaterOrEqual(t, turn.P99, turn.P50, c.Name)
		require.Positive(t, turn.RSS, c.Name)
		require.GreaterOrEqual(t, turn.Peak, turn.RSS, c.Name)
	}
	require.Zero(t, c.Floor.Provider, c.Name)
	require.Positive(t, c.Ratio, c.Name)
}

func TestGrouped(t *testing.T) {
	names := func(only string) (groups []string) {
		for _, group := range grouped(cases(10), regexp.MustCompile(only)) {
			var all []string
			for _, c := range group {
				all = append(all, c.String())
			}
			groups = append(groups, strings.Join(all, " + "))
		}
		return groups
	}
	require.Equal(t, []string{"oauth2 on raft, 16 clients"}, names("raft"))
	require.Equal(t, []string{"oauth2, full ledger, 16 clients + oauth2, empty ledger beside a full one, 16 clients + oauth2, full ledger, sweeping, 16 clients + a subject's grants listed, full ledger, 1 client + a subject's grants killed, full ledger, 1 client + a role's grants killed after a start, full ledger, 1 client + a provider's grants killed after a start, full ledger, 1 client"}, names("full"))
	require.Equal(t, []string{"oauth2, 16 clients", "oauth2, 1 client", "oauth2, 64 clients", "oauth2, 256 clients"}, names("^oauth2$"))
	require.Empty(t, names("nothing"))
}

// TestBaselines: a case that is compared with another names one that there is.
func TestBaselines(t *testing.T) {
	all := cases(10)
	known := map[string]bool{"": true}
	for _, c := range all {
		known[c.name] = known[c.name] || c.clients == usual
	}
	for _, c := range all {
		require.True(t, known[c.base], c.base)
	}
}

func TestRunRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	for name, change := range map[string]func(*settings){
		"no rounds":               func(s *settings) { s.rounds = 0 },
		"no time":                 func(s *settings) { s.turn = 0 },
		"no long time":            func(s *settings) { s.longTurn = 0 },
		"no callers":              func(s *settings) { s.callers = 0 },
		"fewer grants than heads": func(s *settings) { s.grants = s.holders - 1 },
	} {
		s := quick()
		change(&s)
		require.Error(t, run(&strings.Builder{}, s, "", path), name)
	}
	require.ErrorContains(t, run(&strings.Builder{}, quick(), "(", path), "-run")
	require.ErrorContains(t, run(&strings.Builder{}, quick(), "no such case", path), "no case")
	require.NoFileExists(t, path)
}

func TestParseBarrier(t *testing.T) {
	const metrics = `# HELP vault_barrier_get vault_barrier_get
vault_barrier_get{quantile="0.5"} 0.01
vault_barrier_get_sum 3.5
vault_barrier_get_count 1200
vault_barrier_put_count 1e+06
vault_barrier_put_counter 7
vault_barrier_list_count 3
`
	got, err := parseBarrier(strings.NewReader(metrics))
	require.NoError(t, err)
	require.Equal(t, report.Storage{Get: 1200, Put: 1e6, List: 3}, got)
	_, err = parseBarrier(strings.NewReader("vault_barrier_put_count many\n"))
	require.Error(t, err)
}

func TestLeaseIn(t *testing.T) {
	lease, err := leaseIn([]byte(`{"request_id":"x","lease_id":"floor/creds/x/1","data":{"access_token":"t"}}`))
	require.NoError(t, err)
	require.Equal(t, "floor/creds/x/1", lease)
	for _, answer := range []string{"", "{}", `{"lease_id":"","data":{"access_token":"t"}}`, `{"lease_id":"floor/creds/x/1","data":{}}`, `{"lease_id":"cut`} {
		_, err := leaseIn([]byte(answer))
		require.Error(t, err, answer)
	}
}

func TestInBrief(t *testing.T) {
	require.Equal(t, "unsupported path", inBrief("1 error occurred:\n\t* unsupported path\n\n"))
	require.Equal(t, strings.Repeat("x", briefly)+"…", inBrief(strings.Repeat("x", briefly+1)))
	require.Equal(t, strings.Repeat("x", briefly-1)+"…", inBrief(strings.Repeat("x", briefly-1)+"äöü"), "no half character")
}

func TestSince(t *testing.T) {
	now := time.Now()
	before := reading{at: now, machine: 10e9, self: 1e9, auth: 1e9, provider: 10, storage: report.Storage{Put: 5, Get: 7}, plugin: harness.Usage{CPU: 1e9}, vault: 2e9}
	after := reading{at: now.Add(10 * time.Second), machine: 20e9, self: 2e9, auth: 2e9, provider: 30, storage: report.Storage{Put: 45, Get: 7}, plugin: harness.Usage{CPU: 2e9, RSS: 3, Peak: 4}, vault: 5e9}
	got := after.since(before, 20)
	require.Equal(t, report.Turn{
		Storage: report.Storage{Put: 2}, Provider: 1, RSS: 3, Peak: 4,
		CPU:    report.CPU{Plugin: 50_000, Vault: 150_000, Provider: 50_000, Load: 50_000},
		Others: 0.4, // 10 s of all, 6 of them ours, in 10 s
	}, got)
}

func TestParseWorked(t *testing.T) {
	got, err := parseWorked("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
	require.NoError(t, err)
	require.Equal(t, 171*harness.ClockTick, got)
	for _, stat := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu a b c d e f g h i"} {
		_, err := parseWorked(stat)
		require.Error(t, err, stat)
	}
}

// TestCosts tells what grants cost, briefly: that there is a figure for each.
func TestCosts(t *testing.T) {
	if testing.Short() {
		t.Skip("needs what `make build vault bench-tools` makes")
	}
	out := &strings.Builder{}
	s := quick()
	require.NoError(t, tellCosts(out, s, "floor|oauth2"))
	t.Log(out)
	require.Regexp(t, `(?m)^\| floor +\| [0-9]+ +\| [0-9]+ +\| 0 +\| [1-9]`, out.String(), "the floor keeps nothing but its lease")
	require.Regexp(t, `(?m)^\| oauth2 +\| [0-9]+ +\| [0-9]+ +\| [1-9][0-9]+ +\| [1-9]`, out.String())
}
