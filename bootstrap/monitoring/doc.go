// Package monitoring has Prometheus itself evaluate what operators load into it and into
// Grafana: docs/monitoring/alerts.yml and docs/monitoring/grafana.json.
//
// It is a module of its own, so that neither the plugin nor its tests compile Prometheus;
// what can be told without it is held by the plugin's own tests (backend/monitoring_test.go).
package monitoring
