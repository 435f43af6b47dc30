// Package report is what the benchmark has found, as data, as a table and as a
// chart. All figures of a case are medians over its rounds; ratios are taken within
// a round, where floor and broker ran one after the other, and then their median.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Report is one run of the benchmark.
type Report struct {
	Started  time.Time `json:"started"`
	Machine  Machine   `json:"machine"`
	Settings Settings  `json:"settings"`
	Cases    []Case    `json:"cases"`
}

// Machine is where it ran. Absolute figures mean nothing without it.
type Machine struct {
	CPUs  int    `json:"cpus"`
	OS    string `json:"os"`
	Arch  string `json:"arch"`
	Go    string `json:"go"`
	Vault string `json:"vault"`
}

// othersMay is the share of the machine that others may use before the figures are
// called noise.
const othersMay = 0.1

// Others is the most that others used in any case, in CPUs.
func (r *Report) Others() float64 {
	var most float64
	for i := range r.Cases {
		most = max(most, r.Cases[i].Others)
	}
	return most
}

// Busy reports whether others used the machine: the figures are noise then.
func (r *Report) Busy() bool { return r.Others() > othersMay*float64(r.Machine.CPUs) }

// Settings are how it ran.
type Settings struct {
	// Quick shows that the tooling works, and no more.
	Quick   bool    `json:"quick"`
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"` // of each engine's turn in a round
	Callers int     `json:"callers"` // entities that the requests come from
	// LongRounds and LongSeconds are for the cases with a full ledger; 0 if there are none.
	LongRounds  int     `json:"long_rounds,omitempty"`
	LongSeconds float64 `json:"long_seconds,omitempty"`
	// Base is the file of the build that this one is compared with, if there was one.
	Base string `json:"base,omitempty"`
}

// measured is how often and how long, in words.
func (s Settings) measured() string {
	text := fmt.Sprintf("%d rounds of %gs", s.Rounds, s.Seconds)
	if s.LongRounds > 0 {
		text += fmt.Sprintf(", with a full ledger of %d of %gs", s.LongRounds, s.LongSeconds)
	}
	return text
}

// Turn is what one engine did in its turn of a round. What is per call is of the
// case's operation: an issue, a renewal, a revocation.
type Turn struct {
	Calls int     `json:"calls"`
	Rate  float64 `json:"rate"` // per second
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	// Storage are the calls at Vault's barrier, core's own included.
	Storage Storage `json:"storage_per_call"`
	// Provider are the requests that the authorization server answered.
	Provider float64 `json:"provider_per_call"`
	CPU      CPU     `json:"cpu_us_per_call"`
	// Others is what processes beside the benchmark's used meanwhile, in CPUs.
	Others float64 `json:"others_cpus"`
	// RSS and Peak are bytes of the plugin's process after the turn.
	RSS  uint64 `json:"plugin_rss"`
	Peak uint64 `json:"plugin_peak"`
}

// Storage counts calls by kind.
type Storage struct {
	Put    float64 `json:"put"`
	Get    float64 `json:"get"`
	Delete float64 `json:"delete"`
	List   float64 `json:"list"`
}

// CPU is the time that each process used.
type CPU struct {
	Plugin   float64 `json:"plugin"`
	Vault    float64 `json:"vault"`
	Provider float64 `json:"provider"`
	Load     float64 `json:"load"` // the load generator itself
}

// Case is one line of the table.
type Case struct {
	Name    string `json:"name"`
	Clients int    `json:"clients"`
	Storage string `json:"storage"`
	Grants  int    `json:"grants"` // in the ledger before it began
	// Target is the ratio to reach; 0 where none is set.
	Target float64 `json:"target_ratio,omitempty"`
	// Baseline names the case of as many clients that this one is to be compared with.
	Baseline string `json:"baseline,omitempty"`
	// NotBuilt is the broker's answer where it refused what the case needs.
	NotBuilt string `json:"not_built,omitempty"`

	Floor  Turn `json:"floor"`
	Broker Turn `json:"broker"`
	// Ratio is the broker's rate to the floor's; Low and High are its extremes.
	Ratio float64 `json:"ratio"`
	Low   float64 `json:"ratio_low"`
	High  float64 `json:"ratio_high"`
	// P99Ratio is the broker's p99 to the floor's.
	P99Ratio float64 `json:"p99_ratio"`
	// Own are the broker's storage calls beyond the floor's.
	Own Storage `json:"own_storage_per_call"`
	// Others is the median over the turns of both.
	Others float64 `json:"others_cpus"`

	// Comparison is with the base; nil if there was none.
	Comparison *Comparison `json:"comparison,omitempty"`

	Notes []string `json:"notes,omitempty"`
}

// Label is the case's name with its clients.
func (c *Case) Label() string {
	if c.Clients == 1 {
		return c.Name + ", 1 client"
	}
	return fmt.Sprintf("%s, %d clients", c.Name, c.Clients)
}

// Ran reports whether the case has figures.
func (c *Case) Ran() bool { return c.NotBuilt == "" }

// Met reports whether the target is reached; true where none is set.
func (c *Case) Met() bool { return c.Ratio >= c.Target }

// Summarise fills in the figures. The rounds' floor and broker belong together by
// their index; there is at least one.
func (c *Case) Summarise(floor, broker []Turn) {
	c.Floor, c.Broker = medianTurn(floor), medianTurn(broker)
	ratios := make([]float64, len(floor))
	p99s := make([]float64, len(floor))
	own := make([]Storage, len(floor))
	for i := range floor {
		ratios[i] = quotient(broker[i].Rate, floor[i].Rate)
		p99s[i] = quotient(broker[i].P99, floor[i].P99)
		own[i] = broker[i].Storage.minus(floor[i].Storage)
	}
	c.Ratio, c.P99Ratio = median(ratios), median(p99s)
	c.Low, c.High = slices.Min(ratios), slices.Max(ratios)
	c.Own = medianStorage(own)
	c.Others = medianOf(slices.Concat(floor, broker), func(t Turn) float64 { return t.Others })
}

// quotient is 0 where nothing was measured: JSON has no infinity.
func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (s Storage) minus(o Storage) Storage {
	return Storage{Put: s.Put - o.Put, Get: s.Get - o.Get, Delete: s.Delete - o.Delete, List: s.List - o.List}
}

func medianTurn(turns []Turn) Turn {
	of := func(figure func(Turn) float64) float64 { return medianOf(turns, figure) }
	storage := make([]Storage, len(turns))
	for i, t := range turns {
		storage[i] = t.Storage
	}
	return Turn{
		Calls:    int(of(func(t Turn) float64 { return float64(t.Calls) })),
		Rate:     of(func(t Turn) float64 { return t.Rate }),
		P50:      of(func(t Turn) float64 { return t.P50 }),
		P99:      of(func(t Turn) float64 { return t.P99 }),
		Storage:  medianStorage(storage),
		Provider: of(func(t Turn) float64 { return t.Provider }),
		CPU: CPU{
			Plugin:   of(func(t Turn) float64 { return t.CPU.Plugin }),
			Vault:    of(func(t Turn) float64 { return t.CPU.Vault }),
			Provider: of(func(t Turn) float64 { return t.CPU.Provider }),
			Load:     of(func(t Turn) float64 { return t.CPU.Load }),
		},
		Others: of(func(t Turn) float64 { return t.Others }),
		RSS:    uint64(of(func(t Turn) float64 { return float64(t.RSS) })),
		Peak:   slices.MaxFunc(turns, func(a, b Turn) int { return int(a.Peak>>10) - int(b.Peak>>10) }).Peak,
	}
}

func medianStorage(all []Storage) Storage {
	of := func(figure func(Storage) float64) float64 { return medianOf(all, figure) }
	return Storage{
		Put:    of(func(s Storage) float64 { return s.Put }),
		Get:    of(func(s Storage) float64 { return s.Get }),
		Delete: of(func(s Storage) float64 { return s.Delete }),
		List:   of(func(s Storage) float64 { return s.List }),
	}
}

func medianOf[T any](all []T, figure func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, one := range all {
		values[i] = figure(one)
	}
	return median(values)
}

// median is the middle one, or the mean of the two in the middle; 0 of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Write writes the report as JSON, and makes the folder that it goes to.
func (r *Report) Write(path string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// Read reads what Write wrote.
func Read(path string) (*Report, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
