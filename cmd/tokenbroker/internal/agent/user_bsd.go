//go:build unix && !linux && !darwin

package agent

import "net"

// isUser relies on the folder, into which nobody else can look.
func isUser(net.Conn) error { return nil }

func protect() {}
