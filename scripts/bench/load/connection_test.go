package load

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConnectionIsKept(t *testing.T) {
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/v1/no" {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = io.WriteString(w, r.Method+" "+r.URL.Path+" "+r.Header.Get("X-Vault-Token")+" "+string(body))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()

	c := NewConnection(server.URL, time.Minute)
	defer c.Close()
	for range 3 {
		body, err := c.Do(t.Context(), "token", http.MethodPut, "a/b", []byte("{}"))
		require.NoError(t, err)
		require.Equal(t, "PUT /v1/a/b token {}", string(body))

		_, err = c.Do(t.Context(), "token", http.MethodGet, "no", nil)
		var refused *StatusError
		require.True(t, errors.As(err, &refused))
		require.Equal(t, http.StatusForbidden, refused.Status)
	}
	require.EqualValues(t, 1, opened.Load())
}
