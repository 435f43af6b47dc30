package monitoring

import (
	"errors"
	"os"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/stretchr/testify/require"
)

// TestGrafanaKnowsTheDashboard: there is nothing in it that Grafana's own schema has not.
func TestGrafanaKnowsTheDashboard(t *testing.T) {
	cog.NewRuntime().RegisterPanelcfgVariant(stat.VariantConfig())
	cog.NewRuntime().RegisterPanelcfgVariant(timeseries.VariantConfig())
	cog.NewRuntime().RegisterDataqueryVariant(prometheus.VariantConfig())
	content, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	var d dashboard.Dashboard //nolint:staticcheck // the form that every Grafana imports, not the newest alone
	for _, err := range []error{d.UnmarshalJSONStrict(content), d.Validate()} {
		var problems cog.BuildErrors // which may be there and empty
		if err != nil && !errors.As(err, &problems) {
			require.NoError(t, err)
		}
		require.Empty(t, problems)
	}
}
