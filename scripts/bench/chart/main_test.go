package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

func TestDraw(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "bench.json"), filepath.Join(t.TempDir(), "bench.svg")
	require.ErrorContains(t, draw(from, to), "make bench")

	r := &report.Report{Settings: report.Settings{Quick: true}}
	require.NoError(t, r.Write(from))
	require.ErrorContains(t, draw(from, to), "quick")
	require.NoFileExists(t, to)

	r.Settings.Quick = false
	require.NoError(t, r.Write(from))
	require.NoError(t, draw(from, to))
	svg, err := os.ReadFile(to)
	require.NoError(t, err)
	require.Contains(t, string(svg), "<svg")
}
