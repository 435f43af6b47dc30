// Command floor is the secrets engine that does only what none can do without: it
// answers creds/<anything> with a random secret under a lease. It keeps nothing,
// asks nobody and judges nothing, so what it costs is Vault's own work: the
// request, the call into a plugin, the lease. The benchmark measures the broker
// against it, in the same Vault.
//
// At put it stores what it is given, as it is. So a mount's storage is filled as fast as a
// plugin can write, and the mount is then given to the broker.
package main

import (
	"context"
	"crypto/rand"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
	"golang.org/x/sync/errgroup"
)

// The lease is as long as that of the roles which the benchmark writes.
const (
	leaseTTL = time.Hour
	leaseMax = 24 * time.Hour
)

const secretType = "floor_secret"

func main() {
	meta := &api.PluginAPIClientMeta{}
	err := meta.FlagSet().Parse(os.Args[1:])
	if err == nil {
		err = plugin.ServeMultiplex(&plugin.ServeOpts{
			BackendFactoryFunc: factory,
			TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
		})
	}
	if err != nil {
		hclog.New(&hclog.LoggerOptions{}).Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	// Renewable and revocable, as the broker's leases are.
	secret := &framework.Secret{Type: secretType, Renew: renew, Revoke: revoke}
	issue := &framework.PathOperation{Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
		resp := secret.Response(map[string]any{"access_token": rand.Text()}, nil)
		resp.Secret.TTL, resp.Secret.MaxTTL = leaseTTL, leaseMax
		return resp, nil
	}}
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{secret},
		Paths: []*framework.Path{{
			Pattern:    "creds/" + framework.GenericNameRegex("role") + "$",
			Fields:     map[string]*framework.FieldSchema{"role": {Type: framework.TypeString}},
			Operations: map[logical.Operation]framework.OperationHandler{logical.ReadOperation: issue, logical.UpdateOperation: issue},
		}, {
			Pattern:    "put$",
			Fields:     map[string]*framework.FieldSchema{"entries": {Type: framework.TypeKVPairs}},
			Operations: map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: &framework.PathOperation{Callback: put}},
		}},
	}
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}

// putParallel is how many entries are written at once.
const putParallel = 8

func put(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(putParallel)
	entries, _ := d.Get("entries").(map[string]string)
	for key, value := range entries {
		group.Go(func() error { return req.Storage.Put(ctx, &logical.StorageEntry{Key: key, Value: []byte(value)}) })
	}
	return nil, group.Wait()
}

func renew(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	resp := &logical.Response{Secret: req.Secret}
	resp.Secret.TTL, resp.Secret.MaxTTL = leaseTTL, leaseMax
	return resp, nil
}

func revoke(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}
