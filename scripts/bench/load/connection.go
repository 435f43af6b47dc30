package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// Connection is one client's keep-alive connection to Vault. It does less than
// Vault's own client, whose work would be measured too on a machine of few cores:
// no retries, no decoding. It is not safe for concurrent use.
type Connection struct {
	base   string
	client *http.Client
	answer bytes.Buffer
}

// NewConnection is a connection to Vault at base, which is opened by its first
// request. No request takes longer than timeout.
func NewConnection(base string, timeout time.Duration) *Connection {
	return &Connection{base: base, client: &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: 1, MaxConnsPerHost: 1, DisableCompression: true},
	}}
}

// StatusError is an answer other than 2xx.
type StatusError struct {
	Method, Path string
	Status       int
	Body         string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: status %d: %s", e.Method, e.Path, e.Status, e.Body)
}

// Do sends a request as the holder of token, to path below /v1/, and returns the
// body of a 2xx, which is valid until the next call. Everything else is an error.
func (c *Connection) Do(ctx context.Context, token, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Vault-Token", token)
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	c.answer.Reset()
	// To the end, or the connection is not used again.
	if _, err := c.answer.ReadFrom(io.LimitReader(response.Body, maxAnswer)); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode/100 != 2 {
		return nil, &StatusError{Method: method, Path: path, Status: response.StatusCode, Body: c.answer.String()}
	}
	return c.answer.Bytes(), nil
}

// Close lets the connection go.
func (c *Connection) Close() { c.client.CloseIdleConnections() }
