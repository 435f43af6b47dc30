package agent

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// isUser refuses a connection to or from another user's process.
func isUser(conn net.Conn) error {
	return ofConn(conn, func(fd int) error {
		peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && int(peer.Uid) != os.Getuid() {
			err = fmt.Errorf("it is user %d's", peer.Uid)
		}
		return err
	})
}

// protect keeps what is in memory out of core dumps, and from the user's other processes.
func protect() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
