package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Patience bounds what should happen at once. It is reached only by what never
// happens: a machine may have ten times as much to do as it has processors.
const Patience = 3 * time.Minute

const (
	stopTimeout = 30 * time.Second
	pollEvery   = 50 * time.Millisecond
	// tailBytes is what is read of a log's end, and tailLines what is shown of that. Three
	// servers together show less than two hundred.
	tailBytes = 32 << 10
	tailLines = 60
	// briefLines is what an error message says of the log.
	briefLines = 15
)

// server is a process of ours with its log.
type server struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// start runs a program until the end of the test. Its output is appended to a log
// file in dir, and shown if the test fails.
func start(t TB, name, dir, program string, args ...string) *server {
	t.Helper()
	s := &server{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer log.Close()
	s.cmd = exec.Command(program, args...)
	s.cmd.Dir = dir
	// The user's own VAULT_TOKEN, HTTP_PROXY and home directory have no say here.
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + shortTempDir(t)}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = processAttributes()

	started := make(chan error)
	go s.supervise(started)
	if err := <-started; err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() {
		s.kill() // what it would still tidy up goes with its directories
		if t.Failed() {
			t.Logf("%s", s.marked())
		}
	})
	return s
}

// shortTempDir is for plugins' sockets, whose paths must be shorter than those that
// a test's name leads to.
func shortTempDir(t TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tb-")
	if err != nil {
		t.Fatalf("temporary directory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// finish waits for a program that ends by itself, and must succeed.
func (s *server) finish(t TB) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(Patience):
		t.Fatalf("%s: not done within %s\n%s", s.name, Patience, s.tail(briefLines))
	}
	if s.err != nil {
		t.Fatalf("%s: %v\n%s", s.name, s.err, s.tail(briefLines))
	}
}

func (s *server) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// stop asks politely first. It returns when the process is gone.
func (s *server) stop() {
	s.signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		s.kill()
	}
}

// kill ends the process and its children, which is what a lost machine does.
func (s *server) kill() {
	s.signal(syscall.SIGKILL)
	<-s.done
}

func (s *server) signal(sig syscall.Signal) {
	if !s.alive() {
		return
	}
	if sig == syscall.SIGKILL {
		// The group: Vault has no time left to end its plugins.
		_ = syscall.Kill(-s.cmd.Process.Pid, sig)
		return
	}
	_ = s.cmd.Process.Signal(sig)
}

// await polls until ready has no more objection, and fails the test when the
// process dies or the time is up.
func (s *server) await(t TB, what string, ready func(context.Context) error) {
	t.Helper()
	if err := poll(Patience, s.done, ready); err != nil {
		if !s.alive() {
			err = fmt.Errorf("it ended: %w", errors.Join(s.err, err))
		}
		t.Fatalf("%s: waiting until %s: %v\n%s", s.name, what, err, s.tail(briefLines))
	}
}

// marked is the end of the log, each line with the server's name before it: whoever
// reads, or sorts, the output of a test sees which lines are the test's own.
func (s *server) marked() string {
	mark := s.name + " | "
	return mark + strings.ReplaceAll(s.tail(tailLines), "\n", "\n"+mark)
}

// tail is up to so many lines of the log's end.
func (s *server) tail(lines int) string {
	file, err := os.Open(s.log)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > tailBytes {
		_, _ = file.Seek(-tailBytes, io.SeekEnd)
	}
	end, _ := io.ReadAll(file)
	all := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(end, []byte("?")))), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Eventually polls until ready has no more objection, and fails the test with the
// last one when the time is up.
func Eventually(t TB, timeout time.Duration, what string, ready func() error) {
	t.Helper()
	if err := poll(timeout, nil, func(context.Context) error { return ready() }); err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

func poll(timeout time.Duration, abort <-chan struct{}, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-abort:
			return err
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", timeout, err)
		case <-time.After(pollEvery):
		}
	}
}

// answersOK is ready when a GET on url is answered with 200.
func answersOK(url string) func(context.Context) error { return answersOKTo(httpClient, url) }

func answersOKTo(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

var handedOut = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// freePort names a loopback port that nobody listens on. It stays below the range
// from which systems pick ports for outgoing connections, so that none of these
// takes it before the server does.
func freePort(t TB) int {
	t.Helper()
	handedOut.Lock()
	defer handedOut.Unlock()
	for range 1000 {
		port := 10240 + rand.IntN(20000)
		if handedOut.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", address(port))
		if err != nil {
			continue
		}
		_ = listener.Close()
		handedOut.ports[port] = true
		return port
	}
	t.Fatalf("no free port on 127.0.0.1")
	return 0
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// executable finds a program that make has put into bin/, or that the
// environment names.
func executable(t TB, variable, name, target string) string {
	t.Helper()
	path := os.Getenv(variable)
	if variable == "" || path == "" {
		path = filepath.Join(repository(t), "bin", name)
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err == nil {
		resolved, err = filepath.Abs(resolved)
	}
	if err != nil {
		t.Fatalf("%s is missing, run `make %s`: %v", name, target, err)
	}
	return resolved
}

func repository(t TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("%v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatalf("run it inside the repository")
		}
		dir = parent
	}
}
