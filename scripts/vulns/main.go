// Command vulns fails if the plugin or tokenbroker calls code with a known vulnerability. It asks
// govulncheck, with the Go vulnerability database that bootstrap/vulndb pins as a module:
// so the answer changes with a commit only, and nothing is needed but a module proxy.
//
//	go run ./scripts/vulns           # what make test does
//	go run ./scripts/vulns -latest   # says what a newer database would add
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/version"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const database = "golang.org/x/vulndb"

// shipped is what users get, by the folder of its module; what only the tests run is no
// danger to them.
var shipped = map[string]string{".": "./cmd/...", filepath.Join("cmd", "tokenbroker"): "."}

func main() {
	latest := flag.Bool("latest", false, "say what the newest database would add, and fail for none of it")
	flag.Parse()
	if err := run(*latest); err != nil {
		fmt.Fprintln(os.Stderr, "vulns:", err)
		os.Exit(1)
	}
}

func run(latest bool) error {
	pinned, err := obtain(filepath.Join("bootstrap", "vulndb"), "")
	if err != nil {
		return err
	}
	found, err := scan(pinned)
	if err != nil {
		return err
	}
	if latest {
		return compare(pinned, found)
	}
	named, err := toolchain()
	if err != nil {
		return err
	}
	failures, warnings := judge(found, named)
	for _, w := range warnings {
		fmt.Println("vulns: WARNING:", w)
	}
	if len(failures) > 0 {
		return fmt.Errorf("what is shipped calls what is known to be vulnerable:\n%s", strings.Join(failures, "\n"))
	}
	beside := ""
	if len(warnings) > 0 {
		beside = " beside what this Go itself brings"
	}
	fmt.Printf("vulns: nothing known to be vulnerable is called%s, %s %s\n", beside, database, pinned.Version)
	return nil
}

// compare says what the newest database knows beyond the pinned one.
func compare(pinned *module, found map[string]vulnerability) error {
	newest, err := obtain(".", "latest")
	if err != nil {
		return err
	}
	fmt.Printf("vulns: pinned is %s, the newest is %s\n", pinned.Version, newest.Version)
	now := found
	if newest.Version != pinned.Version {
		if now, err = scan(newest); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		news := ""
		if _, known := found[id]; !known {
			news = "NEW: "
		}
		fmt.Println(news + now[id].String())
	}
	if newest.Version != pinned.Version {
		fmt.Printf("To pin it: cd bootstrap/vulndb && go get %s@%s\n", database, newest.Version)
	}
	return nil
}

// module is what go mod download says of one.
type module struct{ Version, Dir, Error string }

// obtain downloads the database: the version that the go.mod in dir pins and its go.sum
// checks, or another.
func obtain(dir, other string) (*module, error) {
	what := database
	if other != "" {
		what += "@" + other
	}
	cmd := exec.Command("go", "mod", "download", "-json", what)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	m := &module{}
	if jsonErr := json.Unmarshal(out, m); jsonErr != nil {
		return nil, fmt.Errorf("%s: %w", database, errors.Join(err, jsonErr))
	}
	if err != nil || m.Dir == "" {
		return nil, fmt.Errorf("%s: %s", database, m.Error)
	}
	return m, nil
}

// toolchain is the Go version that go.mod names.
func toolchain() (string, error) {
	out, err := exec.Command("go", "mod", "edit", "-json").Output()
	if err != nil {
		return "", fmt.Errorf("go mod edit: %w", err)
	}
	var mod struct{ Go, Toolchain string }
	if err := json.Unmarshal(out, &mod); err != nil {
		return "", err
	}
	if mod.Toolchain != "" {
		return mod.Toolchain, nil
	}
	return "go" + mod.Go, nil
}

// vulnerability is one that is called.
type vulnerability struct {
	ID, Module, Found, Fixed, Summary, By string
}

func (v vulnerability) String() string {
	mended := "nothing mends it yet"
	if v.Fixed != "" {
		mended = "mended in " + v.Fixed
	}
	return fmt.Sprintf("%s: %s %s, %s: %s (called by %s)", v.ID, v.Module, v.Found, mended, v.Summary, v.By)
}

// scan returns what is called, by id and module.
func scan(db *module) (map[string]vulnerability, error) {
	found := map[string]vulnerability{}
	program, err := filepath.Abs(filepath.Join("bin", "govulncheck"))
	if err != nil {
		return nil, err
	}
	for _, dir := range slices.Sorted(maps.Keys(shipped)) {
		cmd := exec.Command(program, "-db=file://"+filepath.Join(db.Dir, "data", "osv"), "-format=json", shipped[dir])
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("govulncheck in %s: %w", dir, err)
		}
		called, err := parse(bytes.NewReader(out))
		if err != nil {
			return nil, err
		}
		maps.Copy(found, called)
	}
	return found, nil
}

// message is one of those that govulncheck writes one after the other.
type message struct {
	Config *struct {
		ScanLevel string `json:"scan_level"`
	} `json:"config"`
	OSV *struct {
		ID      string `json:"id"`
		Summary string `json:"summary"`
	} `json:"osv"`
	Finding *struct {
		OSV          string  `json:"osv"`
		FixedVersion string  `json:"fixed_version"`
		Trace        []frame `json:"trace"`
	} `json:"finding"`
}

// frame is a step on the way to what is vulnerable, which comes first. Without a
// function it says no more than that the package or module is there.
type frame struct {
	Module   string `json:"module"`
	Version  string `json:"version"`
	Package  string `json:"package"`
	Function string `json:"function"`
}

func parse(r io.Reader) (map[string]vulnerability, error) {
	found, summaries, scanned := map[string]vulnerability{}, map[string]string{}, false
	dec := json.NewDecoder(r)
	for {
		var m message
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("govulncheck's answer: %w", err)
		}
		switch {
		case m.Config != nil:
			scanned = m.Config.ScanLevel == "symbol"
		case m.OSV != nil:
			summaries[m.OSV.ID] = m.OSV.Summary
		case m.Finding != nil && len(m.Finding.Trace) > 0 && m.Finding.Trace[0].Function != "":
			f, first, last := m.Finding, m.Finding.Trace[0], m.Finding.Trace[len(m.Finding.Trace)-1]
			found[f.OSV+" "+first.Module] = vulnerability{
				ID: f.OSV, Module: first.Module, Found: first.Version, Fixed: f.FixedVersion,
				Summary: summaries[f.OSV], By: last.Package + "." + last.Function,
			}
		}
	}
	if !scanned {
		return nil, errors.New("govulncheck has not looked at what is called")
	}
	return found, nil
}

// judge fails for everything but what is in the standard library of an older Go than
// go.mod names: who builds with that has chosen it (GOTOOLCHAIN=local), and no commit
// can mend it.
func judge(found map[string]vulnerability, named string) (failures, warnings []string) {
	for _, key := range slices.Sorted(maps.Keys(found)) {
		v := found[key]
		fixed := "go" + strings.TrimPrefix(v.Fixed, "v")
		if v.Module == "stdlib" && v.Fixed != "" && version.Compare(fixed, named) <= 0 {
			warnings = append(warnings, v.String())
			continue
		}
		failures = append(failures, v.String())
	}
	if len(warnings) > 0 {
		warnings = append(warnings, fmt.Sprintf("this Go is older than %s, which go.mod names: a release must not be built with it", named))
	}
	return failures, warnings
}
