package backend

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
)

// healths are what a provider's health can be.
var healths = []string{"ok", "unknown", "refused", "unreachable", "limited", "rotation_overdue", "disabled", "deleting"}

func buildInfo() prometheus.Collector {
	info := gauge("build_info", "Always 1; the label says which version of the plugin runs.", "version")
	info.WithLabelValues(Version).Set(1)
	return info
}

// healthGauges are what is known of the providers and what is frozen. What cannot be read
// now is left out: an alert on its absence says so.
func (b *broker) healthGauges(ctx context.Context) *prometheus.Registry {
	health := gauge("provider_health", "1 for the health that the provider has, as a read of it says, 0 for the others. refused: it does not take the parent credential, and an operator must act.", "provider", "state")
	ends := gauge("client_certificate_end_timestamp_seconds", "When the certificate by which the broker authenticates at the provider ends, as a Unix time, by the field that holds it.", "provider", "field")
	parents := gauge("parent_end_timestamp_seconds", "When the parent credential itself ends, as a Unix time, where the provider has said so when it was last written, checked or rotated.", "provider")
	frozen := gauge("frozen", "How many entities, roles, providers and issuers get no new grants.", "kind")
	registry := prometheus.NewRegistry()
	registry.MustRegister(health, ends, parents, frozen)
	refs, err := b.providers.Refs(ctx)
	if err != nil {
		b.Logger().Warn("the providers' health could not be read for the metrics", "error", err)
	}
	for _, ref := range refs {
		b.meters.know(ref)
		entry, err := b.providers.Read(ctx, ref)
		if err != nil {
			continue
		}
		about := map[string]any{}
		b.showHealth(about, ref, entry)
		for _, state := range healths {
			is := 0.0
			if about["health"] == state {
				is = 1
			}
			health.WithLabelValues(ref, state).Set(is)
		}
		if !entry.ParentEnds.IsZero() {
			parents.WithLabelValues(ref).Set(float64(entry.ParentEnds.Unix()))
		}
		b.certificateEnds(ctx, ref, ends)
	}
	b.countFrozen(ctx, frozen)
	return registry
}

// certificateEnds reads them from what a read of the provider shows.
func (b *broker) certificateEnds(ctx context.Context, ref string, ends *prometheus.GaugeVec) {
	p, err := b.providers.Open(ctx, ref)
	if err != nil {
		return
	}
	for field, value := range p.Public() {
		text, _ := value.(string)
		block, _ := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" {
			continue
		}
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			ends.WithLabelValues(ref, field).Set(float64(certificate.NotAfter.Unix()))
		}
	}
}

// maxFrozenCounted bounds what one reader of the metrics makes the broker read.
const maxFrozenCounted = 10_000

func (b *broker) countFrozen(ctx context.Context, frozen *prometheus.GaugeVec) {
	things, err := b.freezer.List(ctx, "", maxFrozenCounted)
	if err != nil {
		b.Logger().Warn("what is frozen could not be counted for the metrics", "error", err)
		return
	}
	for _, kind := range []string{ending.KindEntity, ending.KindRole, ending.KindProvider, ending.KindIssuer, ending.KindSubject, ending.KindPerson} {
		frozen.WithLabelValues(kind).Set(0)
	}
	for _, thing := range things {
		kind, _, _ := strings.Cut(thing.Name, "/")
		frozen.WithLabelValues(kind).Inc()
	}
}

// keyGauges are of the keys of the issuers whose subject tokens are trusted, as far as
// somebody has needed them since the start.
func (b *broker) keyGauges() *prometheus.Registry {
	fetched := gauge("issuer_keys_timestamp_seconds", "When the keys of a trusted issuer of subject tokens were last had of it, as a Unix time; about an hour ago at most, while it answers. Left out before somebody needs them, and where they were written.", "issuer")
	registry := prometheus.NewRegistry()
	registry.MustRegister(fetched)
	for _, i := range b.issuers.open.Values() {
		if at := i.Keys().Fetched(); !at.IsZero() {
			fetched.WithLabelValues(i.Name()).Set(float64(at.Unix()))
		}
	}
	return registry
}

// signingGauges are of the broker's own keys.
func (b *broker) signingGauges(ctx context.Context) *prometheus.Registry {
	ends := gauge("signing_key_rotation_timestamp_seconds", "When the broker's newest signing key of the purpose is to be followed by another one, as a Unix time. In the past: keys are not rotated.", "purpose")
	registry := prometheus.NewRegistry()
	registry.MustRegister(ends)
	s, err := b.own.state(ctx)
	if err != nil || s.config.Issuer == "" {
		return registry
	}
	for _, purpose := range keyring.Purposes() {
		if newest, ok := s.ring.Newest(purpose); ok {
			ends.WithLabelValues(string(purpose)).Set(float64(newest.ActiveFrom.Add(s.config.RotationPeriod).Unix()))
		}
	}
	return registry
}
