package jwt

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

// idExpression is what is known of every caller that has an entity.
const idExpression = "identity.entity.id"

// subjectClaims begins the expression that is a claim of the subject token.
const subjectClaims = "subject.claims."

// groupNames is the one expression whose value is a list.
const groupNames = "identity.entity.groups.names"

// known are the expressions for people. They are those of Vault's identity
// templating whose values the broker learns.
const known = "{{identity.entity.id}}, {{identity.entity.name}}, {{identity.entity.metadata.<key>}}, " +
	"{{identity.entity.aliases.<mount accessor>.name}}, {{identity.entity.aliases.<mount accessor>.metadata.<key>}} " +
	"and, alone, {{" + groupNames + "}}"

// maxTemplate bounds a template, in bytes.
const maxTemplate = 1 << 10

// template is a claim's value to be: text with expressions of Vault's own identity
// templating, or exactly one expression that is a list. What fills it never becomes
// JSON text or template text again.
type template struct {
	field, source string
	list          bool
	constant      bool
	// claim is the subject token's claim that is copied, "" where there is none.
	claim string
}

// parseTemplate parses what is filled from the Vault entity. It refuses what could
// never be filled. field is what errors name.
func parseTemplate(field, source string) (template, error) {
	t, err := parseShape(field, source)
	if err != nil {
		return t, err
	}
	for _, e := range expressions(source) {
		switch {
		case e == groupNames && isAlone(source):
			t.list = true
		case e == groupNames:
			return t, invalid(field, "{{%s}} is a list: it must be the whole template", groupNames)
		case strings.HasPrefix(e, subjectClaims):
			return t, invalid(field, "{{%s}} is about the subject of an exchange, and this claim is about the caller: write it into %s", e, fieldExchangeClaims)
		case !isKnown(e):
			return t, invalid(field, "{{%s}} is nothing that a template can be filled with: it takes %s", e, known)
		}
	}
	return t, nil
}

// parseSubject parses what stands beside the subject of an exchange: a constant, or one
// claim of the subject token. Text around that would be neither the subject's word
// nor the operator's.
func parseSubject(field, source string) (template, error) {
	t, err := parseShape(field, source)
	if err != nil {
		return t, err
	}
	for _, e := range expressions(source) {
		claim, ok := strings.CutPrefix(e, subjectClaims)
		switch {
		case strings.HasPrefix(e, "identity."):
			return t, invalid(field, "{{%s}} is about the caller and would stand beside the subject's sub, as if it were the subject's: write a name such as %steam, which puts it into act", e, insideAct)
		case !ok || claim == "":
			return t, invalid(field, "{{%s}} is nothing that can be copied in an exchange: it takes {{%s<name>}}, or text", e, subjectClaims)
		case !isAlone(source):
			return t, invalid(field, "{{%s}} is copied as it is: it must be the whole template", e)
		}
		t.claim = claim
	}
	return t, nil
}

// parseShape judges the text and the braces in it.
func parseShape(field, source string) (template, error) {
	t := template{field: field, source: source}
	if source == "" || len(source) > maxTemplate || !isPrintable(source) {
		return t, invalid(field, "a template has between 1 and %d bytes of printable text", maxTemplate)
	}
	substitutes, _, err := identitytpl.PopulateString(identitytpl.PopulateStringInput{
		String: source, ValidityCheckOnly: true, Mode: identitytpl.ACLTemplating,
		Entity: &logical.Entity{}, // so that nothing is missing for want of one
	})
	if err != nil {
		return t, invalid(field, "the template's {{ and }} do not match")
	}
	t.constant = !substitutes
	return t, nil
}

// expressions are what stands between the braces, which match.
func expressions(source string) []string {
	var all []string
	for _, piece := range strings.Split(source, "{{")[1:] {
		e, _, _ := strings.Cut(piece, "}}")
		all = append(all, strings.TrimSpace(e))
	}
	return all
}

// isAlone reports whether source is one expression and nothing else.
func isAlone(source string) bool {
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

// filling is what fills templates, in the form that Vault's library wants.
type filling struct {
	entity *logical.Entity // nil for a caller without one
	groups []*logical.Group
}

func fillingOf(id provider.Identity) filling {
	var f filling
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

// value is what the claim becomes: a string or a list of strings. Errors are
// *fault.Error with access_denied, name the template and no value.
func (t template) value(f filling) (any, error) {
	if !t.list {
		return t.text(f)
	}
	raw, err := t.populate(f, identitytpl.JSONTemplating)
	if err != nil {
		return nil, err
	}
	names := []string{}
	// The groups themselves: in raw, JSON has already replaced what is no text.
	noText := slices.ContainsFunc(f.groups, func(g *logical.Group) bool { return !utf8.ValidString(g.Name) })
	if json.Unmarshal([]byte(raw), &names) != nil || noText {
		return nil, fault.New(fault.AccessDenied, "%s: %s is no list of names", t.field, t.source)
	}
	if names == nil { // in no group
		names = []string{}
	}
	return names, nil
}

// copied is the claim of an exchange: a constant, or what the subject token says, with
// its type. The error is *fault.Error with access_denied and holds no value.
func (t template) copied(of map[string]any) (any, error) {
	if t.claim == "" {
		return t.source, nil
	}
	value := of[t.claim]
	if value == nil {
		return nil, fault.New(fault.AccessDenied, "%s: the subject token has no claim %q: have its issuer put it in, or an operator change the provider", t.field, t.claim)
	}
	return value, nil
}

// text is value for a template that is no list.
func (t template) text(f filling) (string, error) {
	s, err := t.populate(f, identitytpl.ACLTemplating)
	if err != nil {
		return "", err
	}
	if !utf8.ValidString(s) { // JSON would make one of many
		return "", fault.New(fault.AccessDenied, "%s: what %s stands for is no text", t.field, t.source)
	}
	return s, nil
}

// identifier is text that names somebody.
func (t template) identifier(f filling) (string, error) {
	s, err := t.text(f)
	if err == nil && (s == "" || len(s) > maxTemplate || !isPrintable(s)) {
		err = fault.New(fault.AccessDenied, "%s: what %s stands for names nobody: it must be printable text of at most %d bytes", t.field, t.source, maxTemplate)
	}
	return s, err
}

func (t template) populate(f filling, mode int) (string, error) {
	if f.entity == nil && !t.constant {
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
