package backend

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// helped is what the help of a path answers: its text, and its part of OpenAPI as it comes
// over the plugin protocol.
func helped(t *testing.T, m *mount, path string) (text string, document map[string]any) {
	t.Helper()
	resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: m.storage})
	require.NoError(t, err, path)
	raw, err := json.Marshal(resp.Data["openapi"])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &document))
	return resp.Data["help"].(string), document
}

// nextField begins a field, or what follows the fields.
var nextField = regexp.MustCompile(`\n(    )?[\w#]`)

// What Vault's help does not print by itself it prints of every field of ours: which
// values it takes, and which it has by default.
func TestHelpShowsDefaultsAndValues(t *testing.T) {
	m := newInputMount(t)
	shown := 0
	for _, e := range everyEndpoint(t, m) {
		help, _ := helped(t, m, e.sample)
		for name, f := range e.path.Fields {
			_, about, found := strings.Cut(help, "\n    "+name+" (")
			require.True(t, found, "%s of %s", name, e.sample)
			about = nextField.Split(about, 2)[0]
			for _, value := range f.AllowedValues {
				require.Contains(t, about, fmt.Sprint(value), "%s of %s", name, e.sample)
			}
			if f.Default == nil {
				continue
			}
			shown++
			require.Equal(t, 1, strings.Count(strings.ToLower(about), "default"), "%s of %s says it once: %s", name, e.sample, about)
		}
	}
	require.Greater(t, shown, 15)
	for path, want := range map[string][]string{
		"roles/r":            {"One of: mint (the default), exchange, forward.", "One of: strip (the default), refuse.", "One of: none, entity, token."},
		"providers/oauth2/p": {"Default: 10s.", "Default: *.", "One of: client_secret_basic (the default), client_secret_post,", "One of: token, lever, expiry."},
		"providers/jwt/p":    {"Default: {{identity.entity.id}}.", "One of: expiry (the default), token."},
		"issuers/i":          {"Default: ES256,ES384,RS256,PS256,EdDSA.", "Default: 30s.", "Default: 24h."},
		"config":             {"One of: ES256 (the default), RS256, EdDSA.", "Default: 30d.", "Default: 24h."},
		"grants":             {"Default: 1000."},
	} {
		help, _ := helped(t, m, path)
		for _, text := range want {
			require.Contains(t, help, text, path)
		}
	}
	require.Empty(t, valuesOf(&framework.FieldSchema{Type: framework.TypeBool, Description: "x"}))
}

// exampleField is a name that a command in a help text writes.
var exampleField = regexp.MustCompile(`\s([a-z_]+)=`)

// A type's help shows a stranger how a provider of it is written, with fields that it has,
// and says how its parent is changed.
func TestHelpShowsHowToBegin(t *testing.T) {
	m := newInputMount(t)
	for _, typ := range m.b.types {
		path := "providers/" + typ.Name() + "/p"
		help, _ := helped(t, m, path)
		_, example, found := strings.Cut(help, "\n  vault write broker/providers/"+typ.Name()+"/")
		require.True(t, found, "%s has no example", path)
		example, _, _ = strings.Cut(example, "\n\n")
		fields := m.b.Route(path).Fields
		names := exampleField.FindAllStringSubmatch(example, -1)
		require.NotEmpty(t, names, path)
		for _, name := range names {
			require.Contains(t, fields, name[1], "the example of %s", path)
		}
		rotation, _ := helped(t, m, path+"/rotate")
		require.Contains(t, rotation, strings.TrimSpace(downstream.GuideOf(typ).Rotation), path)
		require.NotEmpty(t, downstream.GuideOf(typ).Rotation, path)
	}
	for path, want := range map[string]string{
		"frozen": "vault list -detailed broker/frozen", "revoke/person": "vault write broker/revoke/person", "grants": "vault list -detailed broker/grants",
		"config": "vault write broker/config", "issuer/rotate": "vault write -f broker/issuer/rotate", "issuers/i": "vault write broker/issuers/", "roles/r": "vault write broker/roles/",
		"creds/r": "vault read broker/creds/", "revoke/role/r": "vault write broker/revoke/",
	} {
		help, _ := helped(t, m, path)
		require.Contains(t, help, want, path)
	}
}

// What a stranger asks next stands in the help itself: that a secret which is kept cannot be
// read, what a role's parameters can hold at a type, and of a kill what that path kills.
func TestHelpAnswersWhatAStrangerAsksNext(t *testing.T) {
	m := newInputMount(t)
	secrets := 0
	for _, path := range []string{"providers/oauth2/p", "providers/github/p", "providers/gitlab/p", "providers/http/p", "providers/jwt/p", "issuers/i", "signals/s"} {
		for name, field := range m.b.Route(path).Fields {
			if provider.IsSecret(field) {
				require.Equal(t, 1, strings.Count(field.Description, "Write-only."), "%s of %s: %s", name, path, field.Description)
				secrets++
			}
		}
	}
	require.Greater(t, secrets, 15)
	for _, typ := range m.b.types {
		help, _ := helped(t, m, "providers/"+typ.Name()+"/p")
		for name, about := range typ.Parameters() {
			require.Contains(t, help, name+": "+about, typ.Name())
		}
	}
	for path, example := range map[string]string{
		"revoke/grant/x": "revoke/grant/", "revoke/entity/x": "revoke/entity/", "revoke/role/x": "revoke/role/", "revoke/issuer/x": "revoke/issuer/",
		"revoke/provider/oauth2/x": "revoke/provider/oauth2/", "revoke/subject": "revoke/subject issuer=",
	} {
		help, _ := helped(t, m, path)
		_, described, _ := strings.Cut(help, "## DESCRIPTION")
		require.Equal(t, path != "revoke/grant/x", strings.Contains(described, "freeze"), path)
		require.Contains(t, described, "broker/"+example, path)
		require.Equal(t, 1, strings.Count(described, "vault write"), path)
	}
	help, _ := helped(t, m, "signals/s/check")
	require.Contains(t, help, "vault write -f broker/signals/")
}

// eachContent calls visit with every schema of a body in an OpenAPI document.
func eachContent(document *framework.OASDocument, visit func(where, media string, schema *framework.OASSchema)) {
	for path, item := range document.Paths {
		for method, op := range map[string]*framework.OASOperation{"get": item.Get, "post": item.Post, "delete": item.Delete} {
			if op == nil {
				continue
			}
			if op.RequestBody != nil {
				for media, content := range op.RequestBody.Content {
					visit(method+" "+path, media, content.Schema)
				}
			}
			for status, response := range op.Responses {
				for media, content := range response.Content {
					visit(fmt.Sprintf("%s %s %d", method, path, status), media, content.Schema)
				}
			}
		}
	}
}

// Vault decodes the document of an external plugin in this way, and loses $ref by it.
func TestOpenAPIHasItsSchemasInPlace(t *testing.T) {
	m := newInputMount(t)
	_, raw := helped(t, m, "")
	document, err := framework.NewOASDocumentFromMap(raw)
	require.NoError(t, err)
	bodies := 0
	eachContent(document, func(where, media string, schema *framework.OASSchema) {
		bodies++
		require.NotNil(t, schema, where)
		require.NotEmpty(t, schema.Type, where)
		if media == "application/json" && !strings.Contains(where, ".well-known") && !strings.Contains(where, "/oauth/revoke ") && where != "post /providers/{type}" {
			require.NotEmpty(t, schema.Properties, where)
		}
		for name, property := range schema.Properties {
			require.NotEmpty(t, property.Type, "%s of %s", name, where)
			require.NotContains(t, name, "http_", where)
		}
	})
	require.Greater(t, bodies, 40)

	creds := document.Paths["/creds/{role}"]
	var queried []string
	for _, parameter := range creds.Get.Parameters {
		require.Equal(t, "query", parameter.In)
		queried = append(queried, parameter.Name)
	}
	require.Equal(t, []string{"audiences", "authorization_details", "dpop_jkt", "permissions", "resources", "scopes", "ttl"}, queried)
	body := creds.Post.RequestBody.Content["application/json"].Schema.Properties
	require.Contains(t, body, "scopes")
	require.Contains(t, body, "subject_token")
	metrics := document.Paths["/metrics"].Get.Responses[200].Content
	require.Len(t, metrics, 1)
	require.Equal(t, "string", metrics["text/plain"].Schema.Type)
	provider := document.Paths["/providers/oauth2/{name}"]
	require.NotContains(t, provider.Post.RequestBody.Content["application/json"].Schema.Properties, "force")
	require.Empty(t, provider.Get.Parameters)
	require.Equal(t, "force", provider.Delete.Parameters[0].Name)

	// The help of one path refers, as Vault's UI expects it, and what it refers to is there.
	_, one := helped(t, m, "providers/oauth2/p")
	text := fmt.Sprint(one)
	require.Contains(t, text, "$ref:#/components/schemas/BrokerWriteOauth2ProviderRequest")
	require.Contains(t, one["components"].(map[string]any)["schemas"], "BrokerWriteOauth2ProviderRequest")
}
