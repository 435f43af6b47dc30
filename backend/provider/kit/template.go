package kit

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Expressions that some treat in a way of their own.
const (
	// IDExpression is what is known of every caller that has an entity.
	IDExpression = "identity.entity.id"
	// GroupNames is the one expression whose value is a list.
	GroupNames = "identity.entity.groups.names"
)

// KnownExpressions are all that a template takes, for people. They are those of Vault's
// identity templating whose values the broker learns.
const KnownExpressions = "{{identity.entity.id}}, {{identity.entity.name}}, {{identity.entity.metadata.<key>}}, " +
	"{{identity.entity.aliases.<mount accessor>.name}}, {{identity.entity.aliases.<mount accessor>.metadata.<key>}} " +
	"and, alone, {{" + GroupNames + "}}"

// MaxTemplate bounds a template, in bytes.
const MaxTemplate = 1 << 10

// Template is a text to be: with expressions of Vault's own identity templating, or
// exactly one expression that is a list. It is filled from the Vault entity that asks, and
// what fills it never becomes JSON text or template text again. It is immutable.
type Template struct {
	field, source string
	expressions   []string
	list          bool
}

// ParseTemplate refuses what could never be filled. field is what errors name. They are
// *fault.Error with invalid_request.
func ParseTemplate(field, source string) (Template, error) {
	all, err := Expressions(field, source)
	if err != nil {
		return Template{}, err
	}
	t := Template{field: field, source: source, expressions: all}
	for _, e := range all {
		switch {
		case e == GroupNames && IsOneExpression(source):
			t.list = true
		case e == GroupNames:
			return t, Invalid(field, "{{%s}} is a list: it must be the whole template", GroupNames)
		case !isKnown(e):
			return t, Invalid(field, "{{%s}} is nothing that a template can be filled with: it takes %s", e, KnownExpressions)
		}
	}
	return t, nil
}

// List reports whether Value is a list of strings.
func (t Template) List() bool { return t.list }

// NeedsEntity reports whether it takes more of the entity than its id
// (provider.Traits).
func (t Template) NeedsEntity() bool {
	return slices.ContainsFunc(t.expressions, func(e string) bool { return e != IDExpression })
}

// Expressions judges a template's text and the braces in it, and returns what stands
// between them, whatever that is.
func Expressions(field, source string) ([]string, error) {
	if source == "" || len(source) > MaxTemplate || !IsPrintable(source) {
		return nil, Invalid(field, "a template has between 1 and %d bytes of printable text", MaxTemplate)
	}
	_, _, err := identitytpl.PopulateString(identitytpl.PopulateStringInput{
		String: source, ValidityCheckOnly: true, Mode: identitytpl.ACLTemplating,
		Entity: &logical.Entity{}, // so that nothing is missing for want of one
	})
	if err != nil {
		return nil, Invalid(field, "the template's {{ and }} do not match")
	}
	var all []string
	for _, piece := range strings.Split(source, "{{")[1:] {
		e, _, _ := strings.Cut(piece, "}}")
		all = append(all, strings.TrimSpace(e))
	}
	return all, nil
}

// IsOneExpression reports whether source is one expression and nothing else.
func IsOneExpression(source string) bool {
	return strings.HasPrefix(source, "{{") && strings.HasSuffix(source, "}}") && strings.Count(source, "{{") == 1
}

func isKnown(expression string) bool {
	e, ok := strings.CutPrefix(expression, "identity.entity.")
	if !ok {
		return false
	}
	if alias, ok := strings.CutPrefix(e, "aliases."); ok {
		accessor, of, _ := strings.Cut(alias, ".")
		return accessor != "" && (of == "name" || isMetadata(of))
	}
	return e == "id" || e == "name" || isMetadata(e)
}

func isMetadata(e string) bool {
	key, ok := strings.CutPrefix(e, "metadata.")
	return ok && key != ""
}

// Filling is what fills templates.
type Filling struct {
	entity *logical.Entity // nil for a caller without one
	groups []*logical.Group
}

// FillingOf is what the holder's identity fills them with.
func FillingOf(id provider.Identity) Filling {
	var f Filling
	if id.EntityID == "" {
		return f
	}
	f.entity = &logical.Entity{ID: id.EntityID, Name: id.Name, Metadata: id.Metadata}
	for _, a := range id.Aliases {
		f.entity.Aliases = append(f.entity.Aliases, &logical.Alias{Name: a.Name, MountAccessor: a.MountAccessor, Metadata: a.Metadata})
	}
	for _, name := range slices.Sorted(slices.Values(id.Groups)) {
		f.groups = append(f.groups, &logical.Group{Name: name})
	}
	return f
}

// Value is what it becomes: a string or a list of strings. Errors are *fault.Error with
// access_denied, name the template and no value.
func (t Template) Value(f Filling) (any, error) {
	if !t.list {
		return t.Text(f)
	}
	raw, err := t.populate(f, identitytpl.JSONTemplating)
	if err != nil {
		return nil, err
	}
	names := []string{}
	// Taken from the groups themselves: raw is JSON, which has replaced bytes that are no
	// text.
	noText := slices.ContainsFunc(f.groups, func(g *logical.Group) bool { return !utf8.ValidString(g.Name) })
	if json.Unmarshal([]byte(raw), &names) != nil || noText {
		return nil, fault.New(fault.AccessDenied, "%s: %s is no list of names", t.field, t.source)
	}
	if names == nil { // in no group
		names = []string{}
	}
	return names, nil
}

// Text is Value for a template that is no list.
func (t Template) Text(f Filling) (string, error) {
	s, err := t.populate(f, identitytpl.ACLTemplating)
	if err != nil {
		return "", err
	}
	if !utf8.ValidString(s) { // JSON would make one of many
		return "", fault.New(fault.AccessDenied, "%s: what %s stands for is no text", t.field, t.source)
	}
	return s, nil
}

// Identifier is Text that names somebody: printable, and not empty.
func (t Template) Identifier(f Filling) (string, error) {
	s, err := t.Text(f)
	if err == nil && (s == "" || len(s) > MaxTemplate || !IsPrintable(s)) {
		err = fault.New(fault.AccessDenied, "%s: what %s stands for names nobody: it must be printable text of at most %d bytes", t.field, t.source, MaxTemplate)
	}
	return s, err
}

func (t Template) populate(f Filling, mode int) (string, error) {
	if f.entity == nil && len(t.expressions) > 0 {
		return "", fault.New(fault.AccessDenied, "%s is filled from the Vault entity (%s), and this token has none: log in with an auth method that gives one", t.field, t.source)
	}
	_, s, err := identitytpl.PopulateString(identitytpl.PopulateStringInput{
		String: t.source, Mode: mode, Entity: f.entity, Groups: f.groups,
	})
	if err != nil {
		return "", fault.New(fault.AccessDenied, "%s: the Vault entity lacks what %s names: have an operator add it, or change the provider", t.field, t.source).Because(err)
	}
	return s, nil
}

// Invalid is *fault.Error with invalid_request about a field.
func Invalid(field, format string, args ...any) *fault.Error {
	f := fault.New(fault.InvalidRequest, format, args...)
	f.Message = field + ": " + f.Message
	return f
}
