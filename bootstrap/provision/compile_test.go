package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// a diary is where programs write what they do, in the order in which they do it.
type diary struct{ path string }

// notes is a program that runs script, in which note writes into the diary.
func (d diary) notes(script string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", `note() { echo "$1" >> "$DIARY"; }; until_noted() { until grep -q "$1" "$DIARY"; do sleep 0.01; done; }; `+script)
	cmd.Env = append(os.Environ(), "DIARY="+d.path)
	return cmd
}

func (d diary) read(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(d.path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(content))
}

func TestTheStandardLibraryIsCompiledOnce(t *testing.T) {
	d := diary{filepath.Join(t.TempDir(), "diary")}
	m := &maker{board: newBoard(io.Discard), slots: make(chan struct{}, 2)}
	const lists = `echo '{"ImportPath":"fmt","Stale":true}{"ImportPath":"os","Stale":false}'; note %s`
	job := func(name, build string) func() error {
		return func() error {
			return m.compile(func() *exec.Cmd { return d.notes(fmt.Sprintf(lists, name+"-lists")) }, d.notes(build), m.board.add(name, 0))
		}
	}
	err := together([]func() error{
		job("first", "note first-builds; until_noted second-lists; note fmt-compiled; echo fmt >&2; until_noted second-builds"),
		func() error { // it comes when the first is at it
			if err := d.notes("until_noted first-builds").Run(); err != nil {
				return err
			}
			return job("second", "note second-builds")()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	// It asks again what is left to compile, and builds beside the first.
	want := []string{"first-lists", "first-lists", "first-builds", "second-lists", "fmt-compiled", "second-lists", "second-builds"}
	if got := d.read(t); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestABuildThatFailsHoldsUpNobody(t *testing.T) {
	d := diary{filepath.Join(t.TempDir(), "diary")}
	m := &maker{board: newBoard(io.Discard), slots: make(chan struct{}, 1)}
	for _, script := range []string{"exit 1", `echo '{"ImportPath":"fmt","Stale":true}'`} {
		for range 2 {
			report := m.board.add("x", 0)
			err := m.compile(func() *exec.Cmd { return d.notes(script) }, d.notes("echo broken >&2; exit 1"), report)
			report.end()
			if err == nil {
				t.Fatalf("%q: %v", script, err)
			}
		}
	}
}
