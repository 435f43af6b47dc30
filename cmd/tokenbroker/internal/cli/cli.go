// Package cli is the command line: what is said on it, what is done, and with which exit
// code it ends.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// callTimeout bounds what a person or a tool waits for. A creds request asks a provider.
const callTimeout = time.Minute

// app is what all commands share.
type app struct {
	version  string
	environ  []string // as it was at the beginning
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	mount    string
	exitCode int // of a command that was run
}

// Main runs a command line, and returns the exit code.
func Main(version string, args []string) int {
	// A reader that has gone is an error of a write, and no reason to leave leases behind.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	a := &app{version: version, environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	return a.run(args)
}

func (a *app) run(args []string) int {
	root := a.root()
	if len(args) == 1 && args[0] == cargoFlag {
		return a.ended(a.cargoPlugin())
	}
	root.SetArgs(args)
	return a.ended(root.ExecuteContext(context.Background()))
}

// silent ends with an exit code and says nothing more.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit code %d", int(s)) }

func (a *app) ended(err error) int {
	var mute silent
	switch {
	case err == nil:
		return a.exitCode
	case errors.As(err, &mute):
		return int(mute)
	}
	a.say("%s", err)
	return int(fail.KindOf(err))
}

// say tells the person, on stderr. Whoever calls it passes no secret.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.stderr, "tokenbroker: "+fmt.Sprintf(format, args...))
}

// print writes what was asked for.
func (a *app) print(text string) error {
	if _, err := io.WriteString(a.stdout, text); err != nil {
		return fail.New(fail.Output, "cannot write to stdout: %s", pathless(err))
	}
	return nil
}

func pathless(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

const exitCodes = `Exit codes: 0 done; 64 the command line is wrong; 65 the role's answer has not what
the format needs; 70 a fault of tokenbroker's own; 74 what was to be written could not be;
75 Vault, the engine or the provider does not answer now, try again; 77 refused by
a policy or the engine; 78 address, certificate, login, mount or role are not right.
exec ends with the command's own, with 128 and the signal's number if one ended it, 126 if
it cannot be started and 127 if it is not there. docker-credential fails with 1, and
gcp-executable says in its answer what failed and ends with 0, as their readers want it.`

const connectionHelp = `Vault or OpenBao is found as their own commands find it: VAULT_ADDR, VAULT_TOKEN,
VAULT_NAMESPACE, VAULT_CACERT, VAULT_CLIENT_CERT, VAULT_PROXY_ADDR and so on, or the same with
BAO_, which counts where both are set; without a token the token helper of the
configuration file is asked, or ~/.vault-token read.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tokenbroker",
		Short: "Use the token broker's tokens without code",
		Long: "Hands child tokens of the token broker, a secrets engine of Vault and OpenBao, to programs\n" +
			"that know nothing of it.\n\n" + connectionHelp + "\n\n" + exitCodes,
		Version:       a.version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	mount := "broker"
	for _, entry := range a.environ {
		if value, ok := strings.CutPrefix(entry, "TOKENBROKER_MOUNT="); ok && value != "" {
			mount = value
		}
	}
	root.PersistentFlags().StringVar(&a.mount, "mount", mount, "where the engine is mounted; also TOKENBROKER_MOUNT")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetIn(a.stdin)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fail.New(fail.Usage, "%s (%s --help)", err, c.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run something with tokens:"}, &cobra.Group{ID: "format", Title: "Answer tools in their own form:"}, &cobra.Group{ID: "look", Title: "Look and end:"}, &cobra.Group{ID: "make", Title: "Publish and convert:"})
	root.SetHelpCommandGroupID("look")
	root.SetCompletionCommandGroupID("look")
	root.AddCommand(a.execCommand(), a.listCommand(), a.explainCommand(), a.revokeCommand(), a.agentCommand(), a.publishCommand(), a.convertCommand(), a.manCommand())
	root.AddCommand(a.helpers()...)
	usageErrors(root)
	return root
}

// usageErrors makes errors about arguments such of usage.
func usageErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return fail.New(fail.Usage, "%s (%s --help)", err, c.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usageErrors(sub)
	}
}

// connection is how to speak to Vault, logged in.
func (a *app) connection() (vault.Connection, error) {
	c, err := vault.FromEnvironment(a.environ, a.mount)
	if err != nil {
		return c, err
	}
	err = c.Login()
	return c, err
}

// open is a client, logged in.
func (a *app) open() (*vault.Client, error) {
	c, err := a.connection()
	if err != nil {
		return nil, err
	}
	return c.Open()
}
