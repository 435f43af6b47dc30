package backend

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

const referencePage = "../docs/reference.md"

// TestReferencePage holds docs/reference.md against the code that it is made of.
// UPDATE_GOLDEN=1 writes it.
func TestReferencePage(t *testing.T) {
	b := newBroker(catalog.Types(), &logical.InmemStorage{}, newClock().Now)
	page := referenceText(b)
	for _, p := range b.Paths { // of every path that an operator or author writes
		for name, f := range p.Fields {
			if !p.TakesArbitraryInput {
				require.Contains(t, page, "| `"+name+"` |", "%s of %s", name, p.Pattern)
				require.Contains(t, page, cell(f.Description), "%s of %s", name, p.Pattern)
			}
		}
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(referencePage, []byte(page), 0o644))
	}
	written, err := os.ReadFile(referencePage)
	require.NoError(t, err)
	require.Equal(t, string(written), page, "UPDATE_GOLDEN=1 go test ./backend -run TestReferencePage writes the page anew")
}

// referenceText is the page.
func referenceText(b *broker) string {
	p := &page{b: b}
	p.text("# Reference", "Every field of every path, made from the code by a test: `make golden` writes it anew. Examples\nmount the engine at `broker/`; `vault path-help broker/<path>` shows the same in a terminal.\n"+
		"Updates are partial: what is not written stays, and an empty value unsets a field. Lists are\nwritten with commas or as JSON, maps as JSON, durations as `90`, `15m`, `12h` or `30d`.")
	common := downstream.CommonFields()
	p.section("Providers: fields of every type", "providers/oauth2/x", func(name string) bool { return common[name] != nil || name == fieldForce })
	for _, typ := range b.types {
		own := typ.Fields()
		p.section("Providers of type `"+typ.Name()+"`", "providers/"+typ.Name()+"/x", func(name string) bool { return own[name] != nil })
		p.answer("providers/"+typ.Name()+"/x", logical.ReadOperation)
		if parameters := typ.Parameters(); len(parameters) > 0 {
			p.text("What a role's `parameters` can hold there:", "| key | what |\n| --- | --- |")
			for _, key := range slices.Sorted(maps.Keys(parameters)) {
				fmt.Fprintf(p, "| `%s` | %s |\n", key, cell(parameters[key]))
			}
			p.WriteString("\n")
		}
	}
	p.section("Roles", "roles/x", all)
	p.conditions()
	p.section("Asking for a token: `creds`", "creds/x", all)
	p.answer("creds/x", logical.ReadOperation)
	p.section("Asking why: `explain`", "roles/x/explain", func(name string) bool { return credsFields()[name] == nil })
	p.text("And all fields of `creds`.")
	p.answer("roles/x/explain", logical.UpdateOperation)
	p.section("Trusted issuers", "issuers/x", all)
	p.answer("issuers/x", logical.ReadOperation)
	p.section("Transmitters of security events: `signals`", "signals/x", all)
	p.answer("signals/x", logical.ReadOperation)
	p.section("Settings of the mount: `config`", "config", all)
	p.section("Rotating the signing keys: `issuer/rotate`", "issuer/rotate", all)
	p.section("Introspection and revocation by token: `oauth/introspect`, `oauth/revoke`", "oauth/introspect", all)
	p.section("Killing: `revoke/…`", "revoke/role/x", all)
	p.text("And of `revoke/subject` and `grants/subject`:", "| field | type | what |\n| --- | --- | --- |")
	for _, name := range []string{"issuer", "subject"} {
		p.row(name, b.Route("revoke/subject").Fields[name])
	}
	p.WriteString("\n")
	p.answer("revoke/role/x", logical.UpdateOperation)
	p.section("Killing a person: `revoke/person`", "revoke/person", all)
	p.answer("revoke/person", logical.UpdateOperation)
	p.section("Records of kills: `kills/<kill_id>`", "kills/x", all)
	p.answer("kills/x", logical.ReadOperation)
	p.section("Lists", "grants", all)
	p.names()
	return strings.TrimRight(p.String(), "\n") + "\n"
}

func all(string) bool { return true }

// page is a page of Markdown that grows.
type page struct {
	strings.Builder
	b *broker
}

func (p *page) text(paragraphs ...string) {
	for _, text := range paragraphs {
		p.WriteString(text + "\n")
		if !strings.HasPrefix(text, "|") {
			p.WriteString("\n")
		}
	}
}

// section is a table of the path's fields that are wanted, and not part of the path.
func (p *page) section(title, sample string, wanted func(name string) bool) {
	route := p.b.Route(sample)
	p.text("## "+title, "| field | type | what |\n| --- | --- | --- |")
	for _, name := range slices.Sorted(maps.Keys(route.Fields)) {
		if !wanted(name) || strings.Contains(route.Pattern, "P<"+name+">") {
			continue
		}
		p.row(name, route.Fields[name])
	}
	p.WriteString("\n")
}

func (p *page) row(name string, f *framework.FieldSchema) {
	kind := typeNames[f.Type]
	if provider.IsSecret(f) {
		kind += ", secret"
	}
	fmt.Fprintf(p, "| `%s` | %s | %s |\n", name, kind, cell(f.Description))
}

// answer is a table of what the path answers with.
func (p *page) answer(sample string, op logical.Operation) {
	route := p.b.Route(sample)
	fields := route.Operations[op].Properties().Responses[http.StatusOK][0].Fields
	lead := "What it answers:"
	if route.Operations[logical.DeleteOperation] != nil { // a thing that is kept
		lead = "What a read adds:"
		fields = maps.Clone(fields)
		maps.DeleteFunc(fields, func(name string, _ *framework.FieldSchema) bool { return route.Fields[name] != nil })
	}
	p.text(lead, "| field | type | what |\n| --- | --- | --- |")
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		p.row(name, fields[name])
	}
	p.WriteString("\n")
}

func (p *page) conditions() {
	p.text("### What a `condition` can use", "[CEL](https://github.com/google/cel-spec), with these names; a misspelled one is found when the role is\nwritten. What cannot be evaluated denies. Each example is a whole condition.",
		"| name | type | what | example |\n| --- | --- | --- | --- |")
	for _, n := range condition.Names() {
		fmt.Fprintf(p, "| `%s` | %s | %s | `%s` |\n", n.Name, n.Type, cell(n.About), strings.ReplaceAll(n.Example, "|", `\|`))
	}
	p.WriteString("\n")
	p.text("Beside CEL's standard functions there are `charAt`, `indexOf`, `lastIndexOf`, `lowerAscii`,\n`upperAscii`, `reverse`, `split`, `substring`, `trim`, `sets.contains`, `sets.equivalent` and\n" +
		"`sets.intersects`. The pattern of `matches`, and a time zone, are constants.")
}

// names are the fields that stand in paths.
func (p *page) names() {
	p.text("## Names in paths", "| path | name | what |\n| --- | --- | --- |")
	for _, path := range p.b.Paths {
		for _, name := range slices.Sorted(maps.Keys(path.Fields)) {
			if strings.Contains(path.Pattern, "P<"+name+">") && !path.TakesArbitraryInput {
				fmt.Fprintf(p, "| %s | `%s` | %s |\n", "`"+readable(path.Pattern)+"`", name, cell(path.Fields[name].Description))
			}
		}
	}
}

// readable is the pattern of a path as the rest of the documentation writes it.
func readable(pattern string) string {
	var text strings.Builder
	for {
		before, rest, found := strings.Cut(pattern, "(?P<")
		text.WriteString(before)
		if !found {
			break
		}
		name, rest, _ := strings.Cut(rest, ">")
		depth := 1
		i := 0
		for ; depth > 0; i++ {
			switch rest[i] {
			case '(':
				depth++
			case ')':
				depth--
			}
		}
		text.WriteString("<" + name + ">")
		pattern = rest[i:]
	}
	return strings.Trim(text.String(), "^$?/")
}

// typeNames are the types in an operator's words.
var typeNames = map[framework.FieldType]string{
	framework.TypeString: "text", framework.TypeInt: "number", framework.TypeFloat: "number", framework.TypeBool: "true or false",
	framework.TypeDurationSecond: "duration", framework.TypeCommaStringSlice: "list", framework.TypeStringSlice: "list",
	framework.TypeSlice: "JSON list", framework.TypeKVPairs: "map", framework.TypeMap: "map", framework.TypeTime: "time",
}

// cell is text for a cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", `\<`, "\n", " ").Replace(strings.TrimSpace(text))
}
