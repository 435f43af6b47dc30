package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/lease"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

const execHelp = `Gets a token of each role, runs the command with them, keeps their leases while it runs, and
revokes them when it ends, however it ends. Signals are passed on; the exit code is the
command's.

Without --env, --file, --files and --stdin, each part of a role's answer stands in a variable
named after both, such as DEPLOY_ACCESS_TOKEN; what is known by another name stands there,
too: GH_TOKEN and GITHUB_TOKEN of a provider of type github, GITLAB_TOKEN of type gitlab, and
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. VAULT_TOKEN and BAO_TOKEN are
taken away from the command, which shall use what it got; a token in ~/.vault-token it can
still read.

Files are in a folder of the user's alone, below XDG_RUNTIME_DIR if there is one, and are gone
when the command has ended. When a lease can be renewed no further, files get a new token
before the old one dies; a variable cannot change while a command runs: there it is said on
stderr, or with --stop-at-end the command gets SIGTERM.

If tokenbroker itself is killed (SIGKILL), nothing renews or revokes any more: the tokens die
with their leases' time, and the folder stays. The leases also end with the login that they
were got with (vault token lookup).`

// execution is one run of a command.
type execution struct {
	app              *app
	ask              askFlags
	env, file        []string
	files, keepLogin bool
	stdinFrom        string
	stopAtEnd        bool
	killAfter        time.Duration
	revokeWithin     time.Duration
	client           *vault.Client
	mu               sync.Mutex
	leases           []*lease.Lease // by role
	replaced         []*lease.Lease // whose tokens the command may still use
	dir              string
	command          *exec.Cmd
	signals          chan os.Signal
}

func (a *app) execCommand() *cobra.Command {
	e := &execution{app: a}
	c := &cobra.Command{
		Use: "exec ROLE… [flags] -- COMMAND [ARGUMENT…]", GroupID: "run", ValidArgsFunction: a.completeRoles,
		Short: "Run a command with tokens that live as long as it does",
		Long:  execHelp,
		Example: "  tokenbroker exec deploy -- ./deploy.sh\n" +
			"  tokenbroker exec deploy --env API_TOKEN=access_token --ttl 5m -- make release\n" +
			"  tokenbroker exec orders mail --file ORDERS_TOKEN_FILE=orders:access_token --env MAIL=mail:access_token -- agent",
		Args: func(c *cobra.Command, args []string) error {
			switch dash := c.ArgsLenAtDash(); {
			case dash < 0:
				return errors.New("write -- before the command")
			case dash == 0:
				return errors.New("no role is named")
			case dash == len(args):
				return errors.New("no command stands after --")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			dash := c.ArgsLenAtDash()
			return e.run(args[:dash], args[dash:])
		},
	}
	flags := c.Flags()
	flags.StringArrayVar(&e.env, "env", nil, "a variable for the command, as `NAME=[ROLE:]FIELD`")
	flags.StringArrayVar(&e.file, "file", nil, "a variable with the path of a file that holds the field, as `NAME=[ROLE:]FIELD`")
	flags.BoolVar(&e.files, "files", false, "put each part into a file, $TOKENBROKER_DIR/ROLE/FIELD")
	flags.StringVar(&e.stdinFrom, "stdin", "", "write this `[ROLE:]FIELD` to the command's stdin, and close it")
	flags.BoolVar(&e.keepLogin, "keep-vault-token", false, "leave VAULT_TOKEN and BAO_TOKEN in the command's environment")
	flags.BoolVar(&e.stopAtEnd, "stop-at-end", false, "end the command (SIGTERM) when a token that it has in a variable can be kept no longer")
	flags.DurationVar(&e.killAfter, "kill-after", 0, "kill a command (SIGKILL) that runs on for so long after SIGTERM, SIGINT or SIGHUP, so that there is time to revoke")
	flags.DurationVar(&e.revokeWithin, "revoke-within", 15*time.Second, "for how long to try to revoke at the end")
	e.ask.register(flags)
	return c
}

func (e *execution) run(roles, command []string) error {
	if len(slices.Compact(slices.Sorted(slices.Values(roles)))) < len(roles) {
		return fail.New(fail.Usage, "a role is named twice")
	}
	path, code, err := find(command[0])
	if err != nil {
		e.app.say("%s", err)
		return silent(code)
	}
	if e.client, err = e.app.open(); err != nil {
		return err
	}
	e.signals = make(chan os.Signal, 16)
	signal.Notify(e.signals, forwarded()...)
	defer e.end()
	if err := e.get(roles); err != nil {
		return err
	}
	if stop := e.asked(); stop != nil {
		return silent(128 + number(stop))
	}
	environ, err := e.environment()
	if err != nil {
		return err
	}
	e.warnOfLogin()
	e.command = exec.Command(path, command[1:]...) //nolint:gosec,noctx // that is what it is for; it ends by signals
	e.command.Args[0] = command[0]
	e.command.Env, e.command.Stdin, e.command.Stdout, e.command.Stderr = environ, os.Stdin, os.Stdout, os.Stderr
	return e.start()
}

// find is the command's path, or with which code to end.
func find(name string) (string, int, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, 0, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return "", 127, fmt.Errorf("%s: there is no such command", name)
	}
	return "", 126, fmt.Errorf("%s: %w", name, pathless(err))
}

// get asks for all children. A signal does not cut a request off: its token would live
// unseen.
func (e *execution) get(roles []string) error {
	for _, role := range roles {
		ask, err := e.ask.of(role, e.app.environ)
		if err != nil {
			return err
		}
		child, err := e.child(ask)
		if err != nil {
			return err
		}
		e.leases = append(e.leases, lease.New(e.client, child))
		for _, warning := range child.Warnings {
			e.app.say("role %s: %s", role, warning)
		}
	}
	return nil
}

func (e *execution) child(ask vault.Ask) (*vault.Child, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return e.client.Get(ctx, ask)
}

// loginTimeout bounds a question that nothing hangs on.
const loginTimeout = 3 * time.Second

// warnOfLogin tells of a login that ends before the leases that were got with it do.
func (e *execution) warnOfLogin() {
	ctx, cancel := context.WithTimeout(context.Background(), loginTimeout)
	defer cancel()
	ends := e.client.LoginEnds(ctx)
	for _, l := range e.leases {
		if !ends.IsZero() && ends.Before(l.Ends()) {
			e.app.say("your login ends at %s, and every token that was got with it: renew it meanwhile (vault token renew), or use one that lives longer", soon(ends))
			return
		}
	}
}

// asked is a signal that came before the command has begun and wants an end.
func (e *execution) asked() os.Signal {
	for {
		select {
		case s := <-e.signals:
			if ends(s) {
				return s
			}
		default:
			return nil
		}
	}
}

func (e *execution) children() []*vault.Child {
	all := make([]*vault.Child, 0, len(e.leases))
	for _, l := range e.leases {
		all = append(all, l.Child())
	}
	return all
}

// byVariable reports whether the command has tokens where nobody can change them.
func (e *execution) byVariable() bool {
	return len(e.env) > 0 || e.stdinFrom != "" || !e.byFile()
}

func (e *execution) byFile() bool { return e.files || len(e.file) > 0 }

// environment is the command's: ours, and the tokens.
func (e *execution) environment() ([]string, error) {
	variables := map[string]string{}
	for _, entry := range e.env {
		name, reference, err := assignment("env", entry)
		if err != nil {
			return nil, err
		}
		if variables[name], err = reference.find(e.children()); err != nil {
			return nil, err
		}
	}
	if len(e.env) == 0 && e.stdinFrom == "" && !e.byFile() {
		var err error
		if variables, err = defaults(e.children()); err != nil {
			return nil, err
		}
	}
	if e.byFile() {
		if err := e.makeDir(); err != nil {
			return nil, err
		}
		variables["TOKENBROKER_DIR"] = e.dir
		if err := e.writeFiles(variables); err != nil {
			return nil, err
		}
	}
	environ := make([]string, 0, len(e.app.environ)+len(variables))
	for _, entry := range e.app.environ {
		name, _, _ := strings.Cut(entry, "=")
		if _, set := variables[name]; set || vault.IsToken(name) && !e.keepLogin {
			continue
		}
		environ = append(environ, entry)
	}
	for name, value := range variables {
		if strings.ContainsRune(value, 0) {
			return nil, fail.New(fail.Unservable, "what %s should hold has a zero byte, and no variable can: use --file", name)
		}
		environ = append(environ, name+"="+value)
	}
	return environ, nil
}

// assignment reads NAME=[ROLE:]FIELD.
func assignment(flag, entry string) (string, reference, error) {
	name, field, ok := strings.Cut(entry, "=")
	if !ok || name == "" || field == "" {
		return "", reference{}, fail.New(fail.Usage, "--%s %s: write NAME=FIELD or NAME=ROLE:FIELD", flag, name)
	}
	return name, parseReference(field), nil
}

// defaults are the variables of a command that nobody chose any for.
func defaults(children []*vault.Child) (map[string]string, error) {
	variables, from := map[string]string{}, map[string]string{}
	for _, child := range children {
		kind, _, _ := strings.Cut(child.Text("provider"), "/")
		for _, field := range child.Parts() {
			for _, name := range append(known(kind, field), shout(child.Role)+"_"+shout(field)) {
				if other, taken := from[name]; taken && other != child.Role {
					return nil, fail.New(fail.Usage, "roles %s and %s would both set %s: choose variables by --env NAME=ROLE:FIELD", other, child.Role, name)
				}
				variables[name], from[name] = child.Text(field), child.Role
			}
		}
	}
	return variables, nil
}

// known are the names by which programs look for a part.
func known(kind, field string) []string {
	switch {
	case kind == "github" && field == "access_token":
		return []string{"GH_TOKEN", "GITHUB_TOKEN"}
	case kind == "gitlab" && field == "access_token":
		return []string{"GITLAB_TOKEN"}
	case field == "access_key_id":
		return []string{"AWS_ACCESS_KEY_ID"}
	case field == "secret_access_key":
		return []string{"AWS_SECRET_ACCESS_KEY"}
	case field == "session_token":
		return []string{"AWS_SESSION_TOKEN"}
	}
	return nil
}

// shout is a name as variables have it.
func shout(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}
