package harness

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
)

// FastAuthClient is the one client that the fast authorization server knows.
var FastAuthClient = Credentials{ID: "bench", Secret: "bench-secret"}

// FastAuth is a running authorization server without any latency of its own, for
// measuring: see bootstrap/fastauth.
type FastAuth struct {
	URL string

	process *server
}

// StartFastAuth starts one that ends with the test.
func StartFastAuth(t TB) *FastAuth {
	t.Helper()
	f := &FastAuth{process: start(t, "fastauth", t.TempDir(), executable(t, "", "fastauth", "bench-tools"))}
	f.process.await(t, "it says where it listens", func(context.Context) error {
		log, err := os.ReadFile(f.process.log)
		if err != nil {
			return err
		}
		line, _, complete := strings.Cut(string(log), "\n")
		url, ready := strings.CutPrefix(line, "ready ")
		if !complete || !ready {
			return errors.New("no ready line in its log")
		}
		f.URL = url
		return nil
	})
	return f
}

// Counts are the requests that it has answered, by kind: token, exchange, revoke, lookup.
func (f *FastAuth) Counts(t TB) map[string]int64 {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, f.URL+"/counts", nil)
	if err != nil {
		t.Fatalf("%v", err)
	}
	counts := map[string]int64{}
	if err := json.Unmarshal(send(t, httpClient, request), &counts); err != nil {
		t.Fatalf("%s: %v", request.URL, err)
	}
	return counts
}

// Usage is what its process has used.
func (f *FastAuth) Usage(t TB) Usage { return usageOf(t, f.process.cmd.Process.Pid) }
