package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// slowerBy is how much slower than the base a case must be to be called so.
const slowerBy = 0.05

// Comparison is the broker next to an earlier build of it, the base, which had its
// turn in the same rounds.
type Comparison struct {
	Base Turn `json:"base"`
	// Ratio is the broker's rate to the base's in the same round: the median, and the
	// range between the quartiles.
	Ratio Spread `json:"ratio"`
	// BrokerToFloor and BaseToFloor are what the verdict looks at: the rates as ratios to
	// the floor's in the same round, so that what became of the machine is in neither.
	BrokerToFloor Spread `json:"broker_to_floor"`
	BaseToFloor   Spread `json:"base_to_floor"`
	// Slower is the verdict: by more than a twentieth, and the ranges between the
	// quartiles do not overlap.
	Slower bool `json:"slower"`
}

// Spread is a median between its quartiles.
type Spread struct {
	Low    float64 `json:"first_quartile"`
	Median float64 `json:"median"`
	High   float64 `json:"third_quartile"`
}

func (s Spread) String() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Low, s.High) }

// Compare fills in the comparison. The rounds' turns belong together by their index.
func (c *Case) Compare(floor, base, broker []Turn) {
	found := &Comparison{
		Base: medianTurn(base), Ratio: spreadOf(broker, base),
		BrokerToFloor: spreadOf(broker, floor), BaseToFloor: spreadOf(base, floor),
	}
	found.Slower = found.Ratio.Median < 1-slowerBy && found.BrokerToFloor.High < found.BaseToFloor.Low
	c.Comparison = found
}

// spreadOf is how the rates of one engine are to another's.
func spreadOf(of, to []Turn) Spread {
	ratios := make([]float64, len(of))
	for i := range of {
		ratios[i] = quotient(of[i].Rate, to[i].Rate)
	}
	return Spread{Low: quantile(ratios, 0.25), Median: median(ratios), High: quantile(ratios, 0.75)}
}

// quantile is the value below which the share q of the others lies, between two of
// them where it falls there; 0 of nothing.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Slower are the cases that have become slower than the base.
func (r *Report) Slower() []string {
	var labels []string
	for i := range r.Cases {
		if c := &r.Cases[i]; c.Comparison != nil && c.Comparison.Slower {
			labels = append(labels, c.Label())
		}
	}
	return labels
}

// compare writes what became of each case since the base, and the verdict.
func (r *Report) compare(out io.Writer) error {
	if r.Settings.Base == "" {
		return nil
	}
	fmt.Fprintf(out, "\nCompared with %s, which had its turns in the same rounds:\n\n", r.Settings.Base)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\tclients\tbase\tnow\tnow to base\tbase to floor\tnow to floor\tverdict")
	for i := range r.Cases {
		c := &r.Cases[i]
		if c.Comparison == nil {
			continue
		}
		verdict := "not slower"
		if c.Comparison.Slower {
			verdict = "SLOWER"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.Clients, thousands(c.Comparison.Base.Rate), thousands(c.Broker.Rate),
			c.Comparison.Ratio, c.Comparison.BaseToFloor, c.Comparison.BrokerToFloor, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verdict := "No case has become slower."
	if slower := r.Slower(); len(slower) > 0 {
		verdict = "Slower than the base: " + strings.Join(slower, "; ") + "."
	}
	_, err := fmt.Fprintf(out, "\n%s Slower is by more than %.0f%% within the rounds, where the ranges between the quartiles\n"+
		"(in brackets) of what both are to the floor do not overlap.\n", verdict, slowerBy*100)
	return err
}
