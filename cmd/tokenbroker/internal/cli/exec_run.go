package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/lease"
)

// start runs the command to its end.
func (e *execution) start() error {
	write, err := e.feed()
	if err != nil {
		return err
	}
	if err := e.command.Start(); err != nil {
		e.app.say("%s cannot be started: %s", e.command.Args[0], pathless(err))
		return silent(126)
	}
	write()
	ctx, cancel := context.WithCancel(context.Background())
	var keepers sync.WaitGroup
	for i := range e.leases {
		keepers.Go(func() { e.keep(ctx, i) })
	}
	done := make(chan error, 1)
	go func() { done <- e.command.Wait() }()
	err = e.attend(done)
	cancel()
	keepers.Wait()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		return fail.New(fail.Internal, "waiting for %s: %s", e.command.Args[0], err)
	}
	e.app.exitCode = codeOf(e.command.ProcessState)
	return nil
}

// feed prepares the command's stdin; what it returns writes to it once the command runs.
func (e *execution) feed() (func(), error) {
	if e.stdinFrom == "" {
		return func() {}, nil
	}
	value, err := parseReference(e.stdinFrom).find(e.children())
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	e.command.Stdin = read
	return func() {
		_ = read.Close()
		go func() { // a command that does not read is its own business
			_, _ = io.WriteString(write, value)
			_ = write.Close()
		}()
	}, nil
}

// attend passes signals on until the command has ended.
func (e *execution) attend(done <-chan error) error {
	var kill <-chan time.Time
	for {
		select {
		case err := <-done:
			return err
		case s := <-e.signals:
			if !fromTerminal(s) { // which has told the command itself
				_ = e.command.Process.Signal(s)
			}
			if ends(s) && e.killAfter > 0 && kill == nil {
				kill = time.After(e.killAfter)
			}
		case <-kill:
			e.app.say("%s runs on after %s: killing it", e.command.Args[0], e.killAfter)
			_ = e.command.Process.Kill()
		}
	}
}

// keep looks after one role's lease, and puts another token into files in time.
func (e *execution) keep(ctx context.Context, i int) {
	for {
		e.mu.Lock()
		held := e.leases[i]
		e.mu.Unlock()
		err := held.Keep(ctx)
		if err == nil {
			return
		}
		role := held.Child().Role
		renewed := e.byFile() && e.replace(ctx, i)
		switch {
		case ctx.Err() != nil:
			return
		case renewed && !e.byVariable():
			continue
		case e.stopAtEnd:
			e.app.say("role %s: %s; ending the command", role, err)
			e.signals <- terminate
			return
		}
		e.app.say("role %s: %s; what the command has of it works until %s at most", role, err, soon(held.Ends()))
		if !renewed {
			return
		}
	}
}

// replace gets a new child for a role and puts it into the files. The old one dies with
// its lease, or with the command: who has just read it shall be able to use it.
func (e *execution) replace(ctx context.Context, i int) bool {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		e.mu.Lock()
		role := e.leases[i].Child().Role
		e.mu.Unlock()
		ask, err := e.ask.of(role, e.app.environ)
		if err == nil {
			child, failed := e.child(ask)
			if err = failed; err == nil {
				e.mu.Lock()
				e.replaced = append(e.replaced, e.leases[i])
				e.leases[i] = lease.New(e.client, child)
				err = e.writeFiles(map[string]string{})
				e.mu.Unlock()
				if err == nil {
					return true
				}
			}
		}
		e.app.say("role %s: no new token for the files: %s", role, err)
		if fail.KindOf(err) != fail.Unavailable && fail.KindOf(err) != fail.Output {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// end revokes what is held and removes the files.
func (e *execution) end() {
	if e.dir != "" {
		if err := os.RemoveAll(e.dir); err != nil {
			e.app.say("%s could not be removed: %s", e.dir, pathless(err))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.revokeWithin)
	defer cancel()
	var wait sync.WaitGroup
	for _, l := range append(e.replaced, e.leases...) {
		if l.Child().LeaseID == "" || time.Now().After(l.Ends()) {
			continue
		}
		wait.Go(func() {
			if err := l.Revoke(ctx); err != nil {
				e.app.say("role %s: %s; its token works until %s at most", l.Child().Role, err, soon(l.Ends()))
			}
		})
	}
	wait.Wait()
}

// makeDir makes the folder of the user's alone: in memory where the system has such a place.
func (e *execution) makeDir() error {
	base := variable(e.app.environ, "XDG_RUNTIME_DIR")
	if info, err := os.Stat(base); base == "" || err != nil || !info.IsDir() {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "tokenbroker-")
	if err != nil {
		return fail.New(fail.Output, "no folder for the files can be made in %s: %s", base, pathless(err))
	}
	e.dir = dir
	return nil
}

// writeFiles writes all files anew, and says in variables where they are.
func (e *execution) writeFiles(variables map[string]string) error {
	if e.files {
		for _, child := range e.children() {
			for _, field := range child.Parts() {
				if err := e.writeFile(filepath.Join(child.Role, field), child.Text(field)); err != nil {
					return err
				}
			}
		}
	}
	for _, entry := range e.file {
		name, reference, err := assignment("file", entry)
		if err != nil {
			return err
		}
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return fail.New(fail.Usage, "--file %s: this cannot be a variable's name", name)
		}
		value, err := reference.find(e.children())
		if err != nil {
			return err
		}
		if err := e.writeFile(name, value); err != nil {
			return err
		}
		variables[name] = filepath.Join(e.dir, name)
	}
	return nil
}

// writeFile puts a whole file in the place of the former one.
func (e *execution) writeFile(name, value string) error {
	path := filepath.Join(e.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path+".new", []byte(value), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fail.New(fail.Output, "%s cannot be written: %s", path, pathless(err))
	}
	return nil
}
