// Command vault-plugin-secrets-broker is the plugin's process. Vault starts it;
// run by hand it says its version, or prints how to tune a mount's audit log.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	_ "time/tzdata" // a condition means the same on a host without time zones

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend"
)

// Nothing goes to the standard logger, which writes on stderr and so into Vault's log: the
// plugin and Vault's SDK log by hclog, and net/http quotes there what a server sends on a
// connection that nobody has asked anything on, such as the body of a 204. That may be a
// token, and a transport has no logger of its own that could be set.
func init() { log.SetOutput(io.Discard) }

func main() {
	switch asked := os.Args[1:]; {
	case len(asked) == 1 && (asked[0] == "-version" || asked[0] == "--version"):
		fmt.Println(backend.Version)
		return
	case len(asked) > 0 && (asked[0] == "-audit-keys" || asked[0] == "--audit-keys"):
		if len(asked) != 2 {
			fmt.Fprintln(os.Stderr, "say which mount to tune: -audit-keys broker")
			os.Exit(2)
		}
		script, err := backend.AuditScript(asked[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		fmt.Print(script)
		return
	}
	if err := run(os.Args[1:]); err != nil {
		hclog.New(&hclog.LoggerOptions{}).Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	meta := &api.PluginAPIClientMeta{}
	if err := meta.FlagSet().Parse(args); err != nil {
		return err
	}
	paceCollector()
	// Vault unwraps the TLS material of the plugin's connection with this.
	return serve(api.VaultPluginTLSProvider(meta.GetTLSConfig()))
}
