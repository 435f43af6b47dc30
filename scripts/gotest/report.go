package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// keepOwn and keepLog are how much of a test's output is kept while it runs: its
	// own lines, half from the beginning and half from the end, and its servers' last.
	keepOwn = 400
	keepLog = 200
	// lastLines of the test that failed first are repeated at the end.
	lastLines = 40
)

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action  string
	Package string
	// ImportPath is there instead of Package for what the compiler says.
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// key names a test, or, without a test, its package.
type key struct{ pkg, test string }

func (k key) String() string {
	if k.test == "" {
		return k.pkg
	}
	return k.test + " in " + k.pkg
}

// kept is what a test, or a package outside of its tests, has said.
type kept struct {
	own, log lines
	took     time.Duration
	waits    bool // for its turn, before it has begun
}

// report reads events and prints what matters of them.
type report struct {
	out     io.Writer
	passed  bool
	running map[key]*kept
	builds  map[string]*kept // by import path
	order   []key            // what failed, in that order
	failure map[key]*kept
	skips   map[string]int // by reason
}

func newReport(out io.Writer, passed bool) *report {
	return &report{
		out: out, passed: passed,
		running: map[key]*kept{}, builds: map[string]*kept{}, failure: map[key]*kept{}, skips: map[string]int{},
	}
}

func (r *report) failed() bool { return len(r.order) > 0 }

// line takes one line of go test's output.
func (r *report) line(raw []byte) {
	var e event
	if err := json.Unmarshal(raw, &e); err != nil || e.Action == "" {
		fmt.Fprint(r.out, string(raw)) // not test2json's
		return
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
		if r.builds[e.ImportPath] == nil {
			r.builds[e.ImportPath] = &kept{}
		}
		r.builds[e.ImportPath].own.add(e.Output, keepOwn)
	case "run", "cont":
		r.of(k).waits = false
	case "pause":
		r.of(k).waits = true
	case "output":
		r.output(k, e.Output)
	case "pass":
		r.pass(k, e.Elapsed)
	case "skip":
		r.skip(k)
	case "fail":
		r.fail(k, e)
	}
}

// frame are the lines that go test itself puts around a test's, and closing those that
// tell how a package ended: these are for whoever, or whatever, reads the output.
var (
	frame   = regexp.MustCompile(`^\s*(=== (RUN|PAUSE|CONT|NAME) |--- (PASS|FAIL|SKIP|BENCH): |(PASS|FAIL|exit status \d+)$)`)
	closing = regexp.MustCompile(`^(ok  |FAIL|\?   )\t`)
	// fromServer is how bootstrap/harness marks the lines of a server's log.
	fromServer = regexp.MustCompile(`^\s*(\S+\.go:\d+: )?[a-z][a-z0-9-]* \| `)
)

func (r *report) output(k key, text string) {
	switch line := strings.TrimRight(text, "\n"); {
	case k.test == "" && closing.MatchString(line):
		fmt.Fprint(r.out, text)
	case frame.MatchString(line):
	case fromServer.MatchString(line):
		r.of(k).log.add(text, keepLog)
	default:
		r.of(k).own.add(text, keepOwn)
	}
}

func (r *report) of(k key) *kept {
	if r.running[k] == nil {
		r.running[k] = &kept{}
	}
	return r.running[k]
}

func (r *report) pass(k key, seconds float64) {
	if r.passed && k.test != "" {
		if !strings.Contains(k.test, "/") {
			fmt.Fprintf(r.out, "--- PASS: %s (%.2fs)\n", k.test, seconds)
		}
		r.of(k).own.print(r.out)
	}
	delete(r.running, k)
}

// location is where in the code a line was logged.
var location = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

func (r *report) skip(k key) {
	if k.test != "" {
		reason := "without a reason"
		if said := r.of(k).own.all(); len(said) > 0 {
			reason = strings.TrimSpace(location.ReplaceAllString(said[len(said)-1], ""))
		}
		r.skips[reason]++
	}
	delete(r.running, k)
}

// fail notes a failure and says it at once, with its last lines. A test whose part has failed, and a package
// with a failed test, have failed for that alone.
func (r *report) fail(k key, e event) {
	f := r.of(k)
	f.took = time.Duration(e.Elapsed * float64(time.Second))
	delete(r.running, k)
	if b := r.builds[e.FailedBuild]; b != nil {
		f.own = b.own
	}
	if k.test == "" {
		r.abandoned(k.pkg)
	}
	caused := func(other key) bool {
		return other.pkg == k.pkg && (k.test == "" || strings.HasPrefix(other.test, k.test+"/"))
	}
	if slices.ContainsFunc(r.order, caused) && f.own.empty() && f.log.empty() {
		return
	}
	r.order = append(r.order, k)
	r.failure[k] = f
	fmt.Fprintf(r.out, "--- FAIL: %s (%.2fs)\n%s", k, e.Elapsed, strings.Join(f.own.essence(lastLines), ""))
}

// abandoned notes the tests that were under way when their package's process ended. To one
// of them go test has given what the process said at last, such as a panic: that one is
// first.
func (r *report) abandoned(pkg string) {
	var all []key
	for k := range r.running {
		if k.pkg == pkg && k.test != "" && !r.running[k].waits {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b key) int {
		if a, b := r.running[a].own.panicked(), r.running[b].own.panicked(); a != b {
			return map[bool]int{true: -1, false: 1}[a]
		}
		return strings.Compare(a.test, b.test)
	})
	for _, k := range all {
		f := r.running[k]
		f.own.add("it did not end\n", keepOwn)
		r.order, r.failure[k] = append(r.order, k), f
		delete(r.running, k)
		fmt.Fprintf(r.out, "--- FAIL: %s (it did not end)\n", k)
	}
}

// end prints what failed, the first last.
func (r *report) end() {
	for _, reason := range slices.Sorted(maps.Keys(r.skips)) {
		fmt.Fprintf(r.out, "skipped: %d, %s\n", r.skips[reason], reason)
	}
	if !r.failed() {
		return
	}
	first := r.order[0]
	ending := r.failure[first].own.essence(lastLines)
	for _, k := range slices.Backward(r.order) {
		f := r.failure[k]
		fmt.Fprintf(r.out, "\n=== %s (%.2fs)\n", k, f.took.Seconds())
		f.log.print(r.out)
		f.own.print(r.out)
	}
	fmt.Fprintf(r.out, "\nFailed:\n")
	for _, k := range r.order {
		fmt.Fprintf(r.out, "  %s\n", k)
	}
	fmt.Fprintf(r.out, "\nThe first of them, %s, said last:\n%s", first, strings.Join(ending, ""))
	fmt.Fprintf(r.out, "FAILED FIRST: %s%s\n", first, alone(first))
}

// alone is how to run a test by itself.
func alone(k key) string {
	if k.test == "" {
		return ""
	}
	parts := strings.Split(k.test, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return fmt.Sprintf("\nAlone: go test -count=1 -run '%s' %s", strings.Join(parts, "/"), k.pkg)
}

// lines keeps the beginning and the end of many.
type lines struct {
	head, tail []string
	dropped    int
}

// add keeps up to so many: half from the beginning, the rest from the end.
func (l *lines) add(text string, most int) {
	if len(l.head) < most/2 && l.dropped == 0 && len(l.tail) == 0 {
		l.head = append(l.head, text)
		return
	}
	l.tail = append(l.tail, text)
	if len(l.tail) > most-most/2 {
		l.tail = l.tail[1:]
		l.dropped++
	}
}

func (l *lines) empty() bool { return len(l.head) == 0 }

// isPanic knows also the race detector's words, which come first as well.
func isPanic(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "WARNING: DATA RACE")
}

func (l *lines) panicked() bool {
	return slices.ContainsFunc(l.head, isPanic) || slices.ContainsFunc(l.tail, isPanic)
}

// all are those that are kept, with a word about the others.
func (l *lines) all() []string {
	all := slices.Clone(l.head)
	if l.dropped > 0 {
		all = append(all, fmt.Sprintf("    … %d lines are left out …\n", l.dropped))
	}
	return append(all, l.tail...)
}

func (l *lines) print(out io.Writer) {
	for _, line := range l.all() {
		fmt.Fprint(out, line)
	}
}

// essence is up to so many lines that tell best what went wrong: after a panic, and
// of a compiler, the first, and the last of everything else.
func (l *lines) essence(most int) []string {
	all := l.all()
	at := slices.IndexFunc(all, isPanic)
	if at < 0 && len(all) > 0 && strings.HasPrefix(all[0], "# ") {
		at = 0
	}
	if at >= 0 {
		return all[at:min(len(all), at+most)]
	}
	return all[max(0, len(all)-most):]
}
