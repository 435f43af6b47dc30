package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const progressEvery = 10 * time.Second

// lock serialises builds of one program on this machine. While somebody else holds
// it, waiting is told now and then for how long. The kernel frees it with the process.
func lock(path string, waiting func(time.Duration)) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	var told time.Time
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Since(told) >= progressEvery {
			told = time.Now()
			waiting(told.Sub(started))
		}
		time.Sleep(time.Second / 2)
	}
}

func goCommand(name, dir string, cgo bool, args ...string) error {
	return goCommandTo("", name, dir, cgo, args...)
}

// goCommandTo runs the go command. Standard output goes to the named file, if any.
func goCommandTo(stdout, name, dir string, cgo bool, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	// What a user has set for other work must not bend these pinned builds.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if stdout != "" {
		file, err := os.Create(stdout)
		if err != nil {
			return err
		}
		defer file.Close()
		cmd.Stdout = file
	}
	return withProgress(name, cmd)
}

// withProgress runs a command and says every few seconds what it is at.
func withProgress(name string, cmd *exec.Cmd) error {
	output := &lastLines{}
	cmd.Stderr = output
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				output.dump(os.Stderr)
				return fmt.Errorf("%s: %w", strings.Join(cmd.Args[:2], " "), err)
			}
			return nil
		case <-ticker.C:
			count, last := output.state()
			fmt.Printf("%s: %3.0f s, %d steps, now %s\n", name, time.Since(started).Seconds(), count, last)
		}
	}
}

// lastLines keeps the end of a long output.
type lastLines struct {
	mu    sync.Mutex
	rest  []byte
	lines [][]byte
	count int
}

const linesKept = 40

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.rest = rest
		l.count++
		l.lines = append(l.lines, bytes.Clone(line))
		if len(l.lines) > linesKept {
			l.lines = l.lines[1:]
		}
	}
}

func (l *lastLines) state() (count int, last string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		return 0, "starting"
	}
	return l.count, string(l.lines[len(l.lines)-1])
}

func (l *lastLines) dump(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range append(l.lines, l.rest) {
		fmt.Fprintf(w, "%s\n", line)
	}
}
