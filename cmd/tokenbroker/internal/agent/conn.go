//go:build linux || darwin

package agent

import (
	"errors"
	"net"
)

func ofConn(conn net.Conn, look func(fd int) error) error {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("it is no socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = look(int(fd)) }); err != nil {
		return err
	}
	return failed
}
