package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

func TestEveryQuestionHasItsStories(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "backend", "acceptance", "*_test.go"))
	require.NoError(t, err)
	var stories strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		stories.Write(content)
	}
	for _, q := range questions {
		for _, story := range q.stories {
			require.Contains(t, stories.String(), "\nfunc "+story+"(t *testing.T)", q.what)
		}
	}
}

func TestWhatAServerSaysOfItself(t *testing.T) {
	for said, want := range map[string]string{
		"Vault v1.21.4, built 2025-11-28T13:34:40Z":           "Vault 1.21.4",
		"Vault v1.19.5 (7010adf), built 2025-05-29":           "Vault 1.19.5",
		"OpenBao v2.4.0 (4c2d0f2e1), built 2025-09-11":        "OpenBao 2.4.0",
		"Vault v2.0.0-rc1+ent (abc), built 2026-03-11":        "Vault 2.0.0-rc1+ent",
		"bash: vault: command not found, so there is no such": "",
	} {
		server := filepath.Join(t.TempDir(), "vault")
		require.NoError(t, os.WriteFile(server, []byte("#!/bin/sh\necho '"+said+"'\n"), 0o700))
		got, err := nameOf(server)
		require.Equal(t, want, got)
		require.Equal(t, want == "", err != nil)
	}
}

func TestWhatCameOfTheStories(t *testing.T) {
	const events = `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestFine"}
{"Action":"output","Package":"p","Test":"TestFine","Output":"=== RUN   TestFine\n"}
{"Action":"run","Package":"p","Test":"TestFine/part"}
{"Action":"fail","Package":"p","Test":"TestFine/part"}
{"Action":"pass","Package":"p","Test":"TestFine"}
{"Action":"run","Package":"p","Test":"TestAbsent"}
{"Action":"output","Package":"p","Test":"TestAbsent","Output":"    a_test.go:1: there is none\n"}
{"Action":"output","Package":"p","Test":"TestAbsent","Output":"--- SKIP: TestAbsent (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestAbsent"}
`
	for more, failed := range map[string][]string{
		`{"Action":"pass","Package":"p"}`: {},
		`{"Action":"fail","Package":"p"}`: {"what all stories share"},
		`{"Action":"run","Package":"p","Test":"TestWrong"}{"Action":"fail","Package":"p","Test":"TestWrong"}{"Action":"fail","Package":"p"}`: {"TestWrong"},
		`{"Action":"run","Package":"p","Test":"TestDeadly"}{"Action":"fail","Package":"p"}`:                                                  {"TestDeadly"},
	} {
		var r result
		require.NoError(t, r.take(strings.NewReader(events+more)))
		require.Equal(t, []string{"TestFine"}, r.Passed)
		require.Equal(t, failed, r.Failed)
		require.Equal(t, map[string]string{"TestAbsent": "there is none"}, r.LeftOut)
	}
	var r result
	require.Error(t, r.take(strings.NewReader(`{"Action":"pass","Package":"p"}`)), "no story was run")
}

func TestAResultIsReplacedByItsServersNext(t *testing.T) {
	var all results
	for _, server := range []string{"Vault 1.21.4", "OpenBao 2.4.0", "Vault 1.9.10", "Vault 1.19.5"} {
		all = all.with(result{Server: server, Date: "before"})
	}
	all = all.with(result{Server: "Vault 1.9.10", Date: "now", Failed: []string{"TestPathHelp"}})
	require.Equal(t, []string{"OpenBao 2.4.0 before", "Vault 1.9.10 now", "Vault 1.19.5 before", "Vault 1.21.4 before"},
		slices.Collect(func(yield func(string) bool) {
			for _, r := range all {
				yield(r.Server + " " + r.Date)
			}
		}))
	require.Contains(t, all.runs(), "| Vault 1.9.10 | now |  | 0 | **TestPathHelp** | none | 0:00 min |")
	require.Contains(t, all.answers(), "`TestPathHelp` `TestMetricsByHTTP` | not run | **no** | not run | not run |")
}
