package monitoring

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
)

const (
	alertsFile    = "../../docs/monitoring/alerts.yml"
	dashboardFile = "../../docs/monitoring/grafana.json"
)

// healthy is a mount that is well, a value for each minute from the beginning of time on.
var healthy = map[string]string{
	`up{T}`:                                                  "1x200",
	`broker_build_info{T,version="v1"}`:                      "1x200",
	`broker_frozen{T,kind="entity"}`:                         "0x200",
	`broker_process_start_time_seconds{T}`:                   "7x200",
	`broker_outbox_oldest_seconds{T,provider="oauth2/acme"}`: "0x200",
	`broker_residual_exposure_seconds{T}`:                    "0x200",
	`broker_time_to_death_seconds_bucket{T,provider="oauth2/acme",cause="c",le="1"}`:                            "0+1x200",
	`broker_time_to_death_seconds_bucket{T,provider="oauth2/acme",cause="c",le="60"}`:                           "0+1x200",
	`broker_time_to_death_seconds_bucket{T,provider="oauth2/acme",cause="c",le="300"}`:                          "0+1x200",
	`broker_time_to_death_seconds_bucket{T,provider="oauth2/acme",cause="c",le="+Inf"}`:                         "0+1x200",
	`broker_sweep_last_timestamp_seconds{T}`:                                                                    "0+60x200",
	`broker_holders_unknown{T}`:                                                                                 "0x200",
	`broker_kills_queued{T}`:                                                                                    "0x200",
	`broker_grants_unreadable{T}`:                                                                               "0x200",
	`broker_ledger_loaded{T}`:                                                                                   "1x200",
	`broker_kill_records_unwritten{T}`:                                                                          "0x200",
	`broker_lost_answers_total{T,provider="oauth2/acme"}`:                                                       "3x200",
	`broker_signal_health{T,signal="okta",state="ok"}`:                                                          "1x200",
	`broker_signal_health{T,signal="okta",state="silent"}`:                                                      "0x200",
	`broker_signal_events_total{T,signal="okta",event="session-revoked",outcome="killed"}`:                      "0+1x200",
	`broker_signal_events_total{T,signal="okta",event="session-revoked",outcome="unhandled"}`:                   "2x200",
	`broker_grants_issued_total{T,provider="oauth2/acme",role="deploy"}`:                                        "0+60x200",
	`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="temporarily_unavailable"}`:              "0+1x200",
	`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="access_denied"}`:                        "0+1x200",
	`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="slow_down"}`:                            "0+1x200",
	`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="provider_violation"}`:                   "1x200",
	`broker_provider_health{T,provider="oauth2/acme",state="ok"}`:                                               "1x200",
	`broker_provider_health{T,provider="oauth2/acme",state="refused"}`:                                          "0x200",
	`broker_breaker_open{T,provider="oauth2/acme"}`:                                                             "0x200",
	`broker_provider_call_duration_seconds_bucket{T,provider="oauth2/acme",call="mint",outcome="ok",le="0.1"}`:  "0+60x200",
	`broker_provider_call_duration_seconds_bucket{T,provider="oauth2/acme",call="mint",outcome="ok",le="10"}`:   "0+60x200",
	`broker_provider_call_duration_seconds_bucket{T,provider="oauth2/acme",call="mint",outcome="ok",le="+Inf"}`: "0+60x200",
	`broker_rotation_overdue_seconds{T,provider="oauth2/acme"}`:                                                 "0x200",
	`broker_parent_end_timestamp_seconds{T,provider="gitlab/main"}`:                                             "7776000x200",
	`broker_client_certificate_end_timestamp_seconds{T,provider="oauth2/acme",field="client_certificate"}`:      "7776000x200",
	`broker_signing_key_rotation_timestamp_seconds{T,purpose="children"}`:                                       "2592000x200",
	`broker_issuer_keys_timestamp_seconds{T,issuer="github"}`:                                                   "0+60x200",
}

// cases are what makes each alert fire, and what comes near and does not. A series in them
// takes the place of the healthy one; "_" in place of values takes it away.
var cases = map[string]struct {
	fires, silent map[string]string
	// shows are the labels by which whoever is woken knows what it is about.
	shows []string
}{
	"BrokerUnwatched": {
		fires:  map[string]string{`up{T}`: "1x50 0x150"},
		silent: map[string]string{`up{T}`: "1x50 0x3 1x150"},
		shows:  []string{"instance"},
	},
	"BrokerStorageFails": {
		fires:  map[string]string{`broker_frozen{T,kind="entity"}`: "_"},
		silent: map[string]string{`broker_frozen{T,kind="entity"}`: "3x200"},
		shows:  []string{"instance"},
	},
	"BrokerPluginRestarts": {
		fires:  map[string]string{`broker_process_start_time_seconds{T}`: "7x100 8 9 10 11 12x100"},
		silent: map[string]string{`broker_process_start_time_seconds{T}`: "7x100 8 9 10x100"},
		shows:  []string{"instance"},
	},
	"BrokerTokensOutlive": {
		fires:  map[string]string{`broker_outbox_oldest_seconds{T,provider="oauth2/acme"}`: "0x20 0+60x100"},
		silent: map[string]string{`broker_outbox_oldest_seconds{T,provider="oauth2/acme"}`: "0x20 0 60 120 180 240 300 0x100"},
		shows:  []string{"provider"},
	},
	"BrokerResidualExposure": {
		fires:  map[string]string{`broker_residual_exposure_seconds{T}`: "0x20 7200-60x100"},
		silent: map[string]string{`broker_residual_exposure_seconds{T}`: "0x20 3600-60x60 0x100"},
		shows:  []string{"instance"},
	},
	"BrokerKillsSlow": {
		fires: map[string]string{
			`broker_time_to_death_seconds_bucket{T,provider="oauth2/acme",cause="c",le="1"}`:  "0x200",
			`broker_time_to_death_seconds_bucket{T,provider="oauth2/acme",cause="c",le="60"}`: "0x200",
		},
		silent: map[string]string{
			`broker_time_to_death_seconds_bucket{T,provider="oauth2/acme",cause="c",le="1"}`: "0x200",
		},
		shows: []string{"provider"},
	},
	"BrokerSweepLate": {
		fires:  map[string]string{`broker_sweep_last_timestamp_seconds{T}`: "0+60x50 3000x150"},
		silent: map[string]string{`broker_sweep_last_timestamp_seconds{T}`: "0+60x50 0 3120+60x150"}, // a plugin that has just started
		shows:  []string{"instance"},
	},
	"BrokerHoldersUnknown": {
		fires: map[string]string{`broker_holders_unknown{T}`: "0x50 40x2 0x150"},
		shows: []string{"instance"},
	},
	"BrokerKillStuck": {
		fires:  map[string]string{`broker_kills_queued{T}`: "0x50 900-1x150"},
		silent: map[string]string{`broker_kills_queued{T}`: "0x50 900-30x28 0x150"},
		shows:  []string{"instance"},
	},
	"BrokerGrantsUnreadable": {
		fires: map[string]string{`broker_grants_unreadable{T}`: "0x50 1x150"},
		shows: []string{"instance"},
	},
	"BrokerLedgerUnread": {
		fires:  map[string]string{`broker_ledger_loaded{T}`: "0x200"},
		silent: map[string]string{`broker_ledger_loaded{T}`: "0x10 1x190"},
		shows:  []string{"instance"},
	},
	"BrokerKillUnrecorded": {
		fires:  map[string]string{`broker_kill_records_unwritten{T}`: "0x50 1x150"},
		silent: map[string]string{`broker_kill_records_unwritten{T}`: "0x50 1x5 0x150"},
		shows:  []string{"instance"},
	},
	"BrokerAnswersLost": {
		fires: map[string]string{`broker_lost_answers_total{T,provider="oauth2/acme"}`: "0x100 1x100"},
		shows: []string{"provider"},
	},
	"BrokerSignalDeaf": {
		fires:  map[string]string{`broker_signal_health{T,signal="okta",state="ok"}`: "0x200", `broker_signal_health{T,signal="okta",state="silent"}`: "1x200"},
		silent: map[string]string{`broker_signal_health{T,signal="okta",state="ok"}`: "0x200", `broker_signal_health{T,signal="okta",state="disabled"}`: "1x200"},
		shows:  []string{"signal", "state"},
	},
	"BrokerSignalUnhandled": {
		fires:  map[string]string{`broker_signal_events_total{T,signal="okta",event="session-revoked",outcome="unhandled"}`: "0+1x200"},
		silent: map[string]string{`broker_signal_events_total{T,signal="okta",event="session-revoked",outcome="unhandled"}`: "0x50 1x150"},
		shows:  []string{"signal", "outcome"},
	},
	"BrokerProviderFails": {
		fires:  map[string]string{`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="temporarily_unavailable"}`: "0+70x200"},
		silent: map[string]string{`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="temporarily_unavailable"}`: "0+50x200"},
		shows:  []string{"provider"},
	},
	"BrokerRoleRefuses": {
		fires:  map[string]string{`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="access_denied"}`: "0+70x200"},
		silent: map[string]string{`broker_grants_issued_total{T,provider="oauth2/acme",role="deploy"}`: "_", `broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="access_denied"}`: "0x50 1x150"},
		shows:  []string{"role", "provider"},
	},
	"BrokerQuotaReached": {
		fires: map[string]string{`broker_refusals_total{T,provider="oauth2/acme",role="deploy",code="slow_down"}`: "0+10x200"},
		shows: []string{"role", "provider"},
	},
	"BrokerParentRefused": {
		fires:  map[string]string{`broker_provider_health{T,provider="oauth2/acme",state="refused"}`: "0x50 1x150"},
		silent: map[string]string{`broker_provider_health{T,provider="oauth2/acme",state="refused"}`: "0x50 1 0x150"},
		shows:  []string{"provider"},
	},
	"BrokerBreakerOpen": {
		fires:  map[string]string{`broker_breaker_open{T,provider="oauth2/acme"}`: "0x50 1x150"},
		silent: map[string]string{`broker_breaker_open{T,provider="oauth2/acme"}`: "0x50 1 1 0x150"},
		shows:  []string{"provider"},
	},
	"BrokerProviderSlow": {
		fires: map[string]string{`broker_provider_call_duration_seconds_bucket{T,provider="oauth2/acme",call="mint",outcome="ok",le="0.1"}`: "0x200"},
		shows: []string{"provider"},
	},
	"BrokerProviderViolates": {
		fires: map[string]string{`broker_provider_violations_total{T,provider="oauth2/acme"}`: "0x100 1x100"},
		shows: []string{"provider"},
	},
	"BrokerRotationOverdue": {
		fires:  map[string]string{`broker_rotation_overdue_seconds{T,provider="oauth2/acme"}`: "0x50 0+60x150"},
		silent: map[string]string{`broker_rotation_overdue_seconds{T,provider="oauth2/acme"}`: "0x50 0+60x60 0x150"},
		shows:  []string{"provider"},
	},
	"BrokerCredentialEnds": {
		fires:  map[string]string{`broker_parent_end_timestamp_seconds{T,provider="gitlab/main"}`: "500000x200"},
		silent: map[string]string{`broker_parent_end_timestamp_seconds{T,provider="gitlab/main"}`: "_"},
		shows:  []string{"provider"},
	},
	"BrokerCredentialEndsToday": {
		fires:  map[string]string{`broker_client_certificate_end_timestamp_seconds{T,provider="oauth2/acme",field="client_certificate"}`: "80000x200"},
		silent: map[string]string{`broker_client_certificate_end_timestamp_seconds{T,provider="oauth2/acme",field="client_certificate"}`: "500000x200"},
		shows:  []string{"provider", "field"},
	},
	"BrokerSigningKeysStale": {
		fires:  map[string]string{`broker_signing_key_rotation_timestamp_seconds{T,purpose="children"}`: "1000x200"},
		silent: map[string]string{`broker_signing_key_rotation_timestamp_seconds{T,purpose="children"}`: "1000x60 2592000x140"},
		shows:  []string{"purpose"},
	},
	"BrokerIssuerKeysStale": {
		fires:  map[string]string{`broker_issuer_keys_timestamp_seconds{T,issuer="github"}`: "60x200"},
		silent: map[string]string{`broker_issuer_keys_timestamp_seconds{T,issuer="github"}`: "60x125 7600x75"},
		shows:  []string{"issuer"},
	},
}

const target = `job="broker",instance="vault:8200",mount="broker"`

// world loads the healthy mount with something else in place of some series.
func world(t *testing.T, different map[string]string) *teststorage.TestStorage {
	t.Helper()
	all := maps.Clone(healthy)
	maps.Copy(all, different)
	load := "load 1m\n"
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] != "_" {
			load += "  " + strings.ReplaceAll(name, "{T", "{"+target) + " " + all[name] + "\n"
		}
	}
	return promqltest.LoadedStorage(t, load)
}

// fired has Prometheus evaluate the file's rules each minute for 200 minutes, and returns
// the alerts that fired meanwhile, as they were then.
func fired(t *testing.T, series *teststorage.TestStorage) map[string]rules.Alert {
	t.Helper()
	engine := NewEngine()
	defer func() { require.NoError(t, engine.Close()) }()
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, series), Queryable: series, AppendableV2: series, Context: t.Context(), Parser: NewParser(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, ExternalURL: &url.URL{},
	})
	groups, problems := manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, alertsFile)
	require.Empty(t, problems)
	all := map[string]rules.Alert{}
	for minute := range 201 {
		for _, g := range groups {
			g.Eval(t.Context(), time.Unix(0, 0).Add(time.Duration(minute)*time.Minute))
			for _, r := range g.Rules() {
				require.NoError(t, r.LastError(), r.Name())
				for _, a := range r.(*rules.AlertingRule).ActiveAlerts() {
					if a.State == rules.StateFiring {
						all[r.Name()] = *a
					}
				}
			}
		}
	}
	return all
}

func TestAHealthyMountFiresNothing(t *testing.T) {
	require.Empty(t, fired(t, world(t, nil)))
}

func TestNothingToScrapeFires(t *testing.T) {
	got := fired(t, promqltest.LoadedStorage(t, "load 1m\n  another 1x200\n"))
	require.Equal(t, []string{"BrokerUnwatched"}, slices.Collect(maps.Keys(got)))
	require.Contains(t, got["BrokerUnwatched"].Annotations.Get("description"), "any target of the job broker")
}

func TestEachAlertFiresWhereItShouldAndNowhereElse(t *testing.T) {
	file, err := ReadRules(alertsFile)
	require.NoError(t, err)
	total := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			total++
			c, ok := cases[r.Alert]
			require.True(t, ok, "no case makes %s fire", r.Alert)
			t.Run(r.Alert, func(t *testing.T) {
				got := fired(t, world(t, c.fires))
				require.Contains(t, got, r.Alert)
				for other := range got {
					require.True(t, other == r.Alert || other == "BrokerCredentialEnds" && r.Alert == "BrokerCredentialEndsToday", "%s fires too", other)
				}
				a := got[r.Alert]
				said := a.Annotations.Get("summary") + "\n" + a.Annotations.Get("description")
				for _, wrong := range []string{"<error", "<no value>", "{{", "NaN", "  "} {
					require.NotContains(t, said, wrong)
				}
				for _, label := range append(c.shows, "severity", "mount") {
					require.NotEmpty(t, a.Labels.Get(label), label)
					if slices.Contains(c.shows, label) {
						require.Contains(t, said, a.Labels.Get(label), fmt.Sprintf("it does not name the %s", label))
					}
				}
				t.Log(said)
				if c.silent != nil {
					require.NotContains(t, fired(t, world(t, c.silent)), r.Alert)
				}
			})
		}
	}
	require.Equal(t, len(cases), total, "there is a case for an alert that there is not")
}
