package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const config = `{"config":{"scan_level":"symbol"}}`

func finding(module, fixed, function string) string {
	return `{"osv":{"id":"GO-1","summary":"it breaks"}}
{"finding":{"osv":"GO-1","fixed_version":"` + fixed + `","trace":[{"module":"` + module + `","version":"v1.0.0","package":"p","function":"` + function + `"},{"module":"ours","package":"main","function":"main"}]}}`
}

func TestWhatFails(t *testing.T) {
	for name, c := range map[string]struct {
		answer             string
		failures, warnings int
	}{
		"nothing is found":                                {config, 0, 0},
		"a module is there and not called":                {config + finding("m", "v1.1.0", ""), 0, 0},
		"it is called":                                    {config + finding("m", "v1.1.0", "F"), 1, 0},
		"it is called and not mended":                     {config + finding("m", "", "F"), 1, 0},
		"twice":                                           {config + finding("m", "v1.1.0", "F") + finding("m", "v1.1.0", "G"), 1, 0},
		"in two modules":                                  {config + finding("m", "v1.1.0", "F") + finding("n", "v1.1.0", "F"), 2, 0},
		"Go itself, mended where go.mod points":           {config + finding("stdlib", "v1.26.10", "F"), 0, 2},
		"Go itself, mended before":                        {config + finding("stdlib", "v1.26.9", "F"), 0, 2},
		"Go itself, mended after what go.mod names":       {config + finding("stdlib", "v1.26.11", "F"), 1, 0},
		"Go itself, mended in the next release candidate": {config + finding("stdlib", "v1.27.0-rc.1", "F"), 1, 0},
		"Go itself, and nothing mends it":                 {config + finding("stdlib", "", "F"), 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := parse(strings.NewReader(c.answer))
			require.NoError(t, err)
			failures, warnings := judge(found, "go1.26.10")
			require.Len(t, failures, c.failures)
			require.Len(t, warnings, c.warnings)
		})
	}
}

func TestAnAnswerThatProvesNothingFails(t *testing.T) {
	for _, answer := range []string{"", `{"config":{"scan_level":"module"}}`, config + "{", finding("m", "v1.1.0", "")} {
		_, err := parse(strings.NewReader(answer))
		require.Error(t, err, answer)
	}
}
