//go:build unix

package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supported reports whether tokens can be kept on this system: whether there are sockets
// of one user alone.
const Supported = true

func userID() string { return strconv.Itoa(os.Getuid()) }

// ofUserAlone refuses a folder that another user has made, or can look into.
func ofUserAlone(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !info.IsDir():
		return fmt.Errorf("%s is no folder", dir)
	case int(stat.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to user %d: set XDG_RUNTIME_DIR to a folder of your own", dir, stat.Uid)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others can look into %s: chmod 700 it", dir)
	}
	return nil
}

// lock is nil if another process has it.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		file.Close()
		return nil, nil
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return func() { file.Close() }, nil // also a second time
}

// apart lets a command outlive us, and whatever ends our session.
func apart(command *exec.Cmd) { command.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
