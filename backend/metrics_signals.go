package backend

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
)

// signalGauges are how the streams of security events are, as a read of each says. On a
// node that does not poll they are unknown.
func (b *broker) signalGauges(ctx context.Context) *prometheus.Registry {
	health := gauge("signal_health", "1 for the health that the stream of security events has, as a read of the signal says, 0 for the others.", "signal", "state")
	last := map[string]*prometheus.GaugeVec{}
	registry := prometheus.NewRegistry()
	registry.MustRegister(health)
	for name, help := range map[string]string{
		"poll":         "When the transmitter last answered a poll, as a Unix time.",
		"event":        "When the last new security event came, as a Unix time; 0 before the first one since the plugin started.",
		"verification": "When the last sign of life came that the transmitter was asked for, as a Unix time.",
	} {
		last[name] = gauge("signal_last_"+name+"_timestamp_seconds", help, "signal")
		registry.MustRegister(last[name])
	}
	names, err := b.signals.List(ctx, "")
	if err != nil {
		b.Logger().Warn("the signals could not be read for the metrics", "error", err)
		return registry
	}
	for _, name := range names {
		status := signal.Status{State: signal.StateFailing}
		if l, err := b.signals.listener(ctx, name); err == nil {
			status = l.receiver.Status()
		}
		for _, state := range signal.States() {
			is := 0.0
			if status.State == state {
				is = 1
			}
			health.WithLabelValues(name, state).Set(is)
		}
		for what, at := range map[string]time.Time{"poll": status.LastPoll, "event": status.LastEvent, "verification": status.LastVerified} {
			seconds := 0.0
			if !at.IsZero() {
				seconds = float64(at.Unix())
			}
			last[what].WithLabelValues(name).Set(seconds)
		}
	}
	return registry
}
