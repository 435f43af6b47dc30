package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// minted is what servers say where nobody expects it.
const minted = "tok-0123456789abcdef-minted"

// The standard logger writes where it did when the process began, so that it is another
// process whose stderr is looked at. It is this test's program, which says what it did.
func TestWhatAServerSaysUnaskedIsNotLogged(t *testing.T) {
	if os.Getenv("BROKER_TEST_ASKS") != "" {
		for name, answer := range map[string]string{
			"a 204 with a body":             "HTTP/1.1 204 No Content\r\n\r\n" + minted,
			"a body longer than its length": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345" + minted,
			"two answers":                   "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 " + minted + "\r\n\r\n",
		} {
			ask(t, answer)
			fmt.Println("asked for", name)
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "BROKER_TEST_ASKS=1", "GODEBUG=http2debug=2")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	said, err := cmd.Output()
	require.NoError(t, err, "%s%s", said, &stderr)
	require.Equal(t, 3, strings.Count(string(said), "asked for"))
	require.Empty(t, stderr.String())
}

// ask has the broker's client ask a server that answers so, and waits until net/http has
// seen the end of the answer: then it closes the connection.
func ask(t *testing.T, answer string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	closed := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			closed <- err
			return
		}
		defer func() { _ = conn.Close() }()
		reader := bufio.NewReader(conn)
		if _, err = http.ReadRequest(reader); err == nil {
			_, _ = io.WriteString(conn, answer)
			_, err = io.Copy(io.Discard, reader)
		}
		closed <- err
	}()
	at := "http://" + l.Addr().String() + "/"
	c, err := httpclient.New(httpclient.Options{})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, at, nil)
	require.NoError(t, err)
	_, err = c.Do(req)
	require.NoError(t, err)
	<-closed
}
