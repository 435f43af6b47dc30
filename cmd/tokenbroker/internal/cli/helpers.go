package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/agent"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/formats"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// maxInput bounds what is read of a tool.
const maxInput = 1 << 20

const keepingHelp = `

The token is kept in the memory of one process of yours, behind a socket of yours alone, for
as long as it was promised to the tool (--hold), and is then revoked; tools that ask again
get the same one. The process starts by itself and ends when it keeps nothing
(tokenbroker agent). Where there can be none, as on Windows, or with --no-agent, each
request gets a token that lives for --hold.`

// helper is one of the formats' commands: what it was told on its command line.
type helper struct {
	app      *app
	format   string
	ask      askFlags
	hosts    []string
	field    string
	username string
	hold     time.Duration
	noAgent  bool
}

func (h *helper) register(flags *pflag.FlagSet, hold time.Duration) {
	h.ask.register(flags)
	flags.StringVar(&h.field, "field", "", "the `field` of the answer that is the token; default: access_token, or the only one")
	flags.DurationVar(&h.hold, "hold", hold, "how long a tool may use what it got before it must ask again")
	flags.BoolVar(&h.noAgent, "no-agent", variable(h.app.environ, "TOKENBROKER_AGENT") == "off", "keep nothing in a process; also TOKENBROKER_AGENT=off")
}

func (h *helper) registerHosts(flags *pflag.FlagSet) {
	flags.StringSliceVar(&h.hosts, "host", nil, "answer for these `hosts` alone, such as git.acme.example or *.acme.example")
}

func (h *helper) wanted(role string) (agent.Wanted, error) {
	ask, err := h.ask.of(role, h.app.environ)
	if err != nil {
		return agent.Wanted{}, err
	}
	connection, err := h.app.connection()
	return agent.Wanted{Connection: connection, Ask: ask, Hold: h.hold}, err
}

// get is a credential of a role.
func (h *helper) get(role string) (formats.Credential, error) {
	c := formats.Credential{Field: h.field, Username: h.username}
	w, err := h.wanted(role)
	if err != nil {
		return c, err
	}
	if !h.noAgent && agent.Supported {
		lent, err := agent.Get(h.app.environ, w)
		if err == nil {
			c.Child, c.Until = lent.Child, lent.Until
			return c, nil
		}
		if !errors.Is(err, agent.ErrNone) {
			return c, err
		}
		h.app.say("no process can keep tokens here: %s; this one lives for %s", strings.ReplaceAll(strings.TrimPrefix(err.Error(), agent.ErrNone.Error()+"\n"), "\n", ": "), h.hold)
	}
	client, err := w.Connection.Open()
	if err != nil {
		return c, err
	}
	if w.Ask.TTL == "" {
		w.Ask.TTL = fmt.Sprintf("%ds", int(h.hold.Seconds()))
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if c.Child, err = client.Get(ctx, w.Ask); err != nil {
		return c, err
	}
	c.Until = c.Child.Ends
	return c, nil
}

// answer prints what a format makes of a role's token. A role that cannot serve it is
// told with those that could.
func (h *helper) answer(role string, write func(formats.Credential) (string, error)) error {
	text, err := h.written(role, write)
	if err != nil {
		return err
	}
	return h.app.print(text)
}

func (h *helper) written(role string, write func(formats.Credential) (string, error)) (string, error) {
	c, err := h.get(role)
	if err != nil {
		return "", err
	}
	text, err := write(c)
	if fail.KindOf(err) == fail.Unservable {
		return "", fail.New(fail.Unservable, "%s. %s", strings.TrimSuffix(err.Error(), "."), h.others())
	}
	return text, err
}

// others says which roles could serve the format.
func (h *helper) others() string {
	client, err := h.app.open()
	if err != nil {
		return "Which roles could is not known: " + err.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
	defer cancel()
	roles, err := client.Roles(ctx)
	if err != nil {
		return "Which roles could is not known: " + err.Error()
	}
	var names []string
	for _, r := range roles {
		if formats.Serves(h.format, r) {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return "No role that you may use could"
	}
	return "These could: " + strings.Join(names, ", ")
}

// forget tells that a secret does not work.
func (h *helper) forget(role, secret string) error {
	w, err := h.wanted(role)
	if err != nil || secret == "" {
		return err
	}
	return agent.Forget(h.app.environ, w, secret)
}

func (a *app) input() (string, error) {
	text, err := io.ReadAll(io.LimitReader(a.stdin, maxInput))
	if err != nil {
		return "", fail.New(fail.Output, "cannot read stdin: %s", pathless(err))
	}
	return string(text), nil
}

func (h *helper) command(use, short, long string, args cobra.PositionalArgs, run func(args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: h.format + " " + use, GroupID: "format", Short: short, Long: long + keepingHelp, Args: args,
		ValidArgsFunction: func(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return h.app.completeRoles(c, args, begun)
		},
		RunE: func(_ *cobra.Command, args []string) error { return run(args) },
	}
}

func (a *app) helpers() []*cobra.Command {
	return []*cobra.Command{
		a.gitCommand(), a.awsCommand(), a.kubectlCommand(), a.dockerCommand(), a.gcpCommand(), a.terraformCommand(), a.cargoCommand(), a.bazelCommand(), a.mcpCommand(), a.tokenCommand(),
	}
}

func (a *app) gitCommand() *cobra.Command {
	h := &helper{app: a, format: formats.Git}
	var plain bool
	c := h.command("ROLE [get|store|erase]", "Answer git", `In git's configuration:

  [credential "https://git.acme.example"]
      helper =
      helper = "!tokenbroker git-credential ROLE"

The empty helper before it takes away those that would store the token. Where git says
that a token was refused (erase), it is revoked, and the next request gets another one. Over http a
token is sent to this machine alone, unless --allow-http.`, cobra.RangeArgs(1, 2), func(args []string) error {
		text, err := a.input()
		if err != nil {
			return err
		}
		asked := formats.ParseGit(text)
		elsewhere := !formats.Meant(h.hosts, asked.Host) ||
			asked.Protocol != "" && asked.Protocol != "https" && !plain && !formats.Loopback(asked.Host)
		switch {
		case len(args) == 2 && args[1] == "erase" && !elsewhere:
			return h.forget(args[0], asked.Password)
		case len(args) == 2 && args[1] != "get": // store, and what is still to come
			return nil
		case elsewhere:
			if formats.Meant(h.hosts, asked.Host) {
				a.say("no token is sent to %s over %s; --allow-http allows it", asked.Host, asked.Protocol)
			}
			return nil // git asks the next helper
		}
		return h.answer(args[0], func(c formats.Credential) (string, error) { return c.Git(asked) })
	})
	h.register(c.Flags(), formats.HoldsShortly)
	h.registerHosts(c.Flags())
	c.Flags().StringVar(&h.username, "username", "", "the user's name beside the token; default: the answer's, or x-access-token")
	c.Flags().BoolVar(&plain, "allow-http", false, "also answer for http, where everybody on the way reads the token")
	return c
}

func (a *app) awsCommand() *cobra.Command {
	h := &helper{app: a, format: formats.AWS}
	c := h.command("ROLE", "Answer AWS' SDKs and command", `In ~/.aws/config:

  [profile acme]
  credential_process = tokenbroker aws-credential-process ROLE`, cobra.ExactArgs(1), func(args []string) error {
		return h.answer(args[0], formats.Credential.AWS)
	})
	h.register(c.Flags(), formats.HoldsLong)
	return c
}

func (a *app) kubectlCommand() *cobra.Command {
	h := &helper{app: a, format: formats.Kubectl}
	c := h.command("ROLE", "Answer kubectl and whatever uses client-go", `In the kubeconfig:

  users:
  - name: acme
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1
        command: tokenbroker
        args: [kubectl-credential, ROLE]
        interactiveMode: Never`, cobra.ExactArgs(1), func(args []string) error {
		return h.answer(args[0], func(c formats.Credential) (string, error) {
			return c.Kubectl(variable(a.environ, "KUBERNETES_EXEC_INFO"))
		})
	})
	h.register(c.Flags(), formats.HoldsShortly)
	return c
}

func (a *app) dockerCommand() *cobra.Command {
	h := &helper{app: a, format: formats.Docker}
	c := h.command("ROLE get|erase|store|list", "Answer docker and its like", `Docker runs docker-credential-NAME. Make that a script on the PATH:

  #!/bin/sh
  exec tokenbroker docker-credential ROLE --host images.acme.example "$@"

and write in ~/.docker/config.json:

  {"credHelpers": {"images.acme.example": "NAME"}}`, cobra.ExactArgs(2), func(args []string) error {
		return h.docker(args[0], args[1])
	})
	h.register(c.Flags(), formats.HoldsShortly)
	h.registerHosts(c.Flags())
	c.Flags().StringVar(&h.username, "username", "", "the user's name beside the token; default: the answer's, or oauth2accesstoken")
	return c
}

// docker reads errors on stdout, beside exit code 1.
func (h *helper) docker(role, verb string) error {
	refuse := func(text string) error {
		if err := h.app.print(text + "\n"); err != nil {
			return err
		}
		return silent(1)
	}
	text, err := h.app.input()
	if err != nil {
		return err
	}
	server := strings.TrimSpace(text)
	switch verb {
	case "get":
		if !formats.Meant(h.hosts, server) {
			return refuse(formats.DockerNotFound)
		}
		if err := h.answer(role, func(c formats.Credential) (string, error) { return c.Docker(server) }); err != nil {
			h.app.say("%s", err)
			return refuse("tokenbroker: " + err.Error())
		}
		return nil
	case "list":
		return h.app.print("{}\n")
	case "erase": // docker logout; what docker had is not told
		return nil
	case "store":
		return refuse("tokenbroker stores nothing: docker login is not needed")
	}
	return refuse("tokenbroker does not know " + verb)
}

func (a *app) gcpCommand() *cobra.Command {
	h := &helper{app: a, format: formats.GCP}
	tokenType := formats.GCPTokenTypes[0]
	c := h.command("ROLE", "Answer Google's libraries", `In the credential configuration of a workload identity pool, of which
subject_token_type is urn:ietf:params:oauth:token-type:jwt:

  "credential_source": {"executable": {"command": "tokenbroker gcp-executable ROLE", "timeout_millis": 30000}}

and GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1. An output_file is not written.`, cobra.ExactArgs(1), func(args []string) error {
		if !slices.Contains(formats.GCPTokenTypes, tokenType) {
			return fail.New(fail.Usage, "--token-type is one of %s", strings.Join(formats.GCPTokenTypes, ", "))
		}
		text, err := h.written(args[0], func(c formats.Credential) (string, error) { return c.GCP(tokenType) })
		if err != nil {
			a.say("%s", err)
			text = formats.GCPFailure(err)
		}
		return a.print(text)
	})
	h.register(c.Flags(), formats.HoldsLong)
	c.Flags().StringVar(&tokenType, "token-type", tokenType, "subject_token_type of the configuration")
	return c
}

func (a *app) terraformCommand() *cobra.Command {
	h := &helper{app: a, format: formats.Terraform}
	c := h.command("ROLE get HOST", "Answer Terraform and OpenTofu", `They run terraform-credentials-NAME, from ~/.terraform.d/plugins. Make that a script:

  #!/bin/sh
  exec tokenbroker terraform-credentials ROLE --host app.acme.example "$@"

and write in ~/.terraformrc:

  credentials_helper "NAME" {}`, cobra.RangeArgs(2, 3), func(args []string) error {
		if args[1] != "get" || len(args) != 3 {
			return fail.New(fail.Usage, "tokenbroker stores nothing: %s is not needed", args[1])
		}
		if !formats.Meant(h.hosts, args[2]) {
			return a.print("{}\n")
		}
		return h.answer(args[0], formats.Credential.Terraform)
	})
	h.register(c.Flags(), formats.HoldsLong)
	h.registerHosts(c.Flags())
	return c
}

func (a *app) bazelCommand() *cobra.Command {
	h := &helper{app: a, format: formats.Bazel}
	c := h.command("ROLE get", "Answer Bazel", `Bazel wants a program without arguments. Make that a script:

  #!/bin/sh
  exec tokenbroker bazel-credential ROLE --host cache.acme.example "$@"

and write in .bazelrc:

  common --credential_helper=cache.acme.example=%workspace%/tools/credentials`, cobra.ExactArgs(2), func(args []string) error {
		if args[1] != "get" {
			return fail.New(fail.Usage, "tokenbroker does not know %q of Bazel's", args[1])
		}
		text, err := a.input()
		if err != nil {
			return err
		}
		var asked struct {
			URI string `json:"uri"`
			URL string `json:"url"`
		}
		if err := json.Unmarshal([]byte(text), &asked); err != nil {
			return fail.New(fail.Usage, "stdin is not Bazel's JSON")
		}
		place := asked.URI + asked.URL
		if _, err := url.Parse(place); err != nil || place == "" {
			return fail.New(fail.Usage, "stdin names no uri")
		}
		if !formats.Meant(h.hosts, place) {
			return formats.Elsewhere(h.hosts, place)
		}
		return h.answer(args[0], formats.Credential.Bazel)
	})
	h.register(c.Flags(), formats.HoldsShortly)
	h.registerHosts(c.Flags())
	return c
}

func (a *app) mcpCommand() *cobra.Command {
	h := &helper{app: a, format: formats.MCP}
	var header string
	c := h.command("ROLE", "Print HTTP headers as JSON, as Claude Code's headersHelper wants them", `In .mcp.json:

  {"mcpServers": {"acme": {"type": "http", "url": "https://mcp.acme.example",
    "headersHelper": "tokenbroker mcp-headers ROLE --host mcp.acme.example"}}}

--host is held against CLAUDE_CODE_MCP_SERVER_URL.`, cobra.ExactArgs(1), func(args []string) error {
		if place := variable(a.environ, "CLAUDE_CODE_MCP_SERVER_URL"); place != "" && !formats.Meant(h.hosts, place) {
			return formats.Elsewhere(h.hosts, place)
		}
		return h.answer(args[0], func(c formats.Credential) (string, error) { return c.Headers(header) })
	})
	h.register(c.Flags(), formats.HoldsLong)
	h.registerHosts(c.Flags())
	c.Flags().StringVar(&header, "header", "Authorization", "the header's `name`; any other than Authorization has the token alone")
	return c
}

func (a *app) tokenCommand() *cobra.Command {
	h := &helper{app: a, format: formats.Token}
	c := h.command("ROLE", "Print the token and nothing else", `For what reads a key from a command, such as Claude Code's apiKeyHelper. Better not at
a terminal.`, cobra.ExactArgs(1), func(args []string) error {
		return h.answer(args[0], formats.Credential.Bare)
	})
	h.register(c.Flags(), formats.HoldsShortly)
	return c
}

// cargoFlag is what cargo runs a credential provider with. The arguments that its
// configuration has come in each request.
const cargoFlag = "--cargo-plugin"

func (a *app) cargoCommand() *cobra.Command {
	h := &helper{app: a, format: formats.Cargo}
	var fromCargo bool
	c := h.command("ROLE", "Answer cargo", `In ~/.cargo/config.toml:

  [registries.acme]
  index = "sparse+https://crates.acme.example/index/"
  credential-provider = ["tokenbroker", "ROLE", "--host", "crates.acme.example"]

Cargo runs tokenbroker --cargo-plugin, and says the rest on stdin.`, cobra.ExactArgs(1), func(args []string) error {
		return a.cargo(func([]string) (*helper, string, error) { return h, args[0], nil })
	})
	h.register(c.Flags(), formats.HoldsShortly)
	h.registerHosts(c.Flags())
	c.Flags().BoolVar(&fromCargo, strings.TrimPrefix(cargoFlag, "--"), false, "")
	_ = c.Flags().MarkHidden(strings.TrimPrefix(cargoFlag, "--"))
	return c
}

// cargoPlugin is cargo's own way: role and flags come with each request.
func (a *app) cargoPlugin() error {
	return a.cargo(func(args []string) (*helper, string, error) {
		h := &helper{app: a, format: formats.Cargo}
		flags := pflag.NewFlagSet(formats.Cargo, pflag.ContinueOnError)
		flags.StringVar(&a.mount, "mount", a.mount, "")
		h.register(flags, formats.HoldsShortly)
		h.registerHosts(flags)
		if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
			return nil, "", fail.New(fail.Usage, `write credential-provider = ["tokenbroker", "ROLE", …] with the flags of tokenbroker cargo-credential`)
		}
		return h, flags.Arg(0), nil
	})
}

// cargo speaks with cargo until it says no more.
func (a *app) cargo(choose func(args []string) (*helper, string, error)) error {
	if err := a.print(formats.CargoHello); err != nil {
		return err
	}
	lines := bufio.NewScanner(a.stdin)
	lines.Buffer(nil, maxInput)
	for lines.Scan() {
		if err := a.print(a.cargoAnswer(lines.Bytes(), choose)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) cargoAnswer(line []byte, choose func(args []string) (*helper, string, error)) string {
	var asked formats.CargoRequest
	if err := json.Unmarshal(line, &asked); err != nil || asked.Version != 1 {
		return formats.CargoFailure("other", fail.New(fail.Usage, "tokenbroker speaks version 1 of cargo's protocol"))
	}
	if asked.Kind != "get" {
		return formats.CargoFailure("operation-not-supported", nil)
	}
	h, role, err := choose(asked.Args)
	if err != nil {
		return formats.CargoFailure("other", err)
	}
	if !formats.Meant(h.hosts, strings.TrimPrefix(asked.Registry.IndexURL, "sparse+")) {
		return formats.CargoFailure("url-not-supported", nil)
	}
	text, err := h.written(role, formats.Credential.Cargo)
	if err != nil {
		return formats.CargoFailure("other", err)
	}
	return text
}

// openVault is how the process that keeps tokens opens connections.
func openVault(c vault.Connection) (agent.Client, error) { return c.Open() }
