// Command fastauth is the authorization server of the benchmark, and its GitHub: it answers at
// once, so that what is measured is the broker. It is a process of its own, so that
// its CPU time is told apart. It listens on loopback, says where in its first line,
// "ready http://127.0.0.1:…", and forgets everything but how often it was asked.
//
//	POST /token   client_credentials (RFC 6749 4.4) and token exchange (RFC 8693)
//	POST /revoke  RFC 7009
//	GET  /counts  requests answered, by kind
//
//	GET    /github/app, /github/app/installations/1
//	POST   /github/app/installations/1/access_tokens
//	DELETE /github/installation/token
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"
)

func main() {
	// Nearly nothing lives here, so Go would collect all the time, which is nobody's measure.
	debug.SetGCPercent(1000)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Printf("ready http://%s\n", listener.Addr())
		server := &http.Server{Handler: newServer(), ReadHeaderTimeout: 10 * time.Second}
		err = server.Serve(listener)
	}
	fmt.Fprintln(os.Stderr, "fastauth:", err)
	os.Exit(1)
}
