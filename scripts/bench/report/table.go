package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// p99Target is how much slower than the floor's the broker's p99 may be.
const p99Target = 1.2

const explanation = `
rate: calls a second. ratio: to the floor in the same round, with the lowest and the highest
of the rounds. p99: "of floor" is how many times the floor's, %.1f at most. storage: the
plugin's own calls at Vault's barrier for each call: writes+reads, deletes and lists if there are any;
what the floor costs (core's lease and index) is taken off. provider: requests to the authorization
server for each call. CPU: of the plugin's process for each call. memory: of the plugin's
process, now and at its peak. All are medians of %s.
`

var columns = []string{
	"case", "clients", "floor", "broker", "ratio", "", "target", "p50 ms", "p99 ms", "of floor", "storage", "provider", "CPU µs", "memory MiB",
}

// Table writes the report for reading.
func (r *Report) Table(out io.Writer) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s, %s/%s, %d CPUs of which others used up to %.2f, %s, %d callers\n",
		r.Machine.Vault, r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Others(), r.Machine.Go, r.Settings.Callers)
	for _, warning := range r.warnings() {
		fmt.Fprintf(b, "%s\n", warning)
	}
	b.WriteString("\n")
	rows := &strings.Builder{}
	w := tabwriter.NewWriter(rows, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	for i := range r.Cases {
		fmt.Fprintln(w, strings.Join(r.Cases[i].row(), "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for row := range strings.Lines(rows.String()) {
		fmt.Fprintln(b, strings.TrimRight(row, " \n"))
	}
	fmt.Fprintf(b, explanation, p99Target, r.Settings.measured())
	for i := range r.Cases {
		for _, remark := range r.remarks(&r.Cases[i]) {
			fmt.Fprintf(b, "\n%s: %s", r.Cases[i].Name, remark)
		}
	}
	b.WriteString("\n")
	if err := r.compare(b); err != nil {
		return err
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// remarks are what the table has no room for.
func (r *Report) remarks(c *Case) []string {
	if !c.Ran() {
		return []string{"not built; the broker says: " + c.NotBuilt}
	}
	remarks := slices.Clone(c.Notes)
	if base := r.baseline(c); base != nil {
		remarks = append(remarks, fmt.Sprintf("its ratio is %.2f times, its p99 (each to the floor's) %.2f times that of %q",
			quotient(c.Ratio, base.Ratio), quotient(c.P99Ratio, base.P99Ratio), base.Name))
	}
	return remarks
}

// baseline is the case that c names as such, if that ran too.
func (r *Report) baseline(c *Case) *Case {
	if c.Baseline == "" {
		return nil
	}
	for i := range r.Cases {
		if base := &r.Cases[i]; base.Name == c.Baseline && base.Clients == c.Clients && base.Ran() {
			return base
		}
	}
	return nil
}

func (r *Report) warnings() []string {
	var warnings []string
	if r.Settings.Quick {
		warnings = append(warnings, "A quick run: it shows that the benchmark works, its figures mean nothing.")
	}
	if r.Busy() {
		warnings = append(warnings, "Others were using this machine: the figures are noise.")
	}
	return warnings
}

func (c *Case) row() []string {
	row := []string{c.Name, strconv.Itoa(c.Clients)}
	if !c.Ran() {
		row = append(row, "", "not built", "", "", c.verdict())
		// A row with fewer cells than the others would end their columns.
		return append(row, make([]string, len(columns)-len(row))...)
	}
	return append(row,
		thousands(c.Floor.Rate), thousands(c.Broker.Rate),
		fmt.Sprintf("%.2f", c.Ratio), fmt.Sprintf("%.2f–%.2f", c.Low, c.High), c.verdict(),
		fmt.Sprintf("%.1f", c.Broker.P50), fmt.Sprintf("%.1f", c.Broker.P99), c.p99Verdict(),
		c.Own.String(), number(c.Broker.Provider),
		fmt.Sprintf("%.0f", c.Broker.CPU.Plugin),
		fmt.Sprintf("%d, %d", c.Broker.RSS>>20, c.Broker.Peak>>20),
	)
}

// verdict is the target and what became of it.
func (c *Case) verdict() string {
	switch {
	case c.Target == 0:
		return ""
	case !c.Ran():
		return fmt.Sprintf("%.2f", c.Target)
	case c.Met():
		return fmt.Sprintf("%.2f met", c.Target)
	default:
		return fmt.Sprintf("%.2f missed", c.Target)
	}
}

func (c *Case) p99Verdict() string {
	text := fmt.Sprintf("%.1f", c.P99Ratio)
	if c.Target > 0 && c.P99Ratio > p99Target {
		text += " missed"
	}
	return text
}

// String is "1w+0r", with what else there is behind it. What Vault does beside the
// calls moves the counts a little, also below zero, which says nothing.
func (s Storage) String() string {
	text := number(max(s.Put, 0)) + "w+" + number(max(s.Get, 0)) + "r"
	for _, further := range []struct {
		calls float64
		kind  string
	}{{s.Delete, "d"}, {s.List, "l"}} {
		if n := number(max(further.calls, 0)); n != "0" {
			text += "+" + n + further.kind
		}
	}
	return text
}

// number has two decimals where they say something.
func number(n float64) string {
	hundredths := math.Round(n * 100)
	if hundredths == 0 {
		return "0" // and not "-0"
	}
	return strconv.FormatFloat(hundredths/100, 'f', -1, 64)
}

func thousands(n float64) string {
	digits := strconv.FormatInt(int64(math.Round(n)), 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
