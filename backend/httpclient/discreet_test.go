package httpclient_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// answering is where a server answers every request with these bytes, and hangs up.
func answering(t *testing.T, answer string) (url string) {
	t.Helper()
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
	return "http://" + l.Addr().String() + "/token"
}

// What a server sends may be a token wherever it stands, and net/http quotes it.
func TestAnErrorQuotesNothingOfTheAnswer(t *testing.T) {
	const minted = "tok-0123456789abcdef-minted"
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
	for name, test := range map[string]struct{ answer, says string }{
		"its version":          {minted + " 200 OK\r\n\r\n", "no valid HTTP"},
		"its status":           {"HTTP/1.1 " + minted + "\r\n\r\n", "no valid HTTP"},
		"a header":             {"HTTP/1.1 200 OK\r\n" + minted + "\r\n\r\n", "no valid HTTP"},
		"its encoding":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + minted + "\r\n\r\n", "no valid HTTP"},
		"its length":           {"HTTP/1.1 200 OK\r\nContent-Length: " + minted + "\r\n\r\n", "no valid HTTP"},
		"its second length":    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: " + minted + "\r\n\r\n", "no valid HTTP"},
		"a trailer's name":     {chunked + "Trailer: Content-Length, " + minted + "\r\n\r\n0\r\n\r\n", "no valid HTTP"},
		"a trailer":            {chunked + "\r\n5\r\nhello\r\n0\r\n" + minted + "\r\n\r\n", "no valid HTTP"},
		"a chunk's length":     {chunked + "\r\n" + minted + "\r\n", "no valid HTTP"},
		"what is no gzip":      {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 27\r\n\r\n" + minted, "no valid HTTP"},
		"a body that ends":     {"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n" + minted, "unexpected EOF"},
		"a hangup without it":  {"", "EOF"},
		"an end in the header": {"HTTP/1.1 200 OK\r\nX-Token: " + minted, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			at := answering(t, test.answer)
			c := newClient(t, httpclient.Options{}).To([]string{at})
			_, err := c.Do(request(t, at))
			require.ErrorContains(t, failed(t, err), test.says)
			require.NotContains(t, err.Error(), minted)

			resp, err := c.HTTP().Do(request(t, at))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				require.NoError(t, resp.Body.Close())
			}
			require.ErrorContains(t, err, test.says)
			require.NotContains(t, err.Error(), minted, "a vendor's client reads the body itself")
		})
	}
}

// The same in HTTP/2, where a bad header is what breaks a stream.
func TestAnErrorQuotesNothingOfAnHTTP2Answer(t *testing.T) {
	const minted = "tok-0123456789abcdef-minted"
	s, ca := serveHTTP2(t, 100, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, minted)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	_, err := send(newClient(t, httpclient.Options{CAPEM: ca}), request(t, s.URL))
	e := failed(t, err)
	require.ErrorContains(t, e, "HTTP/2 stream error")
	require.Equal(t, minted, string(e.Partial), "it is killed")
	require.NotContains(t, err.Error(), minted)
}

func TestAHeaderIsSentInOneSpelling(t *testing.T) {
	var got []string
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		lines := bufio.NewScanner(conn)
		for lines.Scan() && lines.Text() != "" {
			got = append(got, lines.Text())
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		_ = conn.Close()
	}()
	at := "http://" + l.Addr().String() + "/"
	req := request(t, at)
	for _, name := range []string{"host", "content-length", "transfer-encoding", "trailer", "user-agent"} {
		req.Header[name] = []string{"evil"}
	}
	req.Header["idempotency-KEY"] = []string{"k"}
	_, err = send(newClient(t, httpclient.Options{}), req)
	require.NoError(t, err)
	require.Equal(t, []string{"evil"}, map[string][]string(req.Header)["host"], "the caller's request stays as it is")
	<-served
	var names []string
	for _, line := range got[1:] {
		name, value, _ := strings.Cut(line, ": ")
		names = append(names, strings.ToLower(name))
		require.True(t, value != "evil" || strings.EqualFold(name, "user-agent"), line)
	}
	require.ElementsMatch(t, []string{"host", "user-agent", "content-length", "authorization", "idempotency-key", "accept-encoding"}, names)

	req.Header["authorization"] = []string{"Bearer hunter2"}
	_, err = send(newClient(t, httpclient.Options{}), req)
	require.False(t, failed(t, err).Sent)
	require.ErrorContains(t, err, "two spellings")
}
