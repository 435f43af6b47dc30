package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lock serialises builds of one program on this machine. While somebody else holds
// it, waiting is called now and then. The kernel frees it with the process.
func lock(path string, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		waiting()
		time.Sleep(time.Second / 2)
	}
}

// goCommand is the go command, in the environment in which all pinned builds run:
// what a user has set for other work must not bend them.
func goCommand(dir string, cgo bool, args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	return cmd
}

// execute runs a command. If it fails, what it said goes into the error.
func execute(cmd *exec.Cmd, report *progress) error {
	cmd.Stderr = report
	if err := cmd.Run(); err != nil {
		said := report.said()
		return explained(fmt.Errorf("%s\n%s: %w", said, strings.Join(cmd.Args[:2], " "), err), said)
	}
	return nil
}

// outputOf runs a command for what it prints.
func outputOf(cmd *exec.Cmd, report *progress) ([]byte, error) {
	var printed bytes.Buffer
	cmd.Stdout = &printed
	err := execute(cmd, report)
	return printed.Bytes(), err
}

// toCompile downloads what a build needs, and returns the size of each package that
// it has to compile because the cache does not have it.
func toCompile(list *exec.Cmd, report *progress) (map[string]float64, error) {
	report.doing("looking for what is to be compiled")
	answer, err := outputOf(list, report)
	if err != nil {
		return nil, err
	}
	sizes := map[string]float64{}
	for decoder := json.NewDecoder(bytes.NewReader(answer)); ; {
		var found struct {
			ImportPath, Dir   string
			GoFiles, CgoFiles []string
			Stale             bool
		}
		if err := decoder.Decode(&found); errors.Is(err, io.EOF) {
			return sizes, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if !found.Stale {
			continue
		}
		var size int64
		for _, name := range append(found.GoFiles, found.CgoFiles...) {
			if info, err := os.Stat(filepath.Join(found.Dir, name)); err == nil {
				size += info.Size()
			}
		}
		sizes[found.ImportPath] = float64(size)
	}
}

func anyStandard(sizes map[string]float64) bool {
	for imported := range sizes {
		if isStandard(imported) {
			return true
		}
	}
	return false
}
