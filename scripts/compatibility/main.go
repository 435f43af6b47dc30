// Command compatibility runs the acceptance stories with the built plugin in one server
// after another, and writes down what came of it: every story in docs/compatibility.json,
// from which the tables of docs/compatibility.md are made. Nobody writes a result by hand.
//
//	go run ./scripts/compatibility bin/vault-1.19 bin/vault   # servers, each of some version
//	go run ./scripts/compatibility -run Lease /opt/bao        # some stories, written down nowhere
//
// A server's earlier result is replaced, those of others stay.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	record = "docs/compatibility.json"
	page   = "docs/compatibility.md"
)

func main() {
	only := flag.String("run", "", "run only these stories, and write nothing down")
	flag.Parse()
	if err := run(*only, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "compatibility:", err)
		os.Exit(1)
	}
}

// run fails if a story did. What came out is written down all the same.
func run(only string, servers []string) error {
	if len(servers) == 0 {
		return errors.New("say which servers: paths of vault, or of what takes its place")
	}
	results, err := read(record)
	if err != nil {
		return err
	}
	var failed error
	for _, server := range servers {
		r, err := try(server, only)
		if err != nil {
			return errors.Join(failed, fmt.Errorf("%s: %w", server, err))
		}
		fmt.Printf("compatibility: %s: %d stories passed, %d failed, %d left out, %d s\n", r.Server, len(r.Passed), len(r.Failed), len(r.LeftOut), r.Seconds)
		if len(r.Failed) > 0 {
			failed = errors.Join(failed, fmt.Errorf("%s: %s", r.Server, strings.Join(r.Failed, ", ")))
		}
		if only != "" {
			continue
		}
		results = results.with(r)
		if err := errors.Join(results.write(record), rewrite(page, results)); err != nil {
			return err
		}
	}
	return failed
}

// try runs the stories in one server.
func try(server, only string) (result, error) {
	server, err := filepath.Abs(server)
	if err != nil {
		return result{}, err
	}
	name, err := nameOf(server)
	if err != nil {
		return result{}, err
	}
	plugin, err := commit()
	if err != nil {
		return result{}, err
	}
	fmt.Printf("compatibility: %s\n", name)
	dir, err := os.MkdirTemp("", "compatibility-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	said := filepath.Join(dir, "events")
	started := time.Now()
	stories := exec.Command("go", "run", "./scripts/gotest", "-events", said, "--", "-count=1", "-timeout", "30m", "-run", only, "./backend/acceptance")
	stories.Env = append(os.Environ(), "VAULT="+server)
	stories.Stdout, stories.Stderr = os.Stdout, os.Stderr
	failure := stories.Run() // the events say of what
	events, err := os.Open(said)
	if err != nil {
		return result{}, errors.Join(failure, err)
	}
	defer events.Close()
	r := result{
		Server: name, Date: started.UTC().Format(time.DateOnly), Plugin: plugin,
		Seconds: int(time.Since(started).Seconds()),
	}
	if err := r.take(events); err != nil {
		return result{}, errors.Join(failure, err)
	}
	if failure != nil && len(r.Failed) == 0 {
		return result{}, fmt.Errorf("no story has failed, but: %w", failure)
	}
	return r, nil
}

var versionLine = regexp.MustCompile(`^(\S+) v?([0-9]\S*?),?( |$)`)

// nameOf is what a server calls itself, such as "Vault 1.19.5".
func nameOf(server string) (string, error) {
	said, err := exec.Command(server, "version").Output()
	if err != nil {
		return "", err
	}
	found := versionLine.FindSubmatch(bytes.TrimSpace(said))
	if found == nil {
		return "", fmt.Errorf("what version is %q?", said)
	}
	return string(found[1]) + " " + string(found[2]), nil
}

// commit names what the plugin is built of. What the program itself writes is no change.
func commit() (string, error) {
	head, err := exec.Command("git", "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("git: %w", err)
	}
	changed, err := exec.Command("git", "status", "--porcelain", "--", ".", ":!"+record, ":!"+page).Output()
	if err != nil {
		return "", fmt.Errorf("git: %w", err)
	}
	name := strings.TrimSpace(string(head))
	if len(changed) > 0 {
		name += ", changed"
	}
	return name, nil
}

// rewrite puts the tables into the page, each between two comments with its name.
func rewrite(page string, all results) error {
	content, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	text := string(content)
	for name, table := range all.tables() {
		begin, end := "<!-- "+name+": make compatibility -->\n", "<!-- end -->"
		before, rest, found := strings.Cut(text, begin)
		_, after, ended := strings.Cut(rest, end)
		if !found || !ended {
			return fmt.Errorf("%s has no %q with %q after it", page, strings.TrimSpace(begin), end)
		}
		text = before + begin + "\n" + table + "\n" + end + after
	}
	return os.WriteFile(page, []byte(text), 0o644)
}

func read(file string) (results, error) {
	content, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return parse(content)
}

func (all results) write(file string) error {
	var content bytes.Buffer
	if err := all.encode(&content); err != nil {
		return err
	}
	return os.WriteFile(file, content.Bytes(), 0o644)
}
