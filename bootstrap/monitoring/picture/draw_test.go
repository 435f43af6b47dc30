package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	monitoring "github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/monitoring"
)

// TestThePictureShowsEveryPanel of the dashboard, and when nobody answered.
func TestThePictureShowsEveryPanel(t *testing.T) {
	store, err := monitoring.OpenStore(t.TempDir(), "mount", "broker")
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	var scrapes strings.Builder
	for second := range 60 {
		fmt.Fprintf(&scrapes, "# at %d\n", 1_700_000_000_000+second*1000)
		if second < 20 || second > 29 {
			fmt.Fprintf(&scrapes, "broker_outbox_depth{provider=\"oauth2/<acme>\"} %d\nbroker_residual_exposure_seconds 7200\n", second)
		}
	}
	from, until, err := load(store, strings.NewReader(scrapes.String()))
	require.NoError(t, err)
	require.Equal(t, "59s", until.Sub(from).String())
	d, err := monitoring.ReadDashboard("../../../docs/monitoring/grafana.json")
	require.NoError(t, err)
	var svg bytes.Buffer
	require.NoError(t, draw(&svg, d, store, from, until))
	for _, p := range d.Panels {
		require.True(t, strings.Contains(svg.String(), ">"+html.EscapeString(p.Title)+"<"), p.Title)
	}
	require.Contains(t, svg.String(), "oauth2/&lt;acme&gt;")
	require.Contains(t, svg.String(), ">2 h<")
	require.Contains(t, svg.String(), `class="down"`)
	require.Regexp(t, `d="M[^"]+M`, svg.String(), "no line goes over the gap")
	for decoder := xml.NewDecoder(&svg); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
	}
}
