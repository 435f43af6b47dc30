// Command tokenbroker hands child tokens of the secrets engine to programs that know
// nothing of it: in their environment, in files, or in the form that their own
// credential helpers have. See docs/tokenbroker.md.
package main

import (
	"os"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/cli"
)

// version is set by make build.
var version = "v0.0.0-dev"

func main() { os.Exit(cli.Main(version, os.Args[1:])) }
