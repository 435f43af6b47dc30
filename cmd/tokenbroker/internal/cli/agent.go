package cli

import (
	"errors"
	"maps"
	"os"
	"os/signal"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/agent"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
)

func (a *app) agentCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "agent", GroupID: "look", Args: cobra.NoArgs,
		Short: "Look at the process that keeps tokens for tools, or end it",
		Long: "The commands that answer tools keep one token for each role and what is asked of it in the\n" +
			"memory of one process, which they start when it is not there. Its socket is in a folder of\n" +
			"yours alone, below XDG_RUNTIME_DIR or the folder for temporary files; it speaks to\n" +
			"processes of yours alone. It ends, and revokes what it keeps, when it is told to (stop,\n" +
			"SIGTERM), and by itself when everything that it kept has ended.",
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	status := &cobra.Command{
		Use: "status", Args: cobra.NoArgs, Short: "Say which roles' tokens are kept, and until when",
		RunE: func(*cobra.Command, []string) error {
			kept, err := agent.Status(a.environ)
			if errors.Is(err, agent.ErrNone) {
				a.say("no process keeps tokens")
				return nil
			}
			if err != nil {
				return err
			}
			text := ""
			for _, role := range slices.Sorted(maps.Keys(kept)) {
				text += role + "\t" + soon(kept[role]) + "\n"
			}
			return a.print(text)
		},
	}
	stop := &cobra.Command{
		Use: "stop", Args: cobra.NoArgs, Short: "Revoke all that is kept, and end the process",
		RunE: func(*cobra.Command, []string) error {
			err := agent.Stop(a.environ)
			if errors.Is(err, agent.ErrNone) {
				a.say("no process keeps tokens")
				return nil
			}
			return err
		},
	}
	var dir string
	run := &cobra.Command{
		Use: "run", Args: cobra.NoArgs, Hidden: true, Short: "Be the process that keeps tokens",
		RunE: func(*cobra.Command, []string) error {
			if dir == "" {
				var err error
				if dir, err = agent.Dir(a.environ); err != nil {
					return fail.New(fail.Config, "no tokens can be kept: %s", err)
				}
			}
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, forwarded()...)
			return agent.Run(dir, agent.NewKeeper(openVault), signals)
		},
	}
	run.Flags().StringVar(&dir, "dir", "", "the socket's folder")
	c.AddCommand(status, stop, run)
	return c
}
