package backend

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// withValues adds to the description of every field what Vault's help does not show by
// itself: the values that it takes, its default, and that a secret which is kept cannot be read.
func withValues(paths []*framework.Path) []*framework.Path {
	for _, path := range paths {
		fields := maps.Clone(path.Fields) // which answers have, too, where no value is wanted
		kept := path.Operations[logical.CreateOperation] != nil
		for name, schema := range fields {
			values := valuesOf(schema)
			if kept && provider.IsSecret(schema) {
				values = strings.TrimSpace(values + " Write-only.")
			}
			if values != "" {
				told := *schema
				told.Description = strings.TrimSpace(schema.Description + " " + values)
				fields[name] = &told
			}
		}
		path.Fields = fields
	}
	return paths
}

// valuesOf says which values a field takes and which of them it has by default, as whoever
// writes it would.
func valuesOf(schema *framework.FieldSchema) string {
	standard := defaultOf(schema)
	if len(schema.AllowedValues) == 0 {
		if standard == "" {
			return ""
		}
		return "Default: " + standard + "."
	}
	values := make([]string, len(schema.AllowedValues))
	for i, value := range schema.AllowedValues {
		if values[i] = fmt.Sprint(value); values[i] == standard {
			values[i] += " (the default)"
		}
	}
	return "One of: " + strings.Join(values, ", ") + "."
}

// defaultOf is a field's default as text, "" if it has none.
func defaultOf(schema *framework.FieldSchema) string {
	switch standard := schema.Default.(type) {
	case nil:
		return ""
	case []string:
		return strings.Join(standard, ",")
	case int:
		if schema.Type == framework.TypeDurationSecond {
			return stored.InWords(time.Duration(standard) * time.Second)
		}
	}
	return fmt.Sprint(schema.Default)
}

// describeTruly mends what the framework's OpenAPI document says of the broker's paths.
//
// Of the document of a whole mount Vault makes a part of sys/internal/specs/openapi, and
// on the way from an external plugin it loses every reference to a schema: there the
// schemas stand in place. Asked of one path, it has the references, which Vault's UI
// follows.
func (b *broker) describeTruly(req *logical.Request, resp *logical.Response) {
	if resp == nil {
		return
	}
	document, ok := resp.Data["openapi"].(*framework.OASDocument)
	if !ok {
		return
	}
	for path, item := range document.Paths {
		for method, op := range map[logical.Operation]*framework.OASOperation{
			logical.ReadOperation: item.Get, logical.UpdateOperation: item.Post, logical.DeleteOperation: item.Delete,
		} {
			if op == nil {
				continue
			}
			if method != logical.DeleteOperation {
				withoutForce(document, op)
			}
			if route := b.Route(strings.TrimPrefix(path, "/")); route != nil && route.Operations[method] != nil {
				describeRaw(document, op, route.Operations[method].Properties().Responses)
			}
			trueTypes(document, op)
			if req.Path == "" {
				durationsAsText(document, op)
				inPlace(document, op)
			}
		}
	}
}

// withoutForce leaves out what a delete alone takes.
func withoutForce(document *framework.OASDocument, op *framework.OASOperation) {
	op.Parameters = slices.DeleteFunc(op.Parameters, func(p framework.OASParameter) bool { return p.Name == fieldForce })
	if op.RequestBody == nil {
		return
	}
	for _, media := range op.RequestBody.Content {
		if schema := document.Components.Schemas[referred(media.Schema)]; schema != nil {
			delete(schema.Properties, fieldForce)
		}
	}
}

// describeRaw describes answers that come without Vault's envelope by what they are.
func describeRaw(document *framework.OASDocument, op *framework.OASOperation, declared map[int][]framework.Response) {
	for status, answers := range declared {
		if len(answers) != 1 || answers[0].Fields[logical.HTTPRawBody] == nil {
			continue
		}
		raw := &framework.OASSchema{Type: "object"}
		if strings.HasPrefix(answers[0].MediaType, "text/") {
			raw.Type = "string"
		}
		for _, media := range op.Responses[status].Content {
			name := referred(media.Schema)
			schema := document.Components.Schemas[name]
			if schema == nil {
				continue
			}
			maps.DeleteFunc(schema.Properties, func(name string, _ *framework.OASSchema) bool { return strings.HasPrefix(name, "http_") })
			if len(schema.Properties) == 0 {
				delete(document.Components.Schemas, name)
				continue
			}
			raw = media.Schema
		}
		op.Responses[status].Content = framework.OASContent{cmp.Or(answers[0].MediaType, "application/json"): {Schema: raw}}
	}
}

// trueTypes says of durations in answers that they are numbers, of seconds, while they may be
// written as text, and so is their default; and of what comes in a query what its elements are,
// or that it is text: JSON where it is no list of texts.
func trueTypes(document *framework.OASDocument, op *framework.OASOperation) {
	for _, response := range op.Responses {
		for _, property := range propertiesOf(document, response.Content) {
			if property.Format == "duration" {
				property.Type, property.Format = "integer", ""
			}
		}
	}
	if op.RequestBody != nil {
		for _, property := range propertiesOf(document, op.RequestBody.Content) {
			if seconds, ok := property.Default.(int); ok && property.Format == "duration" {
				property.Default = stored.InWords(time.Duration(seconds) * time.Second)
			}
		}
	}
	for _, parameter := range op.Parameters {
		switch schema := parameter.Schema; {
		case schema.Type == "object", parameter.Name == "authorization_details":
			schema.Type, schema.Format = "string", ""
		case schema.Type == "array" && schema.Items == nil:
			schema.Items = &framework.OASSchema{Type: "string"}
		}
	}
}

// durationsAsText says of durations in a request no more than that they are text. To generators
// the format duration is that of RFC 3339, such as PT10M, which Vault does not read; Vault's UI
// takes it for a field of Vault's durations, but asks of one path.
func durationsAsText(document *framework.OASDocument, op *framework.OASOperation) {
	if op.RequestBody != nil {
		for _, property := range propertiesOf(document, op.RequestBody.Content) {
			if property.Format == "duration" {
				property.Format = ""
			}
		}
	}
	for _, parameter := range op.Parameters {
		if parameter.Schema.Format == "duration" {
			parameter.Schema.Format = ""
		}
	}
}

// propertiesOf are those of the schemas of content, by name.
func propertiesOf(document *framework.OASDocument, content framework.OASContent) map[string]*framework.OASSchema {
	properties := map[string]*framework.OASSchema{}
	for _, media := range content {
		if schema := cmp.Or(document.Components.Schemas[referred(media.Schema)], media.Schema); schema != nil {
			maps.Copy(properties, schema.Properties)
		}
	}
	return properties
}

// inPlace puts the schemas that an operation refers to where they are referred to.
func inPlace(document *framework.OASDocument, op *framework.OASOperation) {
	contents := []framework.OASContent{}
	if op.RequestBody != nil {
		contents = append(contents, op.RequestBody.Content)
	}
	for _, response := range op.Responses {
		contents = append(contents, response.Content)
	}
	for _, content := range contents {
		for _, media := range content {
			if schema := document.Components.Schemas[referred(media.Schema)]; schema != nil {
				media.Schema = schema
			}
		}
	}
}

// referred is the name of the schema that a reference names.
func referred(schema *framework.OASSchema) string {
	if schema == nil {
		return ""
	}
	return strings.TrimPrefix(schema.Ref, "#/components/schemas/")
}

// asQuery are fields that may also come in the query of a read.
func asQuery(fields map[string]*framework.FieldSchema, names ...string) map[string]*framework.FieldSchema {
	fields = maps.Clone(fields)
	for name, schema := range fields {
		if slices.Contains(names, name) {
			queried := *schema
			queried.Query = true
			fields[name] = &queried
		}
	}
	return fields
}
