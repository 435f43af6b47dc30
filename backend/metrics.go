package backend

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// meters are the mount's metrics. Labels are provider and role names, codes and
// causes: bounded by the configuration, never by callers.
type meters struct {
	registry  *prometheus.Registry
	issued    *prometheus.CounterVec
	joined    *prometheus.CounterVec
	refused   *prometheus.CounterVec
	killed    *prometheus.CounterVec
	expired   *prometheus.CounterVec
	deaths    *prometheus.HistogramVec
	failed    *prometheus.CounterVec
	lost      *prometheus.CounterVec
	violated  *prometheus.CounterVec
	spared    *prometheus.CounterVec
	calls     *prometheus.HistogramVec
	sweep     prometheus.Histogram
	sweepFail prometheus.Counter
	sweepLast prometheus.Gauge
	unknown   prometheus.Gauge

	signalEvents, signalFailures *prometheus.CounterVec
}

func newMeters() *meters {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "broker", Name: name, Help: help}, labels)
	}
	m := &meters{
		registry: prometheus.NewRegistry(),
		issued:   counter("grants_issued_total", "Child tokens minted for a grant.", "provider", "role"),
		joined:   counter("leases_shared_total", "Leases on a child token that an entity's identical requests share.", "provider", "role"),
		refused:  counter("refusals_total", "Requests for creds that were refused or failed, by the error's code. Role and provider are empty where there is no such role.", "code", "provider", "role"),
		killed:   counter("grants_killed_total", "Child tokens killed at their provider, by why.", "provider", "cause"),
		expired:  counter("grants_expired_total", "Child tokens that had expired, so that nothing was left to kill.", "provider"),
		deaths: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "broker", Name: "time_to_death_seconds", Help: "From the event to which a kill is the answer (a signal's own time, or when an operator or the sweep has ordered it) to the provider's confirmation that a token is dead, by the kill's cause. The ends of leases are not among them.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600},
		}, []string{"provider", "cause"}),
		failed:   counter("revocations_failed_total", "Attempts to kill a token that failed.", "provider"),
		lost:     counter("lost_answers_total", "Mints whose answer never arrived: a token may live until the provider's own expiry.", "provider"),
		violated: counter("provider_violations_total", "Answers of the provider that were not handed out, such as a token with more than was allowed.", "provider"),
		spared:   counter("mints_spared_total", "Mints refused without asking the provider: it does not answer, asked to be left alone, or has no room in time.", "provider"),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "broker", Name: "provider_call_duration_seconds", Help: "How long calls to providers took, by what they were for and how they ended (ok, or the error's code).",
			Buckets: []float64{.005, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"provider", "call", "outcome"}),
		sweep: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "broker", Name: "sweep_duration_seconds", Help: "How long sweeps took.", Buckets: []float64{.01, .1, .5, 1, 2, 5, 10, 20},
		}),
		unknown: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "broker", Name: "holders_unknown",
			Help: "Holders whom Vault does not know, so many at once that they are looked at again before their tokens are killed.",
		}),
		sweepLast: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "broker", Name: "sweep_last_timestamp_seconds",
			Help: "When the last sweep ended without an error, as a Unix time; 0 before the first one since the plugin started. About a minute ago, while all is well.",
		}),
		sweepFail: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "broker", Name: "sweeps_failed_total", Help: "Sweeps that ended with an error."}),
	}
	m.signalEvents = counter("signal_events_total", "Security events that came, by their kind (other: one that cannot be acted upon, or is not known yet) and by what became of them.", "signal", "event", "outcome")
	m.signalFailures = counter("signal_polls_failed_total", "Polls for security events that failed, by the health that they left.", "signal", "state")
	m.registry.MustRegister(m.signalEvents, m.signalFailures, m.issued, m.joined, m.refused, m.killed, m.expired, m.deaths, m.failed, m.lost, m.violated, m.spared, m.calls, m.sweep, m.sweepFail, m.sweepLast, m.unknown, buildInfo(),
		// Of the plugin's process, which several mounts may share.
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{Namespace: "broker"}))
	return m
}

// refuse counts a request for creds that was refused or failed.
func (m *meters) refuse(code fault.Code, ref, role string) {
	m.refused.WithLabelValues(string(code), ref, role).Inc()
	if code == fault.ProviderViolation && ref != "" {
		m.violated.WithLabelValues(ref).Inc()
	}
}

// know has what is counted seldom stand at 0 from the first reading on: Prometheus takes
// no notice of the first one of a series that begins with it.
func (m *meters) know(ref string) {
	m.lost.WithLabelValues(ref)
	m.violated.WithLabelValues(ref)
}

// Killed implements ending.Meters.
func (m *meters) Killed(provider, cause string) {
	m.killed.WithLabelValues(provider, cause).Inc()
}

// Expired implements ending.Meters.
func (m *meters) Expired(provider string) { m.expired.WithLabelValues(provider).Inc() }

// Died implements ending.Meters.
func (m *meters) Died(provider, cause string, after time.Duration) {
	m.deaths.WithLabelValues(provider, cause).Observe(after.Seconds())
}

// UnknownHolders implements ending.Meters.
func (m *meters) UnknownHolders(n int) { m.unknown.Set(float64(n)) }

// call measures one call to a provider.
func (m *meters) call(ref, what string, started time.Time, err error) {
	outcome := "ok"
	if err != nil {
		outcome = string(fault.CodeOf(err))
	}
	if err != nil && what == downstream.CallRevoke {
		m.failed.WithLabelValues(ref).Inc()
	}
	m.calls.WithLabelValues(ref, what, outcome).Observe(time.Since(started).Seconds())
}

func (b *broker) pathMetrics() []*framework.Path {
	return []*framework.Path{{
		Pattern:         "metrics$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "metrics"},
		HelpSynopsis:    "The mount's metrics, in Prometheus' text format.",
		HelpDescription: "Answers with plain text, not in Vault's envelope: read it by HTTP (GET /v1/<mount>/metrics).",
		Fields:          map[string]*framework.FieldSchema{},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: b.readMetrics, Summary: "Read the metrics.",
				Responses: map[int][]framework.Response{http.StatusOK: {{
					Description: "Prometheus text.", MediaType: "text/plain",
					Fields: map[string]*framework.FieldSchema{
						logical.HTTPContentType: {Type: framework.TypeString, Description: "text/plain."},
						logical.HTTPRawBody:     {Type: framework.TypeString, Description: "The metrics."},
						logical.HTTPStatusCode:  {Type: framework.TypeInt, Description: "200."},
					},
				}}},
				ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
			},
		},
	}}
}

func (b *broker) readMetrics(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	families, err := prometheus.Gatherers{b.meters.registry, b.ledgerGauges(ctx), b.gateGauges(), b.healthGauges(ctx), b.keyGauges(), b.signingGauges(ctx), b.signalGauges(ctx)}.Gather()
	if err != nil {
		return nil, stored.Fault(err)
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return nil, stored.Fault(err)
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: string(expfmt.NewFormat(expfmt.TypeTextPlain)),
		logical.HTTPRawBody:     text.Bytes(),
		logical.HTTPStatusCode:  http.StatusOK,
	}}, nil
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "broker", Name: name, Help: help}, labels)
}

// gateGauges are what goes on in front of the providers at this moment.
func (b *broker) gateGauges() *prometheus.Registry {
	open := gauge("breaker_open", "1 while the provider does not answer and is not asked for tokens, 0 while it is.", "provider")
	waiting := gauge("mints_waiting", "Mints that wait for a place at the provider.", "provider")
	minting := gauge("mints_under_way", "Mints that are calling the provider.", "provider")
	registry := prometheus.NewRegistry()
	overdue := gauge("rotation_overdue_seconds", "For how long the provider's parent credential should have been rotated and could not be; 0 while all is well.", "provider")
	registry.MustRegister(open, waiting, minting, overdue)
	for ref, g := range b.providers.States() {
		waiting.WithLabelValues(ref).Set(float64(g.Waiting))
		minting.WithLabelValues(ref).Set(float64(g.Minting))
		spared := 0.0
		if !g.RestsUntil.IsZero() {
			spared = 1
		}
		open.WithLabelValues(ref).Set(spared)
		overdue.WithLabelValues(ref).Set(0)
		if g.Overdue != nil {
			overdue.WithLabelValues(ref).Set(b.now().Sub(g.Overdue.Since).Seconds())
		}
	}
	return registry
}

// metricsPatience is how long a reader waits for counts that are complete.
const metricsPatience = 5 * time.Second

// ledgerGauges are what the ledger counts, and what is under way.
func (b *broker) ledgerGauges(ctx context.Context) *prometheus.Registry {
	live := gauge("grants_live", "Grants that are not known to be dead.", "provider", "revocable")
	depth := gauge("outbox_depth", "Grants whose revocation failed and is being retried.", "provider")
	age := gauge("outbox_oldest_seconds", "For how long the one of these that has waited longest has been due.", "provider")
	exposure := gauge("residual_exposure_seconds", "For how long a token that was to die on an operator's, a signal's or the sweep's word may be accepted somewhere all the same: its kill is pending, nothing can kill it, or it is verified offline. The longest of what the records of kills say.")
	registry := prometheus.NewRegistry()
	queued := gauge("kills_queued", "Grants that a kill of many has yet to try.")
	loaded := gauge("ledger_loaded", "1 once every record of a grant has been read after a start; until then the counts are too low.")
	unreadable := gauge("grants_unreadable", "Records of grants that cannot be decoded: their tokens live until they expire.")
	unwritten := gauge("kill_records_unwritten", "Records of kills of which something is in memory only, because storage failed or the kill is at it. The kills themselves do not wait for them.")
	registry.MustRegister(live, depth, age, exposure, queued, loaded, unreadable, unwritten)
	exposure.WithLabelValues().Set(max(0, b.records.ExposedUntil().Sub(b.now()).Seconds()))
	unwritten.WithLabelValues().Set(float64(b.records.Unwritten()))
	_, waiting := b.killer.UnderWay()
	queued.WithLabelValues().Set(float64(waiting))
	unreadable.WithLabelValues().Set(float64(len(b.ledger.Unreadable())))
	patient, cancel := context.WithTimeout(ctx, metricsPatience)
	defer cancel()
	loaded.WithLabelValues().Set(1)
	if err := b.ledger.Load(patient); err != nil {
		loaded.WithLabelValues().Set(0) // the counts are of what has been read so far
	}
	since, now := b.ledger.OutboxSince(), b.now()
	for ref := range b.providers.States() {
		depth.WithLabelValues(ref).Set(0)
		age.WithLabelValues(ref).Set(0)
	}
	for _, c := range b.ledger.Totals() {
		depth.WithLabelValues(c.Provider).Add(float64(c.Outbox))
		age.WithLabelValues(c.Provider).Set(0)
		if c.Revocable > 0 {
			live.WithLabelValues(c.Provider, "true").Add(float64(c.Revocable))
		}
		if rest := c.Live - c.Revocable; rest > 0 {
			live.WithLabelValues(c.Provider, "false").Add(float64(rest))
		}
	}
	for ref, at := range since {
		age.WithLabelValues(ref).Set(max(0, now.Sub(at).Seconds()))
	}
	return registry
}
