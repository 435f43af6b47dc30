package acceptance

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// What the plugin says of itself by -version is what Vault finds that it runs; registered as
// another version it is refused, and registered without one it is catalogued as what it is.
func TestVaultHoldsThePluginToItsVersion(t *testing.T) {
	t.Parallel()
	system := sharedVault(t).Client(t).Sys()
	path := harness.PluginPath(t)
	output, err := exec.Command(path, "-version").Output()
	require.NoError(t, err)
	said := strings.TrimSpace(string(output))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	digest := sha256.Sum256(content)
	sum := hex.EncodeToString(digest[:])
	const name = "broker-by-another-name" // so that no other story runs it
	register := func(version, sum string) error {
		return system.RegisterPlugin(&api.RegisterPluginInput{
			Name: name, Type: api.PluginTypeSecrets, Command: filepath.Base(path), SHA256: sum, Version: version,
		})
	}

	err = register("v99.0.0", sum)
	require.Equal(t, 400, harness.StatusOf(err), "%v", err)
	require.ErrorContains(t, err, "reported version ("+said+") did not match requested version (v99.0.0)")
	require.Error(t, system.Mount(name, &api.MountInput{Type: name}), "it is in no catalog")

	require.NoError(t, register("", sum))
	found, err := system.GetPlugin(&api.GetPluginInput{Name: name, Type: api.PluginTypeSecrets, Version: said})
	require.NoError(t, err)
	require.Equal(t, sum, found.SHA256)

	require.NoError(t, register(said, sum))
	require.NoError(t, system.Mount(name, &api.MountInput{Type: name, Config: api.MountConfigInput{PluginVersion: said}}))
	t.Cleanup(func() { _ = system.Unmount(name) })
	mounts, err := system.ListMounts()
	require.NoError(t, err)
	mount := mounts[name+"/"]
	require.NotNil(t, mount)
	require.Equal(t, []string{said, said, sum}, []string{mount.PluginVersion, mount.RunningVersion, mount.RunningSha256})
}
