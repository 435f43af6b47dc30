package report

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// sample has what a report can have: a target met, one missed, one not built, a
// note, a name that must be escaped, and a case faster than the floor.
func sample() *Report {
	r := &Report{
		Started:  time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Machine:  Machine{CPUs: 2, OS: "linux", Arch: "amd64", Go: "go1.26.8", Vault: "Vault v1.21.4"},
		Settings: Settings{Rounds: 3, Seconds: 5, Callers: 64, LongRounds: 2, LongSeconds: 20},
	}
	floor := []Turn{
		{Calls: 15000, Rate: 3000, P50: 4, P99: 10, Others: 0.1, Storage: Storage{Put: 2, Get: 1}},
		{Calls: 10000, Rate: 2000, P50: 6, P99: 15, Storage: Storage{Put: 2.01, Get: 1}},
		{Calls: 14000, Rate: 2800, P50: 5, P99: 12, Storage: Storage{Put: 2, Get: 1}},
	}
	broker := []Turn{
		{Calls: 8000, Rate: 1600, P50: 9, P99: 24, Storage: Storage{Put: 3, Get: 1}, Provider: 1, CPU: CPU{Plugin: 250}, Others: 0.04, RSS: 40 << 20, Peak: 50 << 20},
		{Calls: 5500, Rate: 1100, P50: 13, P99: 36, Storage: Storage{Put: 3.01, Get: 1}, Provider: 1, CPU: CPU{Plugin: 260}, Others: 0.04, RSS: 42 << 20, Peak: 52 << 20},
		{Calls: 7000, Rate: 1400, P50: 10, P99: 31, Storage: Storage{Put: 3, Get: 1}, Provider: 1, CPU: CPU{Plugin: 255}, RSS: 41 << 20, Peak: 52 << 20},
	}
	met := Case{Name: "oauth2", Clients: 16, Storage: "memory", Target: 0.5}
	met.Summarise(floor, broker)
	missed := Case{Name: "oauth2 with <many> & more", Clients: 1, Storage: "raft", Grants: 1000000, Target: 0.6, Baseline: "first, by one", Notes: []string{"filled in 5m"}}
	missed.Summarise(floor[:1], broker[:1])
	missed.P99Ratio = 3
	notBuilt := Case{Name: "jwt", Clients: 16, Storage: "memory", Target: 0.65, NotBuilt: "invalid_request: no such type"}
	faster := Case{Name: "renew", Clients: 16, Storage: "memory"}
	faster.Summarise(broker[:1], floor[:1])
	faster.Own = Storage{Put: 1, Get: 1, Delete: 0.5, List: 2}
	first := Case{Name: "first, by one", Clients: 1, Storage: "memory"}
	first.Summarise(floor[2:], broker[2:])
	r.Cases = []Case{met, first, missed, notBuilt, faster}
	return r
}

func TestSummarise(t *testing.T) {
	c := sample().Cases[0]
	require.InDelta(t, 0.5333, c.Ratio, 1e-3, "the median of .533, .55 and .5, not the ratio of medians")
	require.InDelta(t, 0.5, c.Low, 1e-9)
	require.InDelta(t, 0.55, c.High, 1e-9)
	require.InDelta(t, 2.4, c.P99Ratio, 1e-9)
	require.InDelta(t, 1, c.Own.Put, 1e-9)
	require.InDelta(t, 0, c.Own.Get, 1e-9)
	require.InDelta(t, 2800, c.Floor.Rate, 1e-9)
	require.InDelta(t, 1400, c.Broker.Rate, 1e-9)
	require.EqualValues(t, 52<<20, c.Broker.Peak)
	require.InDelta(t, 0.02, c.Others, 1e-9, "the median of all six turns")
	require.True(t, c.Met())

	var idle Case
	idle.Summarise([]Turn{{}}, []Turn{{Rate: 1}})
	require.Zero(t, idle.Ratio, "JSON has no infinity")
}

func TestMedian(t *testing.T) {
	require.Zero(t, median(nil))
	require.InDelta(t, 2, median([]float64{3, 1, 2}), 1e-9)
	require.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 1e-9)
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 50).Draw(t, "values")
		m, below, above := median(values), 0, 0
		for _, v := range values {
			if v < m {
				below++
			}
			if v > m {
				above++
			}
		}
		if 2*below > len(values) || 2*above > len(values) {
			t.Fatalf("%d below and %d above of %d", below, above, len(values))
		}
	})
}

func TestNumbers(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 1: "1", 0.999: "1", 1.5: "1.5", 1.234: "1.23", -0.001: "0", -0.25: "-0.25"} {
		require.Equal(t, want, number(n))
	}
	for n, want := range map[float64]string{0: "0", 999.4: "999", 999.5: "1,000", 1234567: "1,234,567"} {
		require.Equal(t, want, thousands(n))
	}
}

func TestBaseline(t *testing.T) {
	r := sample()
	require.Equal(t, "first, by one", r.baseline(&r.Cases[2]).Name)
	require.Nil(t, r.baseline(&r.Cases[0]), "it names none")
	r.Cases[1].Clients = 16
	require.Nil(t, r.baseline(&r.Cases[2]), "of another number of clients")
	r.Cases[1].Clients, r.Cases[1].NotBuilt = 1, "no"
	require.Nil(t, r.baseline(&r.Cases[2]), "it did not run")
}

func TestTable(t *testing.T) {
	golden(t, "table.txt", (*Report).Table)
}

func TestChart(t *testing.T) {
	svg := golden(t, "chart.svg", (*Report).Chart)
	for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
		_, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
}

func TestWarnings(t *testing.T) {
	r := sample()
	require.Empty(t, r.warnings())
	r.Cases[1].Others, r.Settings.Quick = 0.3, true
	require.Len(t, r.warnings(), 2)
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "bench.json")
	require.NoError(t, sample().Write(path))
	got, err := Read(path)
	require.NoError(t, err)
	require.Equal(t, sample(), got)

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = Read(path)
	require.ErrorContains(t, err, path)
}

// golden compares what write makes of the sample with testdata/<name>.
// UPDATE_GOLDEN=1 rewrites the file.
func golden(t *testing.T, name string, write func(*Report, io.Writer) error) string {
	t.Helper()
	b := &strings.Builder{}
	require.NoError(t, write(sample(), b))
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "UPDATE_GOLDEN=1 writes it")
	require.Equal(t, string(want), b.String())
	return b.String()
}

// turnsOf are turns with these rates.
func turnsOf(rates ...float64) []Turn {
	turns := make([]Turn, len(rates))
	for i, rate := range rates {
		turns[i] = Turn{Calls: 1000, Rate: rate}
	}
	return turns
}

// compared is a case whose rounds had these rates.
func compared(floor, base, broker []Turn) *Comparison {
	var c Case
	c.Compare(floor, base, broker)
	return c.Comparison
}

func TestSlowerThanTheBase(t *testing.T) {
	floor := turnsOf(1000, 1010, 990, 1000, 1005)
	base := turnsOf(500, 505, 495, 502, 498)
	for name, test := range map[string]struct {
		broker []Turn
		slower bool
	}{
		"the same":                          {base, false},
		"by four percent, and never nearer": {turnsOf(480, 485, 475, 482, 478), false},
		"by ten percent, and never nearer":  {turnsOf(450, 455, 445, 452, 448), true},
		"by ten percent, now and then":      {turnsOf(450, 600, 445, 550, 440), false},
		"faster":                            {turnsOf(600, 605, 595, 602, 598), false},
	} {
		require.Equal(t, test.slower, compared(floor, base, test.broker).Slower, name)
	}
	// A machine that is half as fast in some rounds changes no verdict.
	slow := func(turns []Turn) []Turn {
		half := make([]Turn, len(turns))
		for i, turn := range turns {
			half[i] = turn
			if i%2 == 0 {
				half[i].Rate /= 2
			}
		}
		return half
	}
	require.True(t, compared(slow(floor), slow(base), slow(turnsOf(450, 455, 445, 452, 448))).Slower)
	require.False(t, compared(slow(floor), slow(base), slow(base)).Slower)
	require.False(t, compared([]Turn{{}}, []Turn{{}}, []Turn{{}}).Slower, "nothing was measured")
}

func TestQuantile(t *testing.T) {
	require.Zero(t, quantile(nil, 0.25))
	require.InDelta(t, 7, quantile([]float64{7}, 0.75), 1e-9)
	require.InDelta(t, 2, quantile([]float64{5, 1, 4, 2, 3}, 0.25), 1e-9)
	require.InDelta(t, 3.25, quantile([]float64{1, 2, 3, 4}, 0.75), 1e-9)
}

func TestTheTableSaysWhatBecameSlower(t *testing.T) {
	r := sample()
	r.Settings.Base = "before/plugin"
	floor, base := turnsOf(1000, 1000, 1000), turnsOf(500, 500, 500)
	r.Cases[0].Compare(floor, base, base)
	text := &strings.Builder{}
	require.NoError(t, r.Table(text))
	require.Contains(t, text.String(), "No case has become slower.")
	r.Cases[1].Compare(floor, base, turnsOf(400, 400, 400))
	text.Reset()
	require.NoError(t, r.Table(text))
	require.Contains(t, text.String(), "0.80 (0.80–0.80)")
	require.Contains(t, text.String(), "Slower than the base: first, by one, 1 client.")
	require.Equal(t, []string{"first, by one, 1 client"}, r.Slower())
}
