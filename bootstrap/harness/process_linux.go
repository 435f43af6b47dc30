package harness

import (
	"runtime"
	"syscall"
)

// processAttributes: a group of its own, so that plugins die with a killed Vault;
// and SIGTERM when we die first, so that an aborted test run leaves nothing behind.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// supervise starts the process and waits for its end on one thread: the kernel
// sends Pdeathsig when the thread that started a process ends, not when we do.
func (s *server) supervise(started chan<- error) {
	runtime.LockOSThread()
	err := s.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	s.err = s.cmd.Wait()
	close(s.done)
}
