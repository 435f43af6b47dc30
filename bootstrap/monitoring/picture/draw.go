package main

import (
	"cmp"
	"context"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql"

	monitoring "github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/monitoring"
)

// The picture's measures in pixels: Grafana's columns, and its rows.
const (
	column, line = 46, 26
	gap          = 6
	header       = 58
	rateOver     = 15 * time.Second
	maxLegend    = 6
)

// style follows the reader's colour scheme, as docs/bench.svg does.
const style = `<style>
text { font: 11px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.row { font-size: 14px; font-weight: 600 }
.name { font-weight: 600 }
.small { font-size: 9px; fill: #59636e }
.big { font-size: 18px; font-weight: 600 }
.end { text-anchor: end }
.panel { fill: #f6f8fa; stroke: #d1d9e0 }
.axis { stroke: #d1d9e0 }
.down { fill: #cf222e; fill-opacity: .12 }
.s { fill: none; stroke-width: 1.3 }
.c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df } .c4 { stroke: #bf3989 } .c5 { stroke: #9a6700 } .c6 { stroke: #59636e }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.small { fill: #9198a1 }
.panel { fill: #151b23; stroke: #3d444d }
.axis { stroke: #3d444d }
.c0 { stroke: #4493f8 } .c1 { stroke: #db6d28 } .c2 { stroke: #3fb950 } .c3 { stroke: #ab7df8 } .c4 { stroke: #db61a2 } .c5 { stroke: #d29922 } .c6 { stroke: #9198a1 }
}
</style>
`

// drawing is a picture of a dashboard over a time.
type drawing struct {
	strings.Builder
	store       *monitoring.Store
	from, until time.Time
}

// series is one line of a panel, or one number.
type series struct {
	name   string
	points []promql.FPoint
}

func draw(out io.Writer, d *monitoring.Dashboard, store *monitoring.Store, from, until time.Time) error {
	p := &drawing{store: store, from: from, until: until}
	bottom := 0
	for _, panel := range d.Panels {
		bottom = max(bottom, panel.GridPos.Y+panel.GridPos.H)
	}
	width, height := 24*column+gap, header+bottom*line+gap
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="The panels of the dashboard over a fault run">`+"\n", width, height)
	p.WriteString(style)
	p.text(gap+4, 24, "title", "The dashboard over a fault run")
	p.text(gap+4, 44, "small", fmt.Sprintf("%s from %s UTC on. Drawn from the dashboard's queries, as Prometheus' engine evaluates them; no screenshot of Grafana. Reddish: Vault or the plugin did not answer the scrape.", until.Sub(from).Round(time.Second), from.UTC().Format("2006-01-02 15:04")))
	for _, panel := range d.Panels {
		if err := p.panel(&panel); err != nil {
			return fmt.Errorf("%s: %w", panel.Title, err)
		}
	}
	p.WriteString("</svg>\n")
	_, err := io.WriteString(out, p.String())
	return err
}

func (p *drawing) text(x, y int, class, content string) {
	fmt.Fprintf(p, `<text class=%q x="%d" y="%d">%s</text>`+"\n", class, x, y, html.EscapeString(content))
}

func (p *drawing) panel(panel *monitoring.Panel) error {
	at := panel.GridPos
	x, y, w, h := gap+at.X*column, header+at.Y*line, at.W*column-gap, at.H*line-gap
	if panel.Type == "row" {
		p.text(x+4, y+16, "row", panel.Title)
		return nil
	}
	all, err := p.evaluate(panel)
	if err != nil {
		return err
	}
	fmt.Fprintf(p, `<rect class="panel" x="%d" y="%d" width="%d" height="%d" rx="3"/>`+"\n", x, y, w, h)
	p.text(x+8, y+16, "name", panel.Title)
	unit := panel.FieldConfig.Defaults.Unit
	if panel.Type == "stat" {
		p.numbers(all, unit, x+8, y+18, w-16, h-20)
		return nil
	}
	return p.lines(all, unit, x+8, y+24, w-16, h-30)
}

func (p *drawing) evaluate(panel *monitoring.Panel) (all []series, err error) {
	ctx := context.Background()
	for _, q := range panel.Targets {
		query := q.Query(rateOver)
		if panel.Type == "stat" {
			found, err := p.store.At(ctx, query, p.until)
			if err != nil {
				return nil, err
			}
			for _, s := range found {
				all = append(all, series{q.Legend(s.Metric.Get), []promql.FPoint{{T: s.T, F: s.F}}})
			}
			continue
		}
		found, err := p.store.Over(ctx, query, p.from, p.until, time.Second)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			points := slices.DeleteFunc(s.Floats, func(f promql.FPoint) bool { return math.IsNaN(f.F) })
			if len(points) > 0 {
				all = append(all, series{q.Legend(s.Metric.Get), points})
			}
		}
	}
	return all, nil
}

// numbers is what a stat shows at the end of the time.
func (p *drawing) numbers(all []series, unit string, x, y, w, h int) {
	if len(all) == 0 {
		p.text(x, y+h/2+6, "big", "–")
		return
	}
	columns := min(len(all), max(1, w/130))
	for i, s := range all {
		left, top := x+(i%columns)*(w/columns), y+(i/columns)*34
		if top+30 > y+h {
			p.text(left, y+h-1, "small", fmt.Sprintf("and %d more", len(all)-i))
			return
		}
		value := shown(s.points[0].F, unit)
		if strings.Contains(s.name, ": ") { // the name says all, as in "oauth2/acme: ok"
			p.text(left, top+20, "name", s.name)
			continue
		}
		p.text(left, top+18, "big", value)
		p.text(left, top+30, "small", s.name)
	}
}

// lines is a panel's graph with its legend, those with the highest peaks first.
func (p *drawing) lines(all []series, unit string, x, y, w, h int) error {
	top := 0.0
	peak := func(s series) float64 {
		most := 0.0
		for _, f := range s.points {
			most = max(most, f.F)
		}
		return most
	}
	for _, s := range all {
		top = max(top, peak(s))
	}
	slices.SortStableFunc(all, func(a, b series) int { return cmp.Or(cmp.Compare(peak(b), peak(a)), strings.Compare(a.name, b.name)) })
	rows := (min(len(all), maxLegend) + 1) / 2
	h -= 12*rows + 4
	if err := p.gaps(x, y, w, h); err != nil {
		return err
	}
	fmt.Fprintf(p, `<line class="axis" x1="%d" y1="%d" x2="%d" y2="%[2]d"/>`+"\n", x, y+h, x+w)
	if top == 0 {
		top = 1
	}
	p.text(x+w, y-8, "small end", "up to "+shown(top, unit))
	for i, s := range all {
		class := fmt.Sprintf("s c%d", min(i, maxLegend))
		fmt.Fprintf(p, `<path class=%q d="%s"/>`+"\n", class, p.path(s.points, top, x, y, w, h))
		if i >= maxLegend {
			continue
		}
		lx, ly := x+(i%2)*w/2, y+h+12+(i/2)*12
		fmt.Fprintf(p, `<line class=%q x1="%d" y1="%d" x2="%d" y2="%[3]d"/>`+"\n", class, lx, ly-3, lx+10)
		name := s.name
		if i == maxLegend-1 && len(all) > maxLegend {
			name += fmt.Sprintf(", and %d more", len(all)-maxLegend)
		}
		p.text(lx+14, ly, "small", fit(name, w/2-20))
	}
	return nil
}

// fit cuts a small text where it would run into the next one.
func fit(text string, pixels int) string {
	const perRune = 4.7
	runes := []rune(text)
	if most := int(float64(pixels) / perRune); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// gaps marks the time in which the target did not answer.
func (p *drawing) gaps(x, y, w, h int) error {
	up, err := p.store.Over(context.Background(), "up == 0", p.from, p.until, time.Second)
	if err != nil {
		return err
	}
	second := float64(w) / p.until.Sub(p.from).Seconds()
	for _, s := range up {
		for i := 0; i < len(s.Floats); {
			n := 1
			for i+n < len(s.Floats) && s.Floats[i+n].T-s.Floats[i+n-1].T <= 1500 {
				n++
			}
			left := float64(x) + time.UnixMilli(s.Floats[i].T).Sub(p.from).Seconds()*second
			fmt.Fprintf(p, `<rect class="down" x="%.1f" y="%d" width="%.1f" height="%d"/>`+"\n", left, y, min(float64(n)*second, float64(x+w)-left), h)
			i += n
		}
	}
	return nil
}

// path joins points that follow each other; where some are missing it begins anew.
func (p *drawing) path(points []promql.FPoint, top float64, x, y, w, h int) string {
	var d strings.Builder
	whole := float64(p.until.Sub(p.from).Milliseconds())
	before := int64(0)
	for i, f := range points {
		verb := "L"
		if i == 0 || f.T-before > 1500 {
			verb = "M"
		}
		before = f.T
		left := float64(x) + float64(f.T-p.from.UnixMilli())/whole*float64(w)
		fmt.Fprintf(&d, "%s%.1f %.1f", verb, left, float64(y)+(1-max(0, f.F)/top)*float64(h))
	}
	return d.String()
}

// shown is a number as Grafana shows it, about.
func shown(v float64, unit string) string {
	switch {
	case unit == "s" && math.Abs(v) < 1 && v != 0:
		return fmt.Sprintf("%.0f ms", v*1000)
	case unit == "s" && math.Abs(v) < 120:
		return fmt.Sprintf("%.3g s", v)
	case unit == "s" && math.Abs(v) < 2*3600:
		return fmt.Sprintf("%.0f min", v/60)
	case unit == "s" && math.Abs(v) < 2*86400:
		return fmt.Sprintf("%.0f h", v/3600)
	case unit == "s":
		return fmt.Sprintf("%.0f days", v/86400)
	case unit == "bytes":
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	case unit == "ops":
		return fmt.Sprintf("%.3g/s", v)
	}
	return fmt.Sprintf("%.3g", v)
}
