// Command gotest runs go test and says first what matters: while it runs, the closing
// line of each package, as go test prints it, and what fails with its last lines; at the
// end, if something failed, all that the failed tests said, and as the very last thing
// the name of the one that failed first with its last lines.
//
//	go run ./scripts/gotest [-passed] [-events file] -- -race ./...
//
// What passed is quiet, but for its package's line; with -passed each test has a line,
// below which stands what it logged. Tests that were skipped are counted by their
// reason. With -events all that go test -json says is kept in a file, for programs. The
// lines of servers' logs, which bootstrap/harness marks with the server's
// name, are shown for tests that failed and for no others, at most two hundred for each.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	passed := flag.Bool("passed", false, "a line for each test that passed, and what it logged")
	events := flag.String("events", "", "a file for what go test -json says")
	flag.Parse()
	keep := io.Discard
	if *events != "" {
		file, err := os.Create(*events)
		if err != nil {
			fmt.Fprintln(os.Stderr, "gotest:", err)
			os.Exit(1)
		}
		keep = file
	}
	os.Exit(run(os.Stdout, keep, "", *passed, flag.Args()))
}

// run is go test in dir with those arguments; it returns the exit status. Its events go to keep.
func run(out, keep io.Writer, dir string, passed bool, args []string) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	events, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		return 1
	}
	// Whoever interrupts it wants to see what has failed so far: go test ends, and so
	// does this.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	go func() {
		for s := range interrupted {
			_ = cmd.Process.Signal(s)
		}
	}()
	r := newReport(out, passed)
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
			_, _ = keep.Write(line)
		}
		if err != nil {
			break
		}
	}
	failed := cmd.Wait() != nil
	r.end()
	if failed || r.failed() {
		return 1
	}
	return 0
}
