//go:build !unix

package agent

import (
	"errors"
	"net"
	"os/exec"
)

// Supported reports whether tokens can be kept on this system: whether there are sockets
// of one user alone. On Windows nothing tells who is at the other end of one.
const Supported = false

var errUnsupported = errors.New("not on this system")

func userID() string { return "" }

func ofUserAlone(string) error { return errUnsupported }

func lock(string) (unlock func(), err error) { return nil, errUnsupported }

func apart(*exec.Cmd) {}

func isUser(net.Conn) error { return errUnsupported }

func protect() {}
