package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// askFlags narrow what a role hands out.
type askFlags struct {
	ask                       vault.Ask
	details, subject, subFrom string
	actor                     string
}

func (f *askFlags) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.ask.Scopes, "scope", nil, "ask for no more than these scopes")
	flags.StringSliceVar(&f.ask.Audiences, "audience", nil, "ask for no more than these audiences")
	flags.StringSliceVar(&f.ask.Resources, "resource", nil, "ask for no more than these resources")
	flags.StringToStringVar(&f.ask.Permissions, "permission", nil, "ask for no more than these permissions, as name=level")
	flags.StringVar(&f.details, "authorization-details", "", "`file` with a JSON array: ask for no more than these authorization details")
	flags.StringVar(&f.ask.TTL, "ttl", "", "the life that is wanted of the lease, such as 10m")
	flags.StringVar(&f.subject, "subject-token", "", "`file` that holds the token on whose behalf; read anew for each request")
	flags.StringVar(&f.subFrom, "subject-token-env", "", "`variable` that holds the token on whose behalf")
	flags.StringVar(&f.actor, "actor-token", "", "`file` that holds the token of who acts")
}

var roleName = regexp.MustCompile(`^\w([\w.-]*\w)?$`)

// of is the ask of one role.
func (f *askFlags) of(role string, environ []string) (vault.Ask, error) {
	ask := f.ask
	ask.Role = role
	if !roleName.MatchString(role) {
		return ask, fail.New(fail.Usage, "%q cannot be a role's name", role)
	}
	read := func(what, name string) (string, error) {
		if name == "" {
			return "", nil
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return "", fail.New(fail.Usage, "--%s: %s", what, err)
		}
		if text := strings.TrimSpace(string(content)); text != "" {
			return text, nil
		}
		return "", fail.New(fail.Usage, "--%s: %s is empty", what, name)
	}
	details, err := read("authorization-details", f.details)
	if err != nil {
		return ask, err
	}
	if details != "" {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(details)); err != nil {
			return ask, fail.New(fail.Usage, "--authorization-details: %s is not JSON", f.details)
		}
		ask.Details = compact.Bytes()
	}
	if ask.SubjectToken, err = read("subject-token", f.subject); err != nil {
		return ask, err
	}
	if f.subFrom != "" {
		if ask.SubjectToken = variable(environ, f.subFrom); ask.SubjectToken == "" {
			return ask, fail.New(fail.Usage, "--subject-token-env: %s is not set", f.subFrom)
		}
	}
	ask.ActorToken, err = read("actor-token", f.actor)
	return ask, err
}

func variable(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// reference is a field of a role's answer, as [role:]field.
type reference struct{ role, field string }

func (r reference) String() string {
	if r.role == "" {
		return r.field
	}
	return r.role + ":" + r.field
}

func parseReference(text string) reference {
	if role, field, ok := strings.Cut(text, ":"); ok {
		return reference{role, field}
	}
	return reference{field: text}
}

// find is what a reference names among children: it must name one.
func (r reference) find(children []*vault.Child) (string, error) {
	var found []string
	var have []string
	for _, child := range children {
		if r.role != "" && r.role != child.Role {
			continue
		}
		for _, name := range child.Parts() {
			have = append(have, child.Role+":"+name)
		}
		if value, ok := child.Data[r.field]; ok {
			found = append(found, asText(value))
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fail.New(fail.Usage, "several roles have a field %s: write ROLE:%s", r.field, r.field)
	}
	return "", fail.New(fail.Unservable, "no role's answer has %s; there are: %s", r, strings.Join(have, ", "))
}

// asText is a field as a variable holds it: text as it is, and else as JSON.
func asText(value any) string {
	if text, ok := value.(string); ok {
		return text
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}

// completionTimeout bounds how long a shell waits for names.
const completionTimeout = 3 * time.Second

// completeRoles names the roles that the caller may use.
func (a *app) completeRoles(_ *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	client, err := a.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
	defer cancel()
	roles, err := client.Roles(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]cobra.Completion, 0, len(roles))
	for _, role := range roles {
		names = append(names, cobra.CompletionWithDesc(role.Name, role.Provider))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
