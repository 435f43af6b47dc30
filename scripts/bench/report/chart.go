package report

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// The chart's measures in pixels, and the ratio at its right edge.
const (
	chartWidth = 860
	chartLeft  = 250 // where the bars begin
	chartScale = 420 // the length of a bar of ratio 1
	chartTop   = 64
	chartRow   = 30
	chartBar   = 16
	chartFoot  = 44
)

// chartStyle follows the reader's colour scheme, so that one file serves a light
// and a dark page.
const chartStyle = `<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.floor { stroke: #59636e; stroke-dasharray: 3 3 }
.bar { fill: #0969da }
.short { fill: #bc4c00 }
.target { stroke: #1f2328; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.small { fill: #9198a1 }
.floor { stroke: #9198a1 }
.bar { fill: #4493f8 }
.short { fill: #db6d28 }
.target { stroke: #f0f6fc }
}
</style>
`

// Chart writes the ratios as an SVG: a bar for each case, a stroke at its target.
func (r *Report) Chart(out io.Writer) error {
	b := &strings.Builder{}
	bottom := chartTop + chartRow*len(r.Cases)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="%s">`+"\n",
		chartWidth, bottom+chartFoot, html.EscapeString(r.summary()))
	b.WriteString(chartStyle)
	text(b, 16, 26, "title", "Throughput as a share of an engine that only leases a random secret")
	text(b, 16, 46, "small", "More is better. The dashed line is that engine in the same Vault, the stroke is the target.")
	fmt.Fprintf(b, `<line class="floor" x1="%d" y1="%d" x2="%[1]d" y2="%[3]d"/>`+"\n", chartLeft+chartScale, chartTop-6, bottom)
	for i := range r.Cases {
		r.Cases[i].bar(b, chartTop+i*chartRow)
	}
	text(b, 16, bottom+26, "small", r.caption())
	b.WriteString("</svg>\n")
	_, err := io.WriteString(out, b.String())
	return err
}

func (c *Case) bar(b *strings.Builder, y int) {
	baseline := y + chartBar - 3
	text(b, 16, baseline, "case", c.Label())
	if !c.Ran() {
		text(b, chartLeft+4, baseline, "small", "not built")
		return
	}
	class := "bar"
	if !c.Met() {
		class = "short"
	}
	// A case that beats the floor must not run out of the picture.
	length := min(c.Ratio, 1.1) * chartScale
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", class, chartLeft, y, length, chartBar)
	end := length
	if c.Target > 0 {
		at := chartLeft + int(c.Target*chartScale)
		fmt.Fprintf(b, `<line class="target" x1="%d" y1="%d" x2="%[1]d" y2="%[3]d"/>`+"\n", at, y-3, y+chartBar+3)
		end = max(end, c.Target*chartScale)
	}
	text(b, chartLeft+int(end)+8, baseline, "small",
		fmt.Sprintf("%.2f · %s/s · p99 %.1f ms", c.Ratio, thousands(c.Broker.Rate), c.Broker.P99))
}

func (r *Report) caption() string {
	parts := []string{
		r.Machine.Vault, fmt.Sprintf("%d CPUs (%s/%s)", r.Machine.CPUs, r.Machine.OS, r.Machine.Arch),
		"medians of " + r.Settings.measured(),
		r.Started.UTC().Format("2006-01-02"),
	}
	return strings.Join(append(parts, r.warnings()...), " · ")
}

// summary is the chart for those who cannot see it.
func (r *Report) summary() string {
	var cases []string
	for i := range r.Cases {
		if c := &r.Cases[i]; c.Ran() {
			cases = append(cases, fmt.Sprintf("%s: %.2f", c.Label(), c.Ratio))
		}
	}
	return "Throughput as a share of the floor. " + strings.Join(cases, "; ")
}

func text(b *strings.Builder, x, y int, class, content string) {
	fmt.Fprintf(b, `<text class=%q x="%d" y="%d">%s</text>`+"\n", class, x, y, html.EscapeString(content))
}
