// Command demo shows the broker's main job on real parts: a Vault with the built
// plugin, and the OpenID Provider of zitadel/oidc as the authorization server. An
// agent that acts for a user exchanges the user's login for a token of less scope and
// another audience; the service that the token is for asks the server about it before
// and after the lease is revoked. With -keep everything stays up until interrupted.
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
	t.Logf("Starting Vault with the plugin, and an OpenID Provider (zitadel/oidc) as the authorization server ...")
	vault := harness.StartVault(t, harness.VaultOptions{})
	op := harness.StartOP(t)
	parent, service, stranger := harness.OPJWT, harness.OPAPI, harness.OPWeb
	vault.Enable(t, "broker")
	login, _ := op.Login(t, parent, "email", "profile")
	t.Logf("Vault is at %s, the provider at %s. A user has logged in there.\n", vault.Addr, op.URL)

	cli := func(args ...string) string { return run(t, vault, args...) }
	t.Logf("1. An operator stores the parent credential, once, and says whose logins count.")
	cli("write", "broker/providers/oauth2/op", "issuer="+op.URL, "client_id="+parent.ID, "client_secret="+parent.Secret,
		"exchange=token-exchange", "audience_parameter=audience", "verify=jwt", "verify_connection=false") // it may have no token of its own
	cli("write", "broker/issuers/op", "oidc_discovery_url="+op.URL, "bound_audiences="+parent.ID)
	t.Logf("2. A role says who may get what.")
	cli("write", "broker/roles/mail", "provider=oauth2/op", "mode=exchange", "subject_issuers=op",
		"scopes=openid,email,profile", "audiences="+service.ID, "ttl=2m", "require_revocable=true",
		`parameters={"subject_token_type":"urn:ietf:params:oauth:token-type:id_token"}`)
	t.Logf("3. An agent that has the user's login asks for what its task needs, and no more.")
	printed := cli("write", "broker/creds/mail", "subject_token="+login, "scopes=openid,email", "audiences="+service.ID)
	token, lease := field(printed, "access_token"), field(printed, "lease_id")

	t.Logf("4. The service that it is for asks the authorization server about the token; so does another.")
	op.MustBeActive(t, service, token)
	seen := op.Introspect(t, service, token)
	t.Logf("   asked by %s: active=%v sub=%q scope=%q   <- the token is accepted", service.ID, seen.Active, seen.Subject, seen.Scope)
	op.MustBeInactive(t, stranger, token)
	t.Logf("   asked by %s: active=%v   <- and is of no use elsewhere\n", stranger.ID, op.Introspect(t, stranger, token).Active)
	t.Logf("5. The lease is revoked.")
	cli("lease", "revoke", "-sync", lease)
	op.MustBeInactive(t, service, token)
	t.Logf("   asked by %s: active=%v   <- the token is refused\n", service.ID, op.Introspect(t, service, token).Active)
	t.Logf("The token worked, the lease was revoked, the token is dead at the server.")
	if keep {
		linger(t, vault, login)
	}
}

var secrets = regexp.MustCompile(`(client_secret=|subject_token=|access_token\s+\S{8})\S+`)

// run prints a command as one would type it, and what it answered, less secrets.
func run(t harness.TB, vault *harness.Vault, args ...string) string {
	typed := "vault"
	for _, arg := range args {
		if strings.ContainsAny(arg, `{"`) {
			arg = "'" + arg + "'"
		}
		typed += " " + arg
	}
	t.Logf("   $ %s", secrets.ReplaceAllString(typed, "$1…"))
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

func linger(t harness.TB, vault *harness.Vault, login string) {
	t.Logf("\nLeft running. In another shell:\n\n  export VAULT_ADDR=%s VAULT_TOKEN=%s\n  vault write broker/creds/mail subject_token=%s\n\nCtrl-C ends it.", vault.Addr, vault.Token, login)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	<-interrupted
}
