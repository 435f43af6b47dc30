package acceptance

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// contractPaths are the contract's paths, as far as they are built, with an
// example of each and the operations that it has.
var contractPaths = []struct{ path, example, operations string }{
	{"providers/", "providers", "list"},
	{"providers/oauth2/", "providers/oauth2", "list"},
	{"providers/oauth2/{name}", "providers/oauth2/acme", "get post delete"},
	{"providers/oauth2/{name}/check", "providers/oauth2/acme/check", "post"},
	{"providers/oauth2/{name}/rotate", "providers/oauth2/acme/rotate", "post"},
	{"roles/", "roles", "list"},
	{"roles/{name}", "roles/deploy", "get post delete"},
	{"roles/{name}/explain", "roles/deploy/explain", "post"},
	{"creds/{role}", "creds/deploy", "get post"},
	{"grants/", "grants", "list"},
	{"grants/{grant_id}", "grants/none.0", "get"},
	{"grants/entity/", "grants/entity", "list"},
	{"grants/entity/{entity_id}/", "grants/entity/none", "list"},
	{"grants/role/{name}/", "grants/role/x", "list"},
	{"grants/provider/{type}/{name}/", "grants/provider/oauth2/x", "list"},
	{"revoke/grant/{grant_id}", "revoke/grant/none.0", "post"},
	{"revoke/entity/{entity_id}", "revoke/entity/none", "post"},
	{"revoke/role/{name}", "revoke/role/deploy", "post"},
	{"revoke/provider/{type}/{name}", "revoke/provider/oauth2/acme", "post"},
	{"revoke/issuer/{name}", "revoke/issuer/acme", "post"},
	{"frozen/", "frozen", "list"},
	{"sweep", "sweep", "post"},
	{"issuers/", "issuers", "list"},
	{"issuers/{name}", "issuers/ci", "get post delete"},
	{"config", "config", "get post"},
	{"issuer/rotate", "issuer/rotate", "post"},
	{".well-known/openid-configuration", ".well-known/openid-configuration", "get"},
	{".well-known/jwks.json", ".well-known/jwks.json", "get"},
	{"metrics", "metrics", "get"},
	{"providers/jwt/", "providers/jwt", "list"},
	{"providers/jwt/{name}", "providers/jwt/own", "get post delete"},
	{"providers/jwt/{name}/check", "providers/jwt/own/check", "post"},
	{"oauth/introspect", "oauth/introspect", "post"},
	{"oauth/revoke", "oauth/revoke", "post"},
}

type openAPI struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct{ Schemas map[string]openAPISchema }
}

type openAPISchema struct {
	Type       string
	Properties map[string]struct{ Type, Description string }
}

type openAPIParameter struct{ Name, In, Description string }

type openAPIOperation struct {
	OperationID string `json:"operationId"`
	Summary     string
	Parameters  []openAPIParameter
	RequestBody *openAPIBody
	Responses   map[string]openAPIBody
}

type openAPIBody struct {
	Description string
	Content     map[string]struct{ Schema openAPISchema }
}

// requireInPlace wants the schema of a body where the body is described: of what the
// document of an external plugin refers to Vault keeps the schema, and loses the reference.
func (b openAPIBody) requireInPlace(t *testing.T, where string) {
	t.Helper()
	for media, content := range b.Content {
		require.NotEmpty(t, content.Schema.Type, "%s: %s", where, media)
		if media == "application/json" && !strings.Contains(where, ".well-known") && !strings.Contains(where, "oauth/revoke ") {
			require.NotEmpty(t, content.Schema.Properties, where)
		}
	}
}

func TestOpenAPIDescribesEveryPathAndField(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	broker := vault.Enable(t, "")
	answer, err := vault.Client(t).Logical().ReadRaw("sys/internal/specs/openapi")
	require.NoError(t, err)
	defer answer.Body.Close()
	var document openAPI
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&document))

	found := map[string]map[string]json.RawMessage{}
	for path, item := range document.Paths {
		if own, ok := strings.CutPrefix(path, "/"+broker.Path+"/"); ok {
			found[own] = item
			require.NotRegexp(t, `[\^$()?]`, own, "a regular expression as a path")
		}
	}
	ids := map[string]string{}
	for path, item := range found {
		var description string
		require.NoError(t, json.Unmarshal(item["description"], &description))
		require.NotEmpty(t, description, path)
		var parameters []openAPIParameter
		if item["parameters"] != nil {
			require.NoError(t, json.Unmarshal(item["parameters"], &parameters))
		}
		requireDescribed(t, path, parameters)
		for _, method := range []string{"get", "post", "delete"} {
			if item[method] == nil {
				continue
			}
			var op openAPIOperation
			require.NoError(t, json.Unmarshal(item[method], &op))
			where := method + " " + path
			require.NotEmpty(t, op.Summary, where)
			require.NotEmpty(t, op.OperationID, where)
			require.Empty(t, ids[op.OperationID], "%s and %s have one id", where, ids[op.OperationID])
			ids[op.OperationID] = where
			requireDescribed(t, where, op.Parameters)
			require.NotEmpty(t, op.Responses, where)
			for status, response := range op.Responses {
				require.NotEmpty(t, response.Description, "%s %s", where, status)
				response.requireInPlace(t, where+" "+status)
			}
			if op.RequestBody != nil && path != "providers/{type}" { // which refuses whatever comes
				op.RequestBody.requireInPlace(t, where)
			}
			// What only warns has no data.
			if said := op.Responses["200"].Description; said != "" && !strings.HasSuffix(said, ", with warnings.") {
				require.Len(t, op.Responses["200"].Content, 1, where)
			}
			switch where {
			case "get creds/{role}":
				require.Len(t, op.Parameters, 7, "what may stand in the query")
			case "get metrics":
				require.Equal(t, "string", op.Responses["200"].Content["text/plain"].Schema.Type)
			}
		}
	}
	for _, want := range contractPaths {
		item := found[want.path]
		require.NotNil(t, item, want.path)
		for _, operation := range strings.Fields(strings.Replace(want.operations, "list", "get", 1)) {
			require.Contains(t, item, operation, want.path)
		}
		t.Logf("%-32s %s", want.path, want.operations)
	}
	described := 0
	for name, schema := range document.Components.Schemas {
		for field, property := range schema.Properties {
			if strings.HasPrefix(name, "Broker") {
				described++
				require.NotEmpty(t, property.Description, "%s.%s", name, field)
			}
		}
	}
	require.Positive(t, described, "no schema of the broker's is in the document")
}

func requireDescribed(t *testing.T, where string, parameters []openAPIParameter) {
	t.Helper()
	for _, p := range parameters {
		require.NotEmpty(t, p.Description, "%s: %s in %s", where, p.Name, p.In)
	}
}

var helpParameter = regexp.MustCompile(`(?m)^    (\w+) \([^)]+(?:\([^)]*\))?[^)]*\)\n\n(.*)$`)

func TestPathHelp(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	broker := vault.Enable(t, "")
	overview := vault.CLI(t, "path-help", broker.Path+"/")
	for _, want := range contractPaths {
		help := vault.CLI(t, "path-help", broker.At(want.example))
		require.Contains(t, help, "## DESCRIPTION", want.example)
		_, parameters, _ := strings.Cut(help, "## PARAMETERS")
		parameters, _, _ = strings.Cut(parameters, "## DESCRIPTION")
		for _, p := range helpParameter.FindAllStringSubmatch(parameters, -1) {
			require.NotEmpty(t, strings.TrimSpace(p[2]), "%s: %s has no description", want.example, p[1])
		}
		_, route, _ := strings.Cut(help, "Matching Route: ")
		route, synopsis, _ := strings.Cut(route, "\n")
		require.NotEmpty(t, strings.TrimSpace(strings.SplitN(strings.TrimSpace(synopsis), "\n", 2)[0]), want.example)
		require.Contains(t, overview, strings.TrimSpace(route), "the overview lacks %s", want.example)
	}
	// Every field of the contract's tables is explained.
	for path, fields := range map[string]string{
		"providers/oauth2/acme": "ca_pem timeout rate_limit allow_http max_ttl allowed_roles verify_connection disabled issuer token_url revocation_url introspection_url jwks_url client_id client_secret client_secret_next auth_method grant refresh_token exchange audience_parameter verify confirm_revocation revocation assumed_lifetime force",
		"providers/jwt/own":     "subject client_id claims exchange_claims revocation max_ttl allowed_roles disabled force",
		"oauth/introspect":      "token token_type_hint",
		"roles/deploy":          "provider mode ttl max_ttl scopes audiences resources permissions authorization_details default_scopes on_excess parameters bound_entity_ids bound_group_names bound_entity_metadata bound_cidrs condition subject_issuers bound_subject_claims required_acr required_amr max_auth_age subject_single_use require_revocable require_entity max_grants_per_entity max_issue_rate",
		"creds/deploy":          "scopes audiences resources permissions authorization_details ttl subject_token",
		"roles/deploy/explain":  "entity_id remote_addr scopes audiences resources permissions authorization_details ttl subject_token",
		"issuers/ci":            "oidc_discovery_url jwks_url jwks_pem bound_audiences allowed_algorithms clock_skew max_subject_lifetime",
		"grants":                "after limit",
		"config":                "issuer signing_algorithm rotation_period max_token_ttl",
		"issuer/rotate":         "emergency",
		"revoke/role/deploy":    "freeze",
	} {
		help := vault.CLI(t, "path-help", broker.At(path))
		for _, field := range strings.Fields(fields) {
			require.Contains(t, help, fmt.Sprintf("\n    %s (", field), path)
		}
	}
}
