// Package client proves that the OpenAPI document of a mount is good for what such documents
// are for: another reader takes it for valid, a generator makes a client of it that compiles
// and works (use), and what the engine answers is of the schemas that it names. It is a module
// of its own because a generator brings others along.
package client

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oapi-codegen/oapi-codegen/v2/pkg/codegen"
	_ "github.com/oapi-codegen/runtime" // of the generated client
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// generated is a package within this module, so that use finds it. Git ignores it.
const generated = "generated"

func TestAClientIsGenerated(t *testing.T) {
	for variable, program := range map[string]string{"BROKER_PLUGIN": harness.PluginName, "VAULT": "vault"} {
		if os.Getenv(variable) == "" { // the harness looks in its own module
			path, err := filepath.Abs(filepath.Join("../../bin", program))
			require.NoError(t, err)
			t.Setenv(variable, path)
		}
	}
	vault := harness.StartVault(t, harness.VaultOptions{})
	broker := vault.Enable(t, "broker")
	server := authserver.New(t, authserver.Options{}, authserver.Client{ID: "broker", Secrets: []string{"s3cr3t"}, Scopes: []string{"read"}})
	broker.Write(t, "providers/oauth2/p", harness.Fields{"issuer": server.URL, "client_id": "broker", "client_secret": "s3cr3t"})
	broker.Write(t, "providers/jwt/p", harness.Fields{"disabled": true})
	broker.Write(t, "roles/r", harness.Fields{"provider": "oauth2/p", "scopes": "read", "ttl": "10m", "max_ttl": "1h"})
	document := documentOf(t, vault)

	code, err := codegen.Generate(document, codegen.Configuration{
		PackageName: generated, Generate: codegen.GenerateOptions{Client: true, Models: true},
	})
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(generated, 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(generated, "client.go"), []byte(code), 0o600))
	command := exec.CommandContext(t.Context(), "go", "run", "-tags", generated, "./use")
	command.Env = append(os.Environ(), "VAULT_ADDR="+vault.Addr, "VAULT_TOKEN="+vault.Token)
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
	require.Equal(t, "a role of 600 s, a token for [read], 1 revoked\n", string(output))

	for _, one := range []struct{ method, path, at string }{
		{"GET", "/broker/config", "config"},
		{"GET", "/broker/providers/oauth2/{name}", "providers/oauth2/p"},
		{"GET", "/broker/providers/jwt/{name}", "providers/jwt/p"},
		{"POST", "/broker/providers/oauth2/{name}/check", "providers/oauth2/p/check"},
		{"GET", "/broker/roles/{name}", "roles/r"},
		{"POST", "/broker/roles/{name}/explain", "roles/r/explain"},
		{"GET", "/broker/creds/{role}", "creds/r"},
		{"LIST", "/broker/grants/", "grants"},
		{"LIST", "/broker/creds/", "creds"},
		{"POST", "/broker/revoke/role/{name}", "revoke/role/r"},
		{"LIST", "/broker/kills/", "kills"},
		{"POST", "/broker/sweep", "sweep"},
	} {
		answersAs(t, vault, document, one.method, one.path, one.at)
	}
}

// documentOf is what Vault serves of the mount, as other people's reader takes it.
func documentOf(t *testing.T, vault *harness.Vault) *openapi3.T {
	t.Helper()
	answer, err := vault.Client(t).Logical().ReadRaw("sys/internal/specs/openapi")
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	var whole map[string]any
	require.NoError(t, json.Unmarshal(raw, &whole))
	paths := whole["paths"].(map[string]any)
	for path := range paths {
		if !strings.HasPrefix(path, "/broker/") {
			delete(paths, path) // Vault's own
		}
	}
	delete(whole, "components") // of the broker's paths Vault refers to nothing
	raw, err = json.Marshal(whole)
	require.NoError(t, err)
	document, err := openapi3.NewLoader().LoadFromData(raw)
	require.NoError(t, err)
	require.NoError(t, document.Validate(t.Context()))
	return document
}

// answersAs sends a request, and holds the answer against the schema of its path. Vault puts
// what a path answers into the member data of its own envelope, and describes only that.
func answersAs(t *testing.T, vault *harness.Vault, document *openapi3.T, method, path, at string) {
	t.Helper()
	item := document.Paths.Value(path)
	require.NotNil(t, item, path)
	op := item.Get
	if method == "POST" {
		op = item.Post
	}
	require.NotNil(t, op, path)
	request := vault.Client(t).NewRequest(method, "/v1/broker/"+at)
	answer, err := vault.Client(t).RawRequest(request) //nolint:staticcheck // the envelope as it comes
	require.NoError(t, err, at)
	defer func() { _ = answer.Body.Close() }()
	var envelope struct{ Data map[string]any }
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&envelope))
	require.NotEmpty(t, envelope.Data, at)
	schema := op.Responses.Value("200").Value.Content["application/json"].Schema.Value
	require.NoError(t, schema.VisitJSON(envelope.Data), "%s %s", method, at)
	for name := range envelope.Data {
		require.NotNil(t, schema.Properties[name], "%s %s answers %s, which the document does not name", method, at, name)
	}
}
