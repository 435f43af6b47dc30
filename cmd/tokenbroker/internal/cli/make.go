package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/octosts"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// The documents that an issuer publishes, below its URL.
const (
	wellKnown = ".well-known"
	discovery = "openid-configuration"
	keySet    = "jwks.json"
)

func (a *app) publishCommand() *cobra.Command {
	return &cobra.Command{
		Use: "publish DIR", GroupID: "make", Args: cobra.ExactArgs(1),
		Short: "Write the issuer's discovery document and keys, for a static host",
		Long: "For verifiers that do not reach Vault. Writes .well-known/openid-configuration and\n" +
			".well-known/jwks.json below DIR, as the mount publishes them; serve DIR at the issuer's URL\n" +
			"(config issuer). No login is needed. Keys are published an hour before they sign, so run this\n" +
			"at least every half an hour; what was there stays where something fails. After an emergency\n" +
			"rotation (issuer/rotate emergency=true) run it at once, and see that no cache keeps the old keys.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), callTimeout)
			defer cancel()
			return a.publish(ctx, args[0])
		},
	}
}

func (a *app) publish(ctx context.Context, dir string) error {
	connection, err := vault.FromEnvironment(a.environ, a.mount)
	if err != nil {
		return err
	}
	client, err := connection.Open()
	if err != nil {
		return err
	}
	documents := map[string][]byte{}
	for _, name := range []string{keySet, discovery} {
		if documents[name], err = client.Published(ctx, name); err != nil {
			return err
		}
	}
	var found struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	var keys struct {
		Keys []json.RawMessage `json:"keys"`
	}
	switch {
	case json.Unmarshal(documents[discovery], &found) != nil || found.Issuer == "":
		return fail.New(fail.Internal, "what the mount publishes is no discovery document")
	case json.Unmarshal(documents[keySet], &keys) != nil || len(keys.Keys) == 0:
		return fail.New(fail.Internal, "what the mount publishes has no keys")
	case found.JWKSURI != found.Issuer+"/"+wellKnown+"/"+keySet:
		return fail.New(fail.Unservable, "the keys of %s are at %s, which is no place below it", found.Issuer, found.JWKSURI)
	}
	folder := filepath.Join(dir, wellKnown)
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // everybody may read it
		return fail.New(fail.Output, "%s cannot be made: %s", folder, pathless(err))
	}
	for _, name := range []string{keySet, discovery} { // keys first: the other one names them
		if err := replaceFile(filepath.Join(folder, name), documents[name]); err != nil {
			return err
		}
	}
	a.say("%d keys of %s: serve %s there", len(keys.Keys), found.Issuer, dir)
	return nil
}

// replaceFile puts a whole file in the place of the former one, or changes nothing.
func replaceFile(path string, content []byte) error {
	if before, err := os.ReadFile(path); err == nil && bytes.Equal(before, content) {
		return nil
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err == nil {
		_, err = file.Write(content)
		err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
		if err == nil {
			err = os.Rename(file.Name(), path)
		}
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}
	if err != nil {
		return fail.New(fail.Output, "%s cannot be written: %s", path, pathless(err))
	}
	return nil
}

func (a *app) convertCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "convert", GroupID: "make", Args: cobra.NoArgs, Short: "Turn what another product has into issuers and roles",
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var o octosts.Options
	var repository, organization string
	var asJSON bool
	octo := &cobra.Command{
		Use: "octo-sts FILE", Args: cobra.ExactArgs(1), Short: "Turn a trust policy of octo-sts into an issuer and a role",
		Long: "Prints the commands that write them, with a comment for each thing that becomes stricter;\n" +
			"nothing is written, and Vault is not asked. What a policy names becomes the role's\n" +
			"bound_subject_claims, and its regular expressions become its condition. A policy that\n" +
			"a role cannot say as strictly is refused. Write the role's provider, of type github, before.",
		Example: "  tokenbroker convert octo-sts .github/chainguard/deploy.sts.yaml --repository acme/api --audience vault",
		RunE: func(_ *cobra.Command, args []string) error {
			var isOne bool
			o.Owner, o.Repository, isOne = strings.Cut(repository, "/")
			switch {
			case (repository == "") == (organization == ""):
				return fail.New(fail.Usage, "write --repository OWNER/NAME, where the policy was found in that repository, or --organization OWNER, where it was found in .github")
			case organization != "":
				o.Owner, o.Repository = organization, ""
			case !isOne || o.Owner == "" || o.Repository == "":
				return fail.New(fail.Usage, "--repository %s: write OWNER/NAME", repository)
			}
			if o.Role == "" {
				o.Role = octosts.NameOf(args[0])
			}
			if !roleName.MatchString(o.Role) {
				return fail.New(fail.Usage, "%q cannot be a role's name: write --role", o.Role)
			}
			content, err := os.ReadFile(args[0])
			if err != nil {
				return fail.New(fail.Usage, "%s: %s", args[0], pathless(err))
			}
			result, err := octosts.Convert(args[0], content, o)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(result)
			}
			text, err := result.Commands(a.mount)
			if err != nil {
				return err
			}
			return a.print(text)
		},
	}
	flags := octo.Flags()
	flags.StringVar(&repository, "repository", "", "`OWNER/NAME` in which the policy was found")
	flags.StringVar(&organization, "organization", "", "`OWNER` in whose .github the policy was found")
	flags.StringVar(&o.Role, "role", "", "the role's `name`; default: the file's")
	flags.StringVar(&o.IssuerName, "issuer", "", "the issuer's `name`; default: its host")
	flags.StringVar(&o.Provider, "provider", "github/app", "the role's provider, as `github/NAME`")
	flags.StringVar(&o.Audience, "audience", "", "what jobs ask for tokens for from now on, where the policy names nothing, such as vault")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	c.AddCommand(octo)
	return c
}

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", GroupID: "make", Args: cobra.ExactArgs(1), Short: "Write manual pages into a folder",
		Long: "Writes tokenbroker.1 and a page for each command into DIR, such as a man1 below MANPATH.\n" +
			"SOURCE_DATE_EPOCH says which date they have.",
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // everybody may read it
				return fail.New(fail.Output, "%s cannot be made: %s", args[0], pathless(err))
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			err := doc.GenManTree(root, &doc.GenManHeader{Title: "TOKENBROKER", Section: "1", Source: "tokenbroker " + a.version, Manual: "tokenbroker"}, args[0])
			if err != nil {
				return fail.New(fail.Output, "manual pages cannot be written: %s", pathless(err))
			}
			return nil
		},
	}
}
