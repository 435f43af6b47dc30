package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// Whoever edits a result in the page, or a table by hand, or takes another Vault for the
// tests without having tried it, fails here.
func TestThePageSaysWhatWasRun(t *testing.T) {
	all, err := read(filepath.Join(root, record))
	require.NoError(t, err)
	written, err := os.ReadFile(filepath.Join(root, page))
	require.NoError(t, err)
	copied := filepath.Join(t.TempDir(), "page.md")
	require.NoError(t, os.WriteFile(copied, written, 0o600))
	require.NoError(t, rewrite(copied, all))
	made, err := os.ReadFile(copied)
	require.NoError(t, err)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(filepath.Join(root, page), made, 0o600))
		return
	}
	require.Equal(t, string(made), string(written), "%s is not what %s says: UPDATE_GOLDEN=1 go test ./scripts/compatibility", page, record)

	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.Server
		require.Empty(t, r.Failed, "%s: what differs belongs into the plugin or into the page", r.Server)
		require.NotContains(t, r.Plugin, "changed", "%s was run with what is in no commit", r.Server)
	}
	modules, err := filepath.Glob(filepath.Join(root, "bootstrap", "vault", "*", "go.mod"))
	require.NoError(t, err)
	for _, file := range append(modules, filepath.Join(root, "bootstrap", "vault", "go.mod")) {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		version := regexp.MustCompile(`github.com/hashicorp/vault v(\S+)`).FindSubmatch(content)
		require.NotNil(t, version, file)
		require.Contains(t, names, "Vault "+string(version[1]), "%s: run make compatibility", file)
	}
}

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
