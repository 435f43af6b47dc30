package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// unnamed stands for the image where nobody has said where it will be published.
const unnamed = "registry.example.com/" + plugin

const vaultScript = `#!/bin/sh
# Registers %[1]s %[2]s for a Vault server on %[3]s.
# Before: put the file %[4]s into its
# plugin_directory as it is, executable. VAULT_ADDR and VAULT_TOKEN say where and who.
set -eu
vault plugin register \
  -sha256=%[5]s \
  -command=%[4]s \
  -version=%[2]s \
  secret %[1]s
# Then, on a server that has none yet:
#   vault secrets enable -path=broker %[1]s
# or, to have a mount run this version from now on:
#   vault secrets tune -plugin-version=%[2]s broker
#   vault plugin reload -type=secret -plugin=%[1]s
`

const openbaoStanza = `# For the configuration of an OpenBao server on %[3]s. It pulls the image, takes the
# file binary_name from its root and checks the sum of that. These three are there once,
# however many plugins there are.
plugin_directory     = "/opt/openbao/plugins"
plugin_auto_download = true
plugin_auto_register = true

plugin "secret" "%[1]s" {
  image       = "%[6]s"
  version     = "%[2]s"
  binary_name = "%[1]s"
  sha256sum   = "%[5]s"
}
`

// snippets are what an operator pastes, by the platform of the server.
func (r *release) snippets() error {
	folder := filepath.Join(r.dist, "register")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	image := r.image
	if image == "" {
		image = unnamed
	}
	for _, a := range r.artifacts {
		if a.command != plugin {
			continue
		}
		for _, s := range []struct{ name, text string }{
			{"vault_" + a.platform.inName() + ".sh", vaultScript},
			{"openbao_" + a.platform.inName() + ".hcl", openbaoStanza},
		} {
			text := fmt.Sprintf(s.text, plugin, r.version, a.platform, a.file, a.sha256, image)
			if err := os.WriteFile(filepath.Join(folder, s.name), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
