// Command demo shows the broker's main job on real parts: a Vault with the built
// plugin, and Ory Hydra as the authorization server. It brokers a token, lets
// the server say that it is good, revokes the lease, and lets the server say
// that it is dead. With -keep everything stays up until interrupted.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

func main() {
	keep := flag.Bool("keep", false, "leave the servers running until interrupted")
	flag.Parse()
	if err := harness.Run(os.Stdout, func(t harness.TB) { demo(t, *keep) }); err != nil {
		fmt.Fprintln(os.Stderr, "demo failed:", err)
		os.Exit(1)
	}
}

func demo(t harness.TB, keep bool) {
	t.Logf("Starting Vault with the plugin, and Ory Hydra as the authorization server ...")
	vault := harness.StartVault(t, harness.VaultOptions{})
	hydra := harness.StartHydra(t, harness.HydraOptions{})
	parent := hydra.CreateClient(t, harness.HydraClient{
		Scopes: []string{"repo:read", "repo:write"}, Audiences: []string{"https://api.example.com"},
	})
	vault.Enable(t, "broker")
	t.Logf("Vault is at %s, Hydra at %s.\n", vault.Addr, hydra.URL)

	cli := func(args ...string) string { return run(t, vault, args...) }
	t.Logf("1. An operator stores the parent credential, once.")
	cli("write", "broker/providers/oauth2/hydra", "issuer="+hydra.URL, "client_id="+parent.ID,
		"client_secret="+parent.Secret, "audience_parameter=audience",
		"introspection_url="+hydra.AdminURL+"/admin/oauth2/introspect", "verify=introspect")
	t.Logf("2. A role says who may get what.")
	cli("write", "broker/roles/deploy", "provider=oauth2/hydra", "scopes=repo:read,repo:write",
		"audiences=https://api.example.com", "ttl=10m", "require_revocable=true")
	t.Logf("3. An agent asks for what its task needs, and no more.")
	printed := cli("read", "broker/creds/deploy", "scopes=repo:read")
	token, lease := field(printed, "access_token"), field(printed, "lease_id")

	t.Logf("4. The authorization server itself is asked about the token.")
	hydra.MustBeActive(t, token)
	seen := hydra.Introspect(t, token)
	t.Logf("   hydra: active=%v scope=%q aud=%v   <- the token is accepted\n", seen.Active, seen.Scope, seen.Audience)
	t.Logf("5. The lease is revoked.")
	cli("lease", "revoke", "-sync", lease)
	hydra.MustBeInactive(t, token)
	t.Logf("   hydra: active=%v   <- the token is refused\n", hydra.Introspect(t, token).Active)
	t.Logf("The token worked, the lease was revoked, the token is dead at the server.")
	if keep {
		linger(t, vault)
	}
}

var secrets = regexp.MustCompile(`(client_secret=|access_token\s+\S{8})\S+`)

// run prints a command as one would type it, and what it answered, less secrets.
func run(t harness.TB, vault *harness.Vault, args ...string) string {
	t.Logf("   $ vault %s", secrets.ReplaceAllString(strings.Join(args, " "), "$1…"))
	output := vault.CLI(t, args...)
	for _, line := range strings.Split(secrets.ReplaceAllString(output, "$1…"), "\n") {
		t.Logf("   %s", line)
	}
	t.Logf("")
	return output
}

// field finds a value in the table that vault prints.
func field(table, name string) string {
	for _, line := range strings.Split(table, "\n") {
		if words := strings.Fields(line); len(words) == 2 && words[0] == name {
			return words[1]
		}
	}
	return ""
}

func linger(t harness.TB, vault *harness.Vault) {
	t.Logf("\nLeft running. In another shell:\n\n  export VAULT_ADDR=%s VAULT_TOKEN=%s\n  vault read broker/creds/deploy\n\nCtrl-C ends it.", vault.Addr, vault.Token)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	<-interrupted
}
