package backend

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// What operators load into Prometheus and Grafana is held against the engine here, without
// either. bootstrap/monitoring has Prometheus itself evaluate it.

type alertingRule struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

type dashboardPanel struct {
	ID                       int
	Type, Title, Description string
	Datasource               struct{ Type, UID string }
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []struct{ Expr, LegendFormat string }
}

type dashboard struct {
	Panels     []dashboardPanel
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

// metricLabels are the engine's metrics with their labels, as their definitions say.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	b := newMount(t, setup{}).b
	metrics := map[string][]string{}
	for _, r := range []*prometheus.Registry{
		b.meters.registry, b.ledgerGauges(t.Context()), b.gateGauges(), b.healthGauges(t.Context()), b.keyGauges(), b.signingGauges(t.Context()), b.signalGauges(t.Context()),
	} {
		defined := make(chan *prometheus.Desc)
		go func() {
			r.Describe(defined)
			close(defined)
		}()
		for d := range defined {
			found := metricDesc.FindStringSubmatch(d.String())
			require.NotNil(t, found, d.String())
			metrics[found[1]] = strings.FieldsFunc(found[2], func(c rune) bool { return c == ',' })
		}
	}
	require.Greater(t, len(metrics), 40)
	return metrics
}

var (
	metricDesc = regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)
	metricUsed = regexp.MustCompile(`\b(broker_\w+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	labelShown = regexp.MustCompile(`\$labels\.(\w+)|\{\{\s*(\w+)\s*\}\}`)
	histogram  = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// ofTarget are labels that the scrape gives to each series.
var ofTarget = []string{"job", "instance", "mount"}

// usedIn are the metrics of a query. Its labels are those of the metrics.
func usedIn(t *testing.T, metrics map[string][]string, where, query, shown string) (used []string) {
	t.Helper()
	known := slices.Clone(ofTarget)
	for _, found := range metricUsed.FindAllStringSubmatch(query, -1) {
		name := found[1]
		labels, ok := metrics[name]
		if !ok {
			name = histogram.ReplaceAllString(name, "")
			labels, ok = metrics[name]
		}
		require.True(t, ok, "%s: the engine has no metric %s", where, found[1])
		used = append(used, name)
		if strings.HasSuffix(found[1], "_bucket") {
			known = append(known, "le")
		}
		known = append(known, labels...)
		for _, m := range matcher.FindAllStringSubmatch(found[2], -1) {
			require.Contains(t, append(slices.Clone(labels), ofTarget...), m[1], "%s: %s has no label %s", where, found[1], m[1])
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(query, -1) {
		for label := range strings.SplitSeq(g[1], ",") {
			require.Contains(t, known, strings.TrimSpace(label), where)
		}
	}
	for _, l := range labelShown.FindAllStringSubmatch(shown, -1) {
		if l[2] != "else" && l[2] != "end" {
			require.Contains(t, known, l[1]+l[2], "%s shows a label that its query does not have", where)
		}
	}
	return used
}

func TestEveryAlertCanBeReadAtThreeInTheMorning(t *testing.T) {
	metrics := metricLabels(t)
	page := readPage(t, "../docs/monitoring.md")
	var file struct {
		Groups []struct {
			Name  string
			Rules []alertingRule
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(readPage(t, "../docs/monitoring/alerts.yml")), &file))
	var names []string
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			require.NotContains(t, names, r.Alert)
			names = append(names, r.Alert)
			used := usedIn(t, metrics, r.Alert, r.Expr, r.Annotations["summary"]+r.Annotations["description"])
			require.True(t, len(used) > 0 || strings.HasPrefix(r.Expr, "up{"), r.Alert)
			require.Contains(t, []string{"critical", "warning"}, r.Labels["severity"], r.Alert)
			for _, said := range []string{"summary", "description"} {
				require.NotEmpty(t, r.Annotations[said], r.Alert)
			}
			_, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "/docs/monitoring.md#")
			require.Equal(t, strings.ToLower(r.Alert), anchor)
			require.Contains(t, page, "\n#### "+r.Alert+"\n\n*"+strings.ToUpper(r.Labels["severity"][:1])+r.Labels["severity"][1:]+", ")
		}
	}
	require.Greater(t, len(names), 20)
	for _, heading := range regexp.MustCompile(`(?m)^#### (\w+)$`).FindAllStringSubmatch(page, -1) {
		require.Contains(t, names, heading[1], "there is no such alert")
	}
	for _, named := range regexp.MustCompile(`\bBroker[A-Z]\w+`).FindAllString(page+readPage(t, "../docs/monitoring/grafana.json"), -1) {
		require.Contains(t, names, named, "there is no such alert")
	}
}

// TestTheDashboardShowsEveryMetric or the page says which it does not show.
func TestTheDashboardShowsEveryMetric(t *testing.T) {
	metrics := metricLabels(t)
	page := readPage(t, "../docs/monitoring.md")
	var d dashboard
	require.NoError(t, json.Unmarshal([]byte(readPage(t, "../docs/monitoring/grafana.json")), &d))
	shown, ids := map[string]bool{}, map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "two panels are %d", p.ID)
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, taken[at], "%s lies over it", p.Title)
				taken[at] = p.Title
				require.Less(t, at[0], 24, p.Title)
			}
		}
		if p.Type == "row" {
			require.Contains(t, page, "\n| "+p.Title+" | ")
			continue
		}
		require.Contains(t, page, "| "+p.Title+" | "+p.Description+" |\n")
		require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, q := range p.Targets {
			used := usedIn(t, metrics, p.Title, q.Expr, q.LegendFormat)
			require.NotEmpty(t, used, p.Title)
			require.Equal(t, len(used), strings.Count(q.Expr, `mount=~"$mount"`), "%s: each metric is of the mounts that were chosen", p.Title)
			for _, name := range used {
				shown[name] = true
			}
		}
	}
	_, rest, _ := strings.Cut(page, "\nNot on it: ")
	left, _, _ := strings.Cut(rest, "\n\n")
	for name := range metrics {
		require.True(t, shown[name] != strings.Contains(left, "`"+name+"`"), "%s is either on the dashboard, or docs/monitoring.md says why not", name)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type == "query" {
			usedIn(t, metrics, v.Name, v.Definition, "")
		}
	}
	require.Equal(t, []string{"datasource", "mount", "provider"}, variables)
}

func readPage(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}
