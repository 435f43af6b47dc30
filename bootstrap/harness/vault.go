package harness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

// PluginName is the name under which the broker is registered.
const PluginName = "vault-plugin-secrets-broker"

// Storage says where a Vault keeps its data. The zero value is dev mode.
type Storage string

// The storages.
const (
	Dev  Storage = ""     // in memory, unsealed, forgets everything when it stops
	File Storage = "file" // survives Restart and Kill
	Raft Storage = "raft" // integrated storage, also the storage of a Cluster
)

// VaultOptions configures StartVault. All of it is optional.
type VaultOptions struct {
	Storage       Storage
	WithoutPlugin bool           // for what does not need the built plugin
	Config        map[string]any // added to the server's configuration, such as default_lease_ttl
	TLS           bool           // listens with TLS, which Vault.CA is to trust for
	LogLevel      string         // default "info"
	Dir           string         // default: the test's own temporary directory
	Before        string         // an earlier build, beside the plugin: registered in its place until Upgrade
}

// Vault is a running server. Its methods that act as a client act as root; As
// gives the same to the holder of another token.
type Vault struct {
	*Session

	Addr string
	Dir  string
	CA   []byte // PEM, what to trust at Addr; nil without TLS

	options   VaultOptions
	tls       *certificate // nil without TLS
	transport *http.Transport
	nodeID    string
	port      int
	cluster   int
	process   *server
	unsealKey string
	among     *Cluster // once all of it runs; nil for a Vault alone
	mounts    atomic.Int64
}

const devRootToken = "root"

// keyPause is how long a Vault that could make nothing of its key is left alone.
const keyPause = time.Second

// StartVault starts a Vault that is initialised, unsealed and active, with the
// plugin registered. It ends with the test.
func StartVault(t TB, options VaultOptions) *Vault {
	t.Helper()
	v := newVault(t, options, "vault")
	v.launch(t)
	if options.Storage != Dev {
		v.initialise(t)
		v.Unseal(t)
	}
	v.awaitActive(t)
	if !options.WithoutPlugin {
		v.registerPlugin(t)
	}
	return v
}

func newVault(t TB, options VaultOptions, nodeID string) *Vault {
	t.Helper()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	if options.LogLevel == "" {
		options.LogLevel = "info"
	}
	port := freePort(t)
	v := &Vault{
		Addr:      "http://" + address(port),
		Dir:       options.Dir,
		options:   options,
		transport: transport,
		nodeID:    nodeID,
		port:      port,
		cluster:   freePort(t),
	}
	if options.TLS {
		v.tls = newCertificate(t, v.Dir, nodeID)
		v.Addr, v.CA, v.transport = "https://"+address(port), v.tls.pem, v.tls.transport()
	}
	v.Session = &Session{vault: v, Token: devRootToken}
	return v
}

// launch starts the process and waits until it answers, sealed or not.
func (v *Vault) launch(t TB) {
	t.Helper()
	config := filepath.Join(v.Dir, v.nodeID+".json")
	content, err := json.MarshalIndent(v.configuration(t), "", "  ")
	if err != nil {
		t.Fatalf("vault configuration: %v", err)
	}
	if err := os.WriteFile(config, content, 0o600); err != nil {
		t.Fatalf("vault configuration: %v", err)
	}
	args := []string{"server", "-config=" + config}
	if v.options.Storage == Dev {
		args = append(args, "-dev", "-dev-no-store-token", "-dev-root-token-id="+devRootToken, "-dev-listen-address="+v.devAddress(t))
	}
	v.process = start(t, v.nodeID, v.Dir, executable(t, "VAULT", "vault", "vault"), args...)
	v.process.await(t, "it answers", func(ctx context.Context) error {
		_, err := v.Client(t).Sys().HealthWithContext(ctx)
		return err
	})
}

func (v *Vault) initialise(t TB) {
	t.Helper()
	answer, err := v.Client(t).Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		t.Fatalf("vault init: %v", err)
	}
	v.unsealKey, v.Token = answer.KeysB64[0], answer.RootToken
}

// awaitActive waits until the server is unsealed and either leads or follows.
func (v *Vault) awaitActive(t TB) {
	t.Helper()
	v.process.await(t, "it is active", func(ctx context.Context) error {
		leader, err := v.Client(t).Sys().LeaderWithContext(ctx)
		switch {
		case err != nil:
			return err
		case leader.HAEnabled && leader.LeaderAddress == "":
			return fmt.Errorf("no leader yet")
		}
		// Mounts come up after the leader is known.
		_, err = v.Client(t).Sys().ListMountsWithContext(ctx)
		return err
	})
}

// Unseal unseals it with its one key and waits until it is active.
func (v *Vault) Unseal(t TB) {
	t.Helper()
	// A raft follower learns what it unseals from its leader, a little later. One
	// that got the key twice meanwhile would run twice, and not step down: so it gets
	// it again only if it has refused it.
	taken, given := false, time.Time{}
	v.process.await(t, "it is unsealed", func(ctx context.Context) error {
		status, err := v.Client(t).Sys().SealStatusWithContext(ctx)
		if err == nil && status.Sealed && !taken && time.Since(given) > keyPause {
			status, err = v.Client(t).Sys().UnsealWithContext(ctx, v.unsealKey)
			taken, given = err == nil, time.Now()
		}
		if err == nil && status.Sealed {
			err = fmt.Errorf("still sealed")
		}
		return err
	})
	v.awaitActive(t)
	if v.among != nil {
		v.among.Settle(t)
	}
}

// Seal seals it. Leases stop expiring until Unseal.
func (v *Vault) Seal(t TB) {
	t.Helper()
	if err := v.Client(t).Sys().Seal(); err != nil {
		t.Fatalf("vault seal: %v", err)
	}
}

// Stop ends the server as an operator would.
func (v *Vault) Stop(TB) { v.process.stop() }

// Kill ends the server and its plugins without a last word, as a power cut would.
func (v *Vault) Kill(TB) { v.process.kill() }

// Restart ends the server, unless Stop or Kill did, and starts it again on the same
// data and address.
func (v *Vault) Restart(t TB) {
	t.Helper()
	if v.options.Storage == Dev {
		t.Fatalf("a Vault in dev mode forgets everything: start it with Storage: harness.File")
	}
	v.process.stop()
	v.launch(t)
	v.Unseal(t)
}

// LogFile is where the server's output goes; the plugin's log lines are in it.
func (v *Vault) LogFile() string { return v.process.log }

// PluginPath is the built plugin: BROKER_PLUGIN, or what `make build` makes.
func PluginPath(t TB) string {
	t.Helper()
	return executable(t, "BROKER_PLUGIN", PluginName, "build")
}

// VaultPath is the vault command: VAULT, or what `make vault` makes.
func VaultPath(t TB) string {
	t.Helper()
	return executable(t, "VAULT", "vault", "vault")
}

// PathWithVault is a PATH on which `vault` is that of VaultPath, also if its file is called
// otherwise; the programs in dirs come before those of the machine.
func PathWithVault(t TB, dirs ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(VaultPath(t), filepath.Join(dir, "vault")); err != nil {
		t.Fatalf("vault on a PATH: %v", err)
	}
	dirs = append([]string{dir}, append(dirs, os.Getenv("PATH"))...)
	return strings.Join(dirs, string(os.PathListSeparator))
}

func (v *Vault) registerPlugin(t TB) {
	t.Helper()
	if v.options.Before != "" {
		v.register(t, PluginName, v.options.Before, pluginVersion(t, v.options.Before))
		return
	}
	v.register(t, PluginName, PluginPath(t), "")
}

// Upgrade registers the built plugin beside the build from before, by its version, and
// has all mounts of the broker run it, as Vault's own guide says.
func (v *Vault) Upgrade(t TB) {
	t.Helper()
	version := pluginVersion(t, PluginPath(t))
	v.register(t, PluginName, PluginPath(t), version)
	system := v.Client(t).Sys()
	mounts, err := system.ListMounts()
	if err != nil {
		t.Fatalf("listing mounts: %v", err)
	}
	for path, mount := range mounts {
		if mount.Type != PluginName {
			continue
		}
		if err := system.TuneMountAllowNil(path, api.TuneMountConfigInput{PluginVersion: &version}); err != nil {
			t.Fatalf("tuning %s to %s: %v", path, version, err)
		}
	}
	if _, err := system.ReloadPlugin(&api.ReloadPluginInput{Plugin: PluginName}); err != nil {
		t.Fatalf("reloading the plugin: %v\n%s", err, v.process.tail(briefLines))
	}
}

// pluginVersion is what a build says of itself, and Vault holds it to.
func pluginVersion(t TB, path string) string {
	t.Helper()
	said, err := exec.Command(path, "-version").Output()
	if err != nil {
		t.Fatalf("%s -version: %v", path, err)
	}
	return strings.TrimSpace(string(said))
}

// Register adds another plugin to the catalog. It lies beside the broker's and has
// its name from its file.
func (v *Vault) Register(t TB, name string) {
	t.Helper()
	v.register(t, name, filepath.Join(filepath.Dir(PluginPath(t)), name), "")
}

// DataSize is how many bytes a file of the storage's has.
func (v *Vault) DataSize(t TB, name string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(v.Dir, v.nodeID+"-data", name))
	if err != nil {
		t.Fatalf("the storage's file: %v", err)
	}
	return info.Size()
}

// RegisterAs has a plugin, by the version that it has, stand for another program, which lies
// beside it: its mounts run that once the plugin has been reloaded.
func (v *Vault) RegisterAs(t TB, name, program string) {
	t.Helper()
	dir := filepath.Dir(PluginPath(t))
	v.register(t, name, filepath.Join(dir, program), pluginVersion(t, filepath.Join(dir, name)))
}

func (v *Vault) register(t TB, name, path, version string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("plugin: %v", err)
	}
	sum := sha256.Sum256(content)
	err = v.Client(t).Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name:    name,
		Type:    api.PluginTypeSecrets,
		Command: filepath.Base(path),
		SHA256:  hex.EncodeToString(sum[:]),
		Version: version,
	})
	if err != nil {
		t.Fatalf("registering %s: %v\n%s", path, err, v.process.tail(briefLines))
	}
}

// Enable mounts the broker at path, or at one that nobody else has if path is
// empty. The mount lives as long as the test.
func (v *Vault) Enable(t TB, path string) *Mount {
	t.Helper()
	if path == "" {
		path = fmt.Sprintf("broker-%d", v.mounts.Add(1))
	}
	if err := v.Client(t).Sys().Mount(path, &api.MountInput{Type: PluginName}); err != nil {
		t.Fatalf("enabling the broker at %s: %v\n%s", path, err, v.process.tail(briefLines))
	}
	t.Cleanup(func() {
		// The end of the server ends the mount too; what fails here is the
		// business of tests that are about it.
		if v.process.alive() {
			_ = v.Client(t).Sys().Unmount(path)
		}
	})
	return v.Mount(path)
}
