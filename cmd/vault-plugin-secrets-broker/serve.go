package main

import (
	"math"
	"os"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/plugin"
	"google.golang.org/grpc"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend"
)

// workers is how many requests are served by goroutines that have served others. A request
// goes deep, and a goroutine of its own, which gRPC has otherwise, must copy its stack each
// time that it outgrows it: a fifteenth of the plugin's time (make profile). Beyond so many at
// once requests have goroutines of their own again.
const workers = 32

// protocol is the version of Vault's plugin protocol by which one process serves all mounts,
// which every Vault since 1.12, and OpenBao, speaks.
const protocol = 5

// serve is plugin.ServeMultiplex of Vault's SDK, which has no room for options of the server.
func serve(tls plugin.TLSProviderFunc) error {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: os.Stderr, JSONFormat: true})
	if err := pluginutil.OptionallyEnableMlock(); err != nil {
		return err
	}
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig,
		VersionedPlugins: map[int]goplugin.PluginSet{protocol: {plugin.BackendPluginName: &plugin.GRPCBackendPlugin{
			Factory: backend.Factory, MultiplexingSupport: true, Logger: logger,
		}}},
		Logger:      logger,
		TLSProvider: tls,
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return goplugin.DefaultGRPCServer(append(options,
				grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32), grpc.NumStreamWorkers(workers)))
		},
	})
	return nil
}
