package main

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// TestFloor: a lease that can be renewed and revoked, another secret each time, and
// not one storage call.
func TestFloor(t *testing.T) {
	storage := &logical.InmemStorage{}
	for _, fail := range []func(bool){
		func(b bool) { storage.Underlying().FailPut(b) }, func(b bool) { storage.Underlying().FailGet(b) },
		func(b bool) { storage.Underlying().FailDelete(b) }, func(b bool) { storage.Underlying().FailList(b) },
	} {
		fail(true)
	}
	b, err := factory(t.Context(), &logical.BackendConfig{StorageView: storage, System: &logical.StaticSystemView{}})
	require.NoError(t, err)
	ask := func(op logical.Operation, path string, secret *logical.Secret) *logical.Response {
		resp, err := b.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Storage: storage, Secret: secret})
		require.NoError(t, err)
		return resp
	}
	one, other := ask(logical.ReadOperation, "creds/x", nil), ask(logical.ReadOperation, "creds/x", nil)
	require.NotEmpty(t, one.Data["access_token"])
	require.NotEqual(t, one.Data["access_token"], other.Data["access_token"])
	require.Equal(t, leaseTTL, one.Secret.TTL)
	require.True(t, one.Secret.Renewable)

	require.Equal(t, leaseTTL, ask(logical.RenewOperation, "creds/x", one.Secret).Secret.TTL)
	require.Nil(t, ask(logical.RevokeOperation, "creds/x", one.Secret))
}

// TestPut: what it is given is stored as it is.
func TestPut(t *testing.T) {
	storage := &logical.InmemStorage{}
	b, err := factory(t.Context(), &logical.BackendConfig{StorageView: storage, System: &logical.StaticSystemView{}})
	require.NoError(t, err)
	_, err = b.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.UpdateOperation, Path: "put", Storage: storage, Data: map[string]any{"entries": map[string]any{"a/b": `{"c":"d=e"}`, "a/f": "g"}},
	})
	require.NoError(t, err)
	for key, value := range map[string]string{"a/b": `{"c":"d=e"}`, "a/f": "g"} {
		entry, err := storage.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, value, string(entry.Value))
	}
}
