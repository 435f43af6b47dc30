// Package stackdriver stands for metrics that go to Google's cloud: its client, the
// client's options, and the sink.
package stackdriver

import (
	"context"

	"github.com/armon/go-metrics"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without"
)

// NewMetricClient fails, so nothing below is ever used.
func NewMetricClient(context.Context, ...Option) (*MetricClient, error) {
	return nil, without.Error("Stackdriver")
}

// MetricClient would send them.
type MetricClient struct{}

// Option is of a client.
type Option struct{}

// WithUserAgent says nothing.
func WithUserAgent(string) Option { return Option{} }

// Config is the sink's.
type Config struct {
	LabelExtractor, Bucketer       func()
	ProjectID, Location, Namespace string
	DebugLogs                      bool
}

// Extractor does nothing.
func Extractor() {}

// Bucketer does nothing.
func Bucketer() {}

// NewSink makes one that swallows all.
func NewSink(*MetricClient, *Config) metrics.MetricSink { return &metrics.BlackholeSink{} }
