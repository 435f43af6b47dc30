package backend

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// Of what stands in requests and answers, Vault's audit log has every text as a hash but
// for the fields that the mount is tuned for, by their names alone, whatever the path.

// AuditScript is a shell script that tunes the mount for all fields that say what was done
// and granted, and can hold no secret.
func AuditScript(mount string) (string, error) {
	mount = strings.TrimSuffix(mount, "/") + "/"
	if !mountPath.MatchString(mount) {
		return "", fmt.Errorf("%q is no path of a mount: letters, digits, '-', '_', '.' and '/' make one", mount)
	}
	b := newBroker(catalog.Types(), &logical.InmemStorage{}, time.Now)
	var script strings.Builder
	fmt.Fprintf(&script, "#!/bin/sh\n# What %s leaves in the audit log in clear at %s: who got what, and what was\n# changed, frozen and killed. Tokens and credentials stay hashed.\nexec vault secrets tune \\\n", Version, mount)
	for _, name := range b.auditedRequests() {
		fmt.Fprintf(&script, "    -audit-non-hmac-request-keys=%s \\\n", name)
	}
	for _, name := range b.auditedAnswers() {
		fmt.Fprintf(&script, "    -audit-non-hmac-response-keys=%s \\\n", name)
	}
	fmt.Fprintf(&script, "    %s\n", mount)
	return script.String(), nil
}

// mountPath is what needs no quoting in a shell.
var mountPath = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_./-]*/$`)

// holdsCredentials reports whether the path takes credentials and the addresses they are
// for: what somebody writes into the wrong field there may be a credential.
func holdsCredentials(path *framework.Path) bool {
	pattern := strings.TrimPrefix(path.Pattern, "^") // the framework adds it when it first routes
	for _, takes := range []string{"providers/", "issuers/", "signals/", "oauth/"} {
		if strings.HasPrefix(pattern, takes) {
			return true
		}
	}
	return pattern == "config$"
}

// auditedRequests are the fields of requests that are to be read in clear: what a role is
// written with, what was asked for, frozen and killed, and every switch. Texts are left
// out that are, or could hold, a credential on any path.
func (b *broker) auditedRequests() []string {
	shown, hidden := map[string]bool{}, map[string]bool{}
	for _, path := range b.Paths {
		for name, f := range path.Fields {
			switch {
			case path.TakesArbitraryInput, strings.Contains(path.Pattern, "P<"+name+">"): // a path is no field, and in clear
			case provider.IsSecret(f):
				hidden[name] = true
			case f.Type == framework.TypeBool:
				shown[name] = true
			case !holdsCredentials(path):
				shown[name] = true
			case f.Type == framework.TypeString || f.Type == framework.TypeKVPairs:
				hidden[name] = true
			}
		}
	}
	maps.DeleteFunc(shown, func(name string, _ bool) bool { return hidden[name] })
	return slices.Sorted(maps.Keys(shown))
}

// auditedAnswers are the fields of answers that are to be read in clear: all of those to
// what mints, kills, explains, checks and rotates that are no secret. Lists and what reads
// of the configuration show stand in no log.
func (b *broker) auditedAnswers() []string {
	// Of a refusal Vault's own entry says no more than "permission denied".
	shown, hidden := map[string]bool{"error": true}, map[string]bool{}
	for _, path := range b.Paths {
		for op, handler := range path.Operations {
			for _, answer := range handler.Properties().Responses[http.StatusOK] {
				for name, f := range answer.Fields {
					switch {
					case provider.IsSecret(f) || strings.HasPrefix(name, "http_"):
						hidden[name] = true
					case op == logical.UpdateOperation || op == logical.DeleteOperation: // and creds answers a read as it does an update
						shown[name] = answer.Fields[logical.HTTPRawBody] == nil || shown[name]
					}
				}
			}
		}
	}
	maps.DeleteFunc(shown, func(name string, told bool) bool { return hidden[name] || !told })
	return slices.Sorted(maps.Keys(shown))
}
