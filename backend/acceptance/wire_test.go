package acceptance

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// wire stands between the broker and a server. It can be cut, so that the same
// server is gone and comes back at the same URL; it counts requests, and it can
// change answers.
type wire struct {
	URL string

	mu     sync.Mutex
	cut    bool
	lie    string         // a path
	counts map[string]int // of requests, by path
	passed map[string]int // of those among them that reached the server
	tamper func(path string, body []byte) []byte
}

// silent is for what stories provoke on purpose.
var silent = log.New(io.Discard, "", 0)

func newWire(t *testing.T, server string) *wire {
	t.Helper()
	target, err := url.Parse(server)
	require.NoError(t, err)
	w := &wire{counts: map[string]int{}, passed: map[string]int{}}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = silent
	proxy.ModifyResponse = w.answer
	listener := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		switch cut, lie := w.note(r.URL.Path); {
		case cut:
			panic(http.ErrAbortHandler) // hangs up, as a dead server does
		case lie:
			return // with 200
		}
		r.Host = target.Host // Hydra takes its own name from it
		proxy.ServeHTTP(out, r)
	}))
	t.Cleanup(listener.Close)
	w.URL = listener.URL
	return w
}

// note counts a request and reports what is wrong with the wire.
func (w *wire) note(path string) (cut, lie bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[path]++
	if !w.cut && w.lie != path {
		w.passed[path]++
	}
	return w.cut, w.lie == path
}

func (w *wire) answer(r *http.Response) error {
	w.mu.Lock()
	tamper := w.tamper
	w.mu.Unlock()
	if tamper == nil {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	body = tamper(r.Request.URL.Path, body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// Cut makes the server unreachable, Mend brings it back.
func (w *wire) Cut() { w.setCut(true) }

// Mend ends Cut.
func (w *wire) Mend() { w.setCut(false) }

func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// Tamper changes every answer from now on; nil ends it.
func (w *wire) Tamper(change func(path string, body []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tamper = change
}

// Lie answers requests for path with 200 and does not pass them on; "" ends it.
func (w *wire) Lie(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lie = path
}

// Requests is how often path has been asked for.
func (w *wire) Requests(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[path]
}

// Passed is how often the server has been asked for path: attempts while the wire is cut
// do not count.
func (w *wire) Passed(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed[path]
}

// decoded is a server's JSON answer.
func decoded(t *testing.T, body []byte) *api.Secret {
	t.Helper()
	answer := &api.Secret{}
	require.NoError(t, json.Unmarshal(body, &answer.Data))
	return answer
}

// through are provider fields that send the broker's calls to Hydra by the wire.
func (w *wire) through() harness.Fields {
	return harness.Fields{
		"issuer":            nil,
		"introspection_url": nil,
		"verify":            nil,
		"token_url":         w.URL + "/oauth2/token",
		"revocation_url":    w.URL + "/oauth2/revoke",
	}
}
