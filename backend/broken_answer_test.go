package backend

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// A token is one wherever in its answer a server puts it.
func TestABrokenAnswerIsNeitherShownNorLogged(t *testing.T) {
	const minted = "tok-0123456789abcdef-minted"
	for name, answer := range map[string]string{
		"its length":   "HTTP/1.1 200 OK\r\nContent-Length: " + minted + "\r\n\r\n",
		"its encoding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + minted + "\r\n\r\n",
		"a trailer":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + minted + "\r\n\r\n",
		"a header":     "HTTP/1.1 200 OK\r\n" + minted + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						_, _ = io.Copy(io.Discard, req.Body)
					}
					_, _ = io.WriteString(conn, answer)
					_ = conn.Close()
				}
			}()
			m := newEmptyMount(t, setup{})
			m.must(m.write("providers/oauth2/p", map[string]any{"token_url": "http://" + l.Addr().String() + "/token", "client_id": "c", "client_secret": parentSecret, "assumed_lifetime": 60, "verify_connection": false}))
			m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
			_, err = m.creds(nil)
			require.Error(t, err)
			require.NotContains(t, err.Error(), minted)
			require.NotContains(t, m.log.String(), minted)
			require.Contains(t, m.log.String(), "no valid HTTP", "an operator sees why")
		})
	}
}
