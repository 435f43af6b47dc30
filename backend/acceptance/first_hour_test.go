package acceptance

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// firstHour is run by TestTheFirstHour, with a release.
const firstHour = "../../docs/first-hour.md"

// TestTheFirstHour runs the page that leads from a release's files to a first token, in a
// server that has just been initialised. The release is FIRST_HOUR_RELEASE, which `make
// first-hour` makes; without it the built commands stand in, as a release would name them.
func TestTheFirstHour(t *testing.T) {
	t.Parallel()
	needsServers(t)
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("the page is about linux on amd64")
	}
	hydra := sharedHydra(t)
	client := hydra.CreateClient(t, harness.HydraClient{Scopes: []string{"repo:read", "repo:write"}, Audiences: []string{"https://api.acme.example"}})
	d := &desk{dir: t.TempDir(), values: map[string]string{}}
	plugins := filepath.Join(d.dir, "plugins")
	require.NoError(t, os.Mkdir(plugins, 0o700))
	d.vault = harness.StartVault(t, harness.VaultOptions{WithoutPlugin: true, Storage: harness.File, Config: map[string]any{"plugin_directory": plugins}})
	files := harness.PageFiles(t, "../../docs/operating.md")
	files["secret.txt"], files[".vault-token"] = client.Secret+"\n", d.vault.Token
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(d.dir, name), []byte(content), 0o600))
	}
	if release := os.Getenv("FIRST_HOUR_RELEASE"); release != "" {
		require.NoError(t, os.CopyFS(d.dir, os.DirFS(release)))
	} else {
		standIn(t, d.dir)
	}
	d.values = map[string]string{
		"/etc/vault/plugins/": plugins + "/", "https://login.acme.example": hydra.URL, "https://admin.acme.example": hydra.AdminURL, "client_id=broker": "client_id=" + client.ID,
	}
	d.openShell(t, "PATH="+harness.PathWithVault(t), "HOME="+d.dir, "XDG_RUNTIME_DIR="+d.dir, "VAULT_ADDR="+d.vault.Addr, "TOKENBROKER_AGENT=off")
	d.followThePage(t, hydra)
}

// followThePage enters what the page shows, and says how long each part has taken. Nobody
// sits down with a token of the test's: the page's own logins must do.
func (d *desk) followThePage(t *testing.T, hydra *harness.Hydra) {
	t.Helper()
	content, err := os.ReadFile(firstHour)
	require.NoError(t, err)
	began, token, commands := time.Now(), "", 0
	for _, b := range blocksOf(t, filepath.Base(firstHour), string(content)) {
		started := time.Now()
		for _, c := range b.commands {
			if strings.HasPrefix(c.text, "vault lease revoke") {
				require.True(t, hydra.Introspect(t, token).Active)
			}
			output := d.enter(t, c)
			commands++
			if read := tokenLine.FindStringSubmatch(output); read != nil {
				token, d.values["<access_token>"] = read[1], read[1]
				t.Logf("FIRST TOKEN: %.1f s after the release's files, by %d commands", time.Since(began).Seconds(), commands)
			}
		}
		t.Logf("%-20s %6.1f s  %s", b.where, time.Since(started).Seconds(), strings.SplitN(b.commands[0].text, "\n", 2)[0])
	}
	require.NotEmpty(t, token)
	require.False(t, hydra.Introspect(t, token).Active)
	t.Logf("%d commands in all, %.1f s", commands, time.Since(began).Seconds())
}

var tokenLine = regexp.MustCompile(`(?m)^access_token\s+(\S+)$`)

// standIn are the files of a release that the page uses, of what make build has made.
func standIn(t *testing.T, dir string) {
	t.Helper()
	sums, plugin := "", ""
	for _, command := range []string{harness.PluginName, "tokenbroker"} {
		name := command + "_v0.1.0_linux_amd64"
		content, err := os.ReadFile(filepath.Join(filepath.Dir(harness.PluginPath(t)), command))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600)) // as a browser saves it
		sum := fmt.Sprintf("%x", sha256.Sum256(content))
		sums += sum + "  " + name + "\n"
		if command == harness.PluginName {
			plugin = sum
		}
	}
	version, err := exec.Command(harness.PluginPath(t), "-version").Output()
	require.NoError(t, err)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "register"), 0o700))
	for name, content := range map[string]string{
		"SHA256SUMS": sums, "SHA256SUMS.sig": string(ed25519.Sign(private, []byte(sums))),
		"release.pub": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"register/vault_linux_amd64.sh": fmt.Sprintf("vault plugin register -sha256=%s -command=%[2]s_v0.1.0_linux_amd64 -version=%s secret %[2]s\n",
			plugin, harness.PluginName, strings.TrimSpace(string(version))),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
}
