package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAModuleIsCopiedWithOtherImports(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	write(t, filepath.Join(from, "a", "a.go"), `package a

import (
	"fmt"
	"example.com/sdk/v2" // of a vendor
	named "example.com/other"
	_ "example.com/kept"
)

const text = "example.com/sdk/v2"
`)
	write(t, filepath.Join(from, "a", "a_test.go"), "package a")
	write(t, filepath.Join(from, "b.go"), "package b\n\nimport \"example.com/sdk/v2\"\n")
	write(t, filepath.Join(from, "ui", "c.go"), "not Go at all: example.com/other")
	m := patchedModule{
		Skip: []string{"ui"},
		Instead: map[string]string{
			"example.com/sdk/v2": "example.com/own/stub", "example.com/other": "example.com/own/stub",
		},
	}
	if err := m.fill(from, to); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"a/a.go": `package a

import (
	"fmt"
	sdk "example.com/own/stub" // of a vendor
	named "example.com/own/stub"
	_ "example.com/kept"
)

const text = "example.com/sdk/v2"
`,
		"b.go": "package b\n\nimport sdk \"example.com/own/stub\"\n",
	} {
		if got, err := os.ReadFile(filepath.Join(to, file)); err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s", file, err, got)
		}
	}
	for _, file := range []string{"a/a_test.go", "ui/c.go"} {
		if _, err := os.Stat(filepath.Join(to, file)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", file, err)
		}
	}

	m.Instead["example.com/gone"] = "example.com/own/stub"
	if err := m.fill(from, t.TempDir()); err == nil || !strings.Contains(err.Error(), "example.com/gone") {
		t.Errorf("nobody imports it, but: %v", err)
	}
}
