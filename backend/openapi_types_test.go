package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// The document of a mount, and of one path, says what answers really hold, and what a
// generator of clients needs: durations are read as numbers and written as text of Vault's form,
// as their defaults are, and lists in a query have elements.
func TestTheDocumentSaysWhatAnswersHold(t *testing.T) {
	m := newEmptyMount(t, setup{})
	numbers, lists, durations := 0, 0, 0
	for _, path := range []string{"", "roles/r", "config", "creds/r"} {
		resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: m.storage})
		require.NoError(t, err)
		document := resp.Data["openapi"].(*framework.OASDocument)
		for name, item := range document.Paths {
			for _, op := range []*framework.OASOperation{item.Get, item.Post, item.Delete} {
				if op == nil {
					continue
				}
				for _, parameter := range op.Parameters {
					require.NotEqual(t, "object", parameter.Schema.Type, "%s: %s", name, parameter.Name)
					if parameter.Schema.Type == "array" {
						require.NotNil(t, parameter.Schema.Items, "%s: %s", name, parameter.Name)
						lists++
					}
				}
				for _, response := range op.Responses {
					for _, media := range response.Content {
						schema := media.Schema
						if referred(schema) != "" {
							schema = document.Components.Schemas[referred(schema)]
						}
						for field, property := range schema.Properties {
							require.NotEqual(t, "duration", property.Format, "%s: %s", name, field)
							if field == "max_ttl" && name == "/roles/{name}" {
								require.Equal(t, "integer", property.Type)
								numbers++
							}
						}
					}
				}
				if op.RequestBody != nil {
					for field, property := range propertiesOf(document, op.RequestBody.Content) {
						if property.Default != nil && property.Type == "string" {
							require.IsType(t, "", property.Default, "%s: %s", name, field)
						}
						if field == "max_ttl" && name == "/roles/{name}" {
							require.Equal(t, map[bool]string{true: "", false: "duration"}[path == ""], property.Format, "PT1H is not written for 1h")
							durations++
						}
					}
				}
			}
		}
	}
	require.Positive(t, numbers)
	require.Positive(t, lists)
	require.Equal(t, 2, durations)
}
