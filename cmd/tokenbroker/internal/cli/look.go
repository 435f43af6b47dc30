package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/formats"
)

func (a *app) listCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", GroupID: "look", Args: cobra.NoArgs,
		Short: "List the roles that you may use, and the formats that they can answer in",
		Long: "Lists the roles that you may use, as far as can be told beforehand: a role that is listed may\n" +
			"refuse all the same, and one that is not listed refuses. FIELDS are the parts of the answer;\n" +
			"FORMATS the commands here that can make something of it.",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), callTimeout)
			defer cancel()
			client, err := a.open()
			if err != nil {
				return err
			}
			roles, err := client.Roles(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				all := map[string]any{}
				for _, r := range roles {
					info := maps.Clone(r.All)
					if info == nil {
						info = map[string]any{}
					}
					info["formats"] = formats.For(r)
					all[r.Name] = info
				}
				return a.printJSON(all)
			}
			if len(roles) == 0 {
				a.say("there is no role that you may use")
				return nil
			}
			var out bytes.Buffer
			table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ROLE\tPROVIDER\tMODE\tREVOCATION\tBRINGS\tFIELDS\tFORMATS")
			for _, r := range roles {
				fmt.Fprintln(table, strings.Join([]string{r.Name, r.Provider, r.Mode, r.Revocation, listed(r.Brings), listed(r.Fields), listed(formats.For(r))}, "\t"))
			}
			if err := table.Flush(); err != nil {
				return err
			}
			return a.print(out.String())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, with all that is known of each")
	return c
}

func listed(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}

func (a *app) printJSON(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return a.print(string(text) + "\n")
}

func (a *app) explainCommand() *cobra.Command {
	var ask askFlags
	var entity string
	var asJSON bool
	c := &cobra.Command{
		Use: "explain ROLE", GroupID: "look", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRoles,
		Short: "Say why a role would or would not give you a token",
		Long: "Asks roles/ROLE/explain, for which you need update there, and prints the decision and every\n" +
			"reason against it. Nothing is minted. Ends with 77 if you would get no token.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), callTimeout)
			defer cancel()
			wanted, err := ask.of(args[0], a.environ)
			if err != nil {
				return err
			}
			client, err := a.open()
			if err != nil {
				return err
			}
			said, err := client.Explain(ctx, wanted, entity)
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(said)
			} else {
				err = a.printFields(said)
			}
			if allowed, _ := said["allowed"].(bool); err == nil && !allowed {
				return silent(fail.Refused)
			}
			return err
		},
	}
	ask.register(c.Flags())
	c.Flags().StringVar(&entity, "entity", "", "decide for the entity with this `id` instead")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printFields prints names and values, lists line by line.
func (a *app) printFields(data map[string]any) error {
	var out bytes.Buffer
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(data)) {
		values, isList := data[name].([]any)
		if !isList {
			values = []any{data[name]}
		}
		for i, value := range values {
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(table, "%s\t%s\n", name, asText(value))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return a.print(out.String())
}

func (a *app) revokeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "revoke LEASE|GRANT…", GroupID: "look", Args: cobra.MinimumNArgs(1),
		Short: "End leases or grants, and with them their tokens",
		Long: "A lease is what Vault calls it, such as broker/creds/deploy/53dySE…, and needs update on\n" +
			"sys/leases/revoke; a grant is what the engine calls grant_id, and needs update on\n" +
			"revoke/grant/…, which operators have. What is ended is dead at the provider when this returns,\n" +
			"or the message says what is still tried.",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.open()
			if err != nil {
				return err
			}
			var first error
			for _, id := range args {
				ctx, cancel := context.WithTimeout(c.Context(), callTimeout)
				var pending any
				if strings.Contains(id, "/") {
					err = client.Revoke(ctx, id)
				} else {
					var said map[string]any
					said, err = client.RevokeGrant(ctx, id)
					pending = said["pending"]
					if unknown, _ := said["unknown"].(bool); unknown {
						err = fail.New(fail.Config, "no such grant is known: is its id right?")
					}
				}
				cancel()
				switch {
				case err != nil:
					a.say("%s: %s", id, err)
					if first == nil {
						first = silent(fail.KindOf(err))
					}
				case pending != nil && asText(pending) != "0":
					a.say("%s: its token is not dead yet; the engine goes on trying", id)
					first = silent(fail.Unavailable)
				default:
					a.say("%s: revoked", id)
				}
			}
			return first
		},
	}
	return c
}

// soon is a lease's end in words.
func soon(at time.Time) string { return at.Local().Format(time.DateTime) }
