package backend

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// BenchmarkRenew is what a renewal costs inside the plugin, as BenchmarkIssue is for an
// issue.
func BenchmarkRenew(b *testing.B) {
	backend, _ := benchBackend(b)
	secret := benchLease(b, backend)
	b.ReportAllocs()
	for b.Loop() {
		s := *secret
		s.Increment = time.Minute
		benchLeaseDo(b, backend, logical.RenewOperation, &s)
	}
}

// BenchmarkRevoke is the end of a lease, with the request to the authorization server.
func BenchmarkRevoke(b *testing.B) {
	backend, _ := benchBackend(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		secret := benchLease(b, backend)
		b.StartTimer()
		benchLeaseDo(b, backend, logical.RevokeOperation, secret)
	}
}

// benchLease is a lease of the provider oauth2/as, as Vault has stored it.
func benchLease(b *testing.B, backend logical.Backend) *logical.Secret {
	b.Helper()
	if _, err := backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: "roles/r"}); err == nil {
		benchDo(b, backend, logical.CreateOperation, "roles/r", map[string]any{"provider": "oauth2/as", "scopes": "read,write", "ttl": "10m"})
	}
	resp, err := backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/r", EntityID: alice, MountPoint: "broker/"})
	require.NoError(b, err)
	raw, err := json.Marshal(resp.Secret.InternalData)
	require.NoError(b, err)
	resp.Secret.InternalData = nil
	require.NoError(b, json.Unmarshal(raw, &resp.Secret.InternalData))
	return resp.Secret
}

func benchLeaseDo(b *testing.B, backend logical.Backend, op logical.Operation, secret *logical.Secret) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := backend.HandleRequest(ctx, &logical.Request{Operation: op, Path: "creds/r", Secret: secret, MountPoint: "broker/"})
	require.NoError(b, err)
}
