package backend

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"
)

// BenchmarkIssue is what a creds request costs inside the plugin: no gRPC, storage in
// memory, and an authorization server in the same process that does nothing. `make
// bench` measures the whole; this one can be profiled.
//
//	go test ./backend -run '^$' -bench BenchmarkIssue -cpuprofile cpu.out -memprofile mem.out
func BenchmarkIssue(b *testing.B) {
	for name, role := range map[string]map[string]any{
		"jwt":      {"provider": "jwt/own", "audiences": "https://api.test"},
		"oauth2":   {"provider": "oauth2/as"},
		"sharing":  {"provider": "oauth2/as", "sharing": "entity"},
		"exchange": {"provider": "oauth2/as", "mode": "exchange", "subject_issuers": "idp"},
	} {
		b.Run(name, func(b *testing.B) {
			backend, user := benchBackend(b)
			role["scopes"], role["ttl"] = "read,write", "10m"
			benchDo(b, backend, logical.CreateOperation, "roles/r", role)
			var data map[string]any
			if role["mode"] != nil {
				data = map[string]any{"subject_token": user}
			}
			b.ReportAllocs()
			for b.Loop() {
				benchDo(b, backend, logical.UpdateOperation, "creds/r", maps.Clone(data))
			}
		})
	}
}

// benchBackend is an engine with both providers, and a token of a user's.
func benchBackend(b *testing.B) (backend logical.Backend, user string) {
	b.Helper()
	return benchBackendOn(b, &logical.InmemStorage{})
}

func benchBackendOn(b *testing.B, storage logical.Storage) (backend logical.Backend, user string) {
	b.Helper()
	var serial atomic.Int64
	as := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"child-%d","token_type":"Bearer","expires_in":3600,"scope":"read write","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, serial.Add(1))
	}))
	b.Cleanup(as.Close)
	var err error
	backend, err = Factory(context.Background(), &logical.BackendConfig{
		StorageView: storage, System: newVaultView(), Logger: hclog.NewNullLogger(), BackendUUID: "bench",
	})
	require.NoError(b, err)
	require.NoError(b, backend.Initialize(context.Background(), &logical.InitializationRequest{}))
	benchDo(b, backend, logical.UpdateOperation, "config", map[string]any{"issuer": "https://vault.test/v1/broker"})
	benchDo(b, backend, logical.CreateOperation, "providers/jwt/own", nil)
	benchDo(b, backend, logical.CreateOperation, "providers/oauth2/as", map[string]any{
		"token_url": as.URL + "/token", "revocation_url": as.URL + "/revoke", "client_id": "broker", "client_secret": "only-for-the-benchmark",
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(b, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(b, err)
	benchDo(b, backend, logical.CreateOperation, "issuers/idp", map[string]any{
		"jwks_pem":     string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"bound_issuer": "https://idp.test", "bound_audiences": "vault",
	})
	now := time.Now()
	payload := fmt.Sprintf(`{"iss":"https://idp.test","aud":"vault","sub":"ann","jti":"1","iat":%d,"exp":%d}`, now.Unix(), now.Add(time.Hour).Unix())
	signed, err := jws.Sign([]byte(payload), jws.WithKey(jwa.ES256, key))
	require.NoError(b, err)
	return backend, string(signed)
}

func benchDo(b *testing.B, backend logical.Backend, op logical.Operation, path string, data map[string]any) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := backend.HandleRequest(ctx, &logical.Request{Operation: op, Path: path, Data: data, EntityID: alice, MountPoint: "broker/"})
	require.NoError(b, err)
}
