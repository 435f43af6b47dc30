package monitoring

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// Dashboard is what is used here of Grafana's.
type Dashboard struct {
	Panels []Panel `json:"panels"`
}

// Panel is one of a dashboard's, or the row that the next ones stand in.
type Panel struct {
	ID          int      `json:"id"`
	Type        string   `json:"type"`
	Title       string   `json:"title"`
	GridPos     GridPos  `json:"gridPos"`
	Targets     []Target `json:"targets"`
	FieldConfig struct {
		Defaults struct {
			Unit   string `json:"unit"`
			Custom struct {
				Stacking struct {
					Mode string `json:"mode"`
				} `json:"stacking"`
			} `json:"custom"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
}

// GridPos is where a panel is, in Grafana's 24 columns.
type GridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

// Target is one query of a panel.
type Target struct {
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"`
	Instant      bool   `json:"instant"`
}

// ReadDashboard reads a dashboard as Grafana exports it.
func ReadDashboard(path string) (*Dashboard, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var d Dashboard
	if err := json.Unmarshal(content, &d); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &d, nil
}

// Query is the target's as Prometheus gets it of Grafana with everything chosen.
func (t *Target) Query(rate time.Duration) string {
	// The longest name first: one is the beginning of another.
	return strings.NewReplacer("$__rate_interval", model.Duration(rate).String(), "$provider", ".*", "$mount", ".*").Replace(t.Expr)
}

// Legend is what a series of the target is called.
func (t *Target) Legend(label func(name string) string) string {
	var said strings.Builder
	rest := t.LegendFormat
	for {
		before, after, found := strings.Cut(rest, "{{")
		said.WriteString(before)
		name, end, closed := strings.Cut(after, "}}")
		if !found || !closed {
			return said.String()
		}
		said.WriteString(label(strings.TrimSpace(name)))
		rest = end
	}
}

// NewParser is the parser of queries as Prometheus has it without feature flags.
func NewParser() parser.Parser { return parser.NewParser(parser.Options{}) }

// ReadRules reads rules as Prometheus does, which takes no field that it does not know.
func ReadRules(path string) (*rulefmt.RuleGroups, error) {
	groups, problems := rulefmt.ParseFile(path, false, model.UTF8Validation, NewParser(), slog.New(slog.DiscardHandler))
	for _, err := range problems {
		return nil, err
	}
	return groups, nil
}
