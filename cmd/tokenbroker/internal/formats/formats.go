// Package formats writes children in the forms that tools read from their credential
// helpers. It is pure: what comes in is a child and until when it may be used, what goes
// out is the tool's text.
package formats

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// The names of the formats, which are those of their commands.
const (
	Git       = "git-credential"
	AWS       = "aws-credential-process"
	Kubectl   = "kubectl-credential"
	Docker    = "docker-credential"
	GCP       = "gcp-executable"
	Terraform = "terraform-credentials"
	Cargo     = "cargo-credential"
	Bazel     = "bazel-credential"
	MCP       = "mcp-headers"
	Token     = "token"
)

// All of them, in the order in which they are told.
var All = []string{Git, AWS, Kubectl, Docker, GCP, Terraform, Cargo, Bazel, MCP, Token}

// The parts of AWS' credentials, as types of provider call them.
const (
	awsKey     = "access_key_id"
	awsSecret  = "secret_access_key"
	awsSession = "session_token"
)

// Needs is what a format needs of an answer, in words.
func Needs(format string) string {
	switch format {
	case AWS:
		return awsKey + ", " + awsSecret + " and mostly " + awsSession
	case GCP:
		return "a JWT, as roles of providers of type jwt have, or with id_token"
	}
	return "one token: access_token, or no more than one field"
}

// Serves reports whether a role can answer in a format, as far as its fields tell.
func Serves(format string, r vault.Role) bool {
	has := func(field string) bool { return slices.Contains(r.Fields, field) }
	switch format {
	case AWS:
		return has(awsKey) && has(awsSecret)
	case GCP:
		return has("id_token") || strings.HasPrefix(r.Provider, "jwt/") && has("access_token")
	}
	return has("access_token") || len(r.Fields) == 1
}

// For are the formats that a role can answer in.
func For(r vault.Role) []string {
	found := []string{}
	for _, format := range All {
		if Serves(format, r) {
			found = append(found, format)
		}
	}
	return found
}

// Credential is a child as a helper hands it on.
type Credential struct {
	Child *vault.Child
	// Until is how long the reader may use it before it must ask again.
	Until time.Time
	// Field is the part that is the token; empty: the one that there is.
	Field string
	// Username is what to give beside it where the answer has none.
	Username string
}

// token is the part that is the token.
func (c Credential) token(format string) (string, error) {
	if c.Field != "" {
		if text := c.Child.Text(c.Field); text != "" {
			return text, nil
		}
		return "", c.cannot(format, "has no text in "+c.Field)
	}
	if text := c.Child.Text("access_token"); text != "" {
		return text, nil
	}
	parts := slices.DeleteFunc(c.Child.Parts(), func(name string) bool { return name == "username" })
	if len(parts) == 1 {
		return c.Child.Text(parts[0]), nil
	}
	return "", c.cannot(format, "does not say which of its parts is the token (--field chooses)")
}

// cannot is the refusal of a role whose answer is not enough.
func (c Credential) cannot(format, why string) error {
	return fail.New(fail.Unservable, "role %s (%s) cannot serve %s: its answer %s. It has %s; %s needs %s",
		c.Child.Role, c.Child.Text("provider"), format, why, strings.Join(c.Child.Parts(), ", "), format, Needs(format))
}

func (c Credential) username(otherwise string) string {
	for _, name := range []string{c.Username, c.Child.Text("username"), otherwise} {
		if name != "" {
			return name
		}
	}
	return ""
}

// bearer is the value of an Authorization header.
func (c Credential) bearer(format string) (string, error) {
	token, err := c.token(format)
	if err != nil {
		return "", err
	}
	switch kind := c.Child.Text("token_type"); {
	case kind == "" || strings.EqualFold(kind, "bearer") || !isScheme(kind):
		return "Bearer " + token, nil
	case strings.EqualFold(kind, "dpop"):
		return "", c.cannot(format, "is bound to a key by DPoP, and a header alone does not prove that")
	default:
		return kind + " " + token, nil
	}
}

// isScheme tells schemes of HTTP from the words that servers have for kinds of token.
func isScheme(kind string) bool {
	return slices.Contains([]string{"token", "basic"}, strings.ToLower(kind))
}

func rfc3339(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// oneLine refuses what would be read as more than one line.
func oneLine(values ...string) error {
	for _, value := range values {
		if strings.ContainsAny(value, "\n\r\x00") {
			return fail.New(fail.Unservable, "a part of the answer has more than one line, which this form cannot hold")
		}
	}
	return nil
}

// hostOf is the host of a URL or of a name that stands alone.
func hostOf(where string) string {
	if _, rest, ok := strings.Cut(where, "://"); ok {
		where = rest
	}
	where, _, _ = strings.Cut(where, "/")
	if at := strings.LastIndex(where, "@"); at >= 0 {
		where = where[at+1:]
	}
	return strings.ToLower(where)
}

// Meant reports whether a place is one of hosts, with its port or, where they name none,
// without; no hosts are all.
func Meant(hosts []string, where string) bool {
	if len(hosts) == 0 {
		return true
	}
	host := hostOf(where)
	name := host
	if at := strings.LastIndex(host, ":"); at >= 0 && !strings.HasSuffix(host, "]") {
		name = host[:at]
	}
	return slices.ContainsFunc(hosts, func(allowed string) bool {
		allowed = strings.ToLower(allowed)
		if wild, ok := strings.CutPrefix(allowed, "*."); ok {
			return strings.HasSuffix(name, "."+wild)
		}
		return allowed == host || allowed == name
	})
}

// Elsewhere says that a place is none that the helper was meant for.
func Elsewhere(hosts []string, where string) error {
	return fail.New(fail.Unservable, "asked for %s, and --host allows only %s", hostOf(where), strings.Join(hosts, ", "))
}

func join(lines []string) string { return fmt.Sprintln(strings.Join(lines, "\n")) }
