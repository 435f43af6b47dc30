package backend

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// BenchmarkIssue is what a creds request costs inside the plugin: no gRPC, storage in
// memory, and an authorization server in the same process that does nothing. `make
// bench` measures the whole; this one can be profiled.
//
//	go test ./backend -run '^$' -bench BenchmarkIssue -cpuprofile cpu.out -memprofile mem.out
func BenchmarkIssue(b *testing.B) {
	for name, role := range map[string]map[string]any{
		"jwt":    {"provider": "jwt/own", "audiences": "https://api.test", "scopes": "read,write", "ttl": "10m"},
		"oauth2": {"provider": "oauth2/as", "scopes": "read,write", "ttl": "10m"},
	} {
		b.Run(name, func(b *testing.B) {
			backend := benchBackend(b)
			benchDo(b, backend, logical.CreateOperation, "roles/r", role)
			b.ReportAllocs()
			for b.Loop() {
				benchDo(b, backend, logical.ReadOperation, "creds/r", nil)
			}
		})
	}
}

// benchBackend is an engine with both providers.
func benchBackend(b *testing.B) logical.Backend {
	b.Helper()
	var serial atomic.Int64
	as := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"child-%d","token_type":"Bearer","expires_in":3600,"scope":"read write"}`, serial.Add(1))
	}))
	b.Cleanup(as.Close)
	backend, err := Factory(context.Background(), &logical.BackendConfig{
		StorageView: &logical.InmemStorage{}, System: newVaultView(), Logger: hclog.NewNullLogger(), BackendUUID: "bench",
	})
	require.NoError(b, err)
	require.NoError(b, backend.Initialize(context.Background(), &logical.InitializationRequest{}))
	benchDo(b, backend, logical.UpdateOperation, "config", map[string]any{"issuer": "https://vault.test/v1/broker"})
	benchDo(b, backend, logical.CreateOperation, "providers/jwt/own", nil)
	benchDo(b, backend, logical.CreateOperation, "providers/oauth2/as", map[string]any{
		"token_url": as.URL + "/token", "revocation_url": as.URL + "/revoke", "client_id": "broker", "client_secret": "only-for-the-benchmark",
	})
	return backend
}

func benchDo(b *testing.B, backend logical.Backend, op logical.Operation, path string, data map[string]any) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := backend.HandleRequest(ctx, &logical.Request{Operation: op, Path: path, Data: data, EntityID: alice, MountPoint: "broker/"})
	require.NoError(b, err)
}
