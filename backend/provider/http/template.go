package httpapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
)

// A template is text with expressions in it, {{source | filter}}. What fills one is never
// read as a template again, and stands where the expression stood: each place has its own
// way to write a value, and refuses one that would not stay there (places.go).

// maxTemplate bounds a template's text, in bytes.
const maxTemplate = 4 << 10

// template is immutable.
type template struct{ parts []part }

// part is a literal, or an expression.
type part struct {
	literal string
	expr    *expression
}

// expression is a value to be.
type expression struct {
	root, key string // such as settings and account
	optional  bool   // {{source?}}: where there is none, what it stands in is left out
	filters   []filter
}

type filter struct{ name, arg string }

func (e *expression) String() string {
	if e.key == "" {
		return e.root
	}
	return e.root + "." + e.key
}

// whole is the expression that is all of the template; nil if it is not one.
func (t template) whole() *expression {
	if len(t.parts) == 1 {
		return t.parts[0].expr
	}
	return nil
}

// expressions are all that are in it.
func (t template) expressions() []*expression {
	var all []*expression
	for _, p := range t.parts {
		if p.expr != nil {
			all = append(all, p.expr)
		}
	}
	return all
}

// literal is all that stands between the expressions.
func (t template) literal() string {
	var all strings.Builder
	for _, p := range t.parts {
		all.WriteString(p.literal)
	}
	return all.String()
}

// kind is what a value is, as far as that can be told without one.
type kind string

const (
	kindText    kind = "a text"
	kindSecret  kind = "a secret"
	kindNumber  kind = "a number"
	kindList    kind = "a list"
	kindMap     kind = "a map"
	kindDetails kind = "authorization details"
	kindTTL     kind = "a length of time"
	kindTime    kind = "a time"
	kindAny     kind = "what an answer holds"
)

// The roots of expressions.
const (
	rootName     = "name"
	rootTTL      = "ttl"
	rootExpires  = "expires"
	rootSettings = "settings"
	rootParams   = "parameters"
	rootTaken    = "taken"
	rootRandom   = "random"
	rootItem     = "item"
	rootJWT      = "jwt"
	rootUsername = "username"
	rootPassword = "password"
	rootToken    = "token"
	rootSecrets  = "secrets"
	rootBorrowed = "borrowed"
	rootLogin    = "login"
	rootBasic    = "basic"
)

// kinds are the roots without a key.
var kinds = map[string]kind{
	rootName: kindText, rootRandom: kindSecret, rootTTL: kindTTL, rootExpires: kindTime,
	string(access.DimScopes): kindList, string(access.DimAudiences): kindList, string(access.DimResources): kindList,
	string(access.DimPermissions): kindMap, string(access.DimDetails): kindDetails,
	rootItem: kindAny, rootJWT: kindSecret, rootUsername: kindText, rootPassword: kindSecret, rootToken: kindSecret,
	rootBorrowed: kindSecret, rootBasic: kindSecret,
}

// keyed are the roots with a key.
var keyed = map[string]kind{
	rootSettings: kindText, rootParams: kindText, rootTaken: kindAny, rootItem: kindAny,
	string(access.DimPermissions): kindText, rootSecrets: kindSecret, rootLogin: kindSecret, rootBasic: kindSecret,
}

// filters are what each makes, by what it is given.
var filters = map[string]struct {
	of  []kind
	out kind
	arg bool
}{
	"one":        {[]kind{kindList}, kindText, false},
	"space":      {[]kind{kindList}, kindText, false},
	"comma":      {[]kind{kindList}, kindText, false},
	"before":     {[]kind{kindText, kindAny}, kindText, true},
	"after":      {[]kind{kindText, kindAny}, kindText, true},
	"number":     {[]kind{kindText, kindAny}, kindNumber, false},
	"flag":       {[]kind{kindText, kindAny}, kindNumber, false},
	"seconds":    {[]kind{kindTTL}, kindNumber, false},
	"minutes":    {[]kind{kindTTL}, kindNumber, false},
	"hours":      {[]kind{kindTTL}, kindNumber, false},
	"days":       {[]kind{kindTTL}, kindNumber, false},
	"duration":   {[]kind{kindTTL}, kindText, false},
	"rfc3339":    {[]kind{kindTime}, kindText, false},
	"rfc3339_ms": {[]kind{kindTime}, kindText, false},
	"date":       {[]kind{kindTime}, kindText, false},
	"unix":       {[]kind{kindTime}, kindNumber, false},
	"unix_ms":    {[]kind{kindTime}, kindNumber, false},
}

// kind is that of the expression's value.
func (e *expression) kind() kind {
	k := kinds[e.root]
	if e.key != "" {
		k = keyed[e.root]
	}
	for _, f := range e.filters {
		k = filters[f.name].out
	}
	return k
}

// textual reports whether its value can stand within a text.
func (e *expression) textual() bool {
	switch e.kind() {
	case kindText, kindSecret, kindNumber, kindAny:
		return true
	}
	return false
}

// parseTemplate reads a template's text. Errors are the ends of sentences.
func parseTemplate(source string) (template, error) {
	var t template
	if len(source) > maxTemplate {
		return t, fmt.Errorf("is longer than %d bytes", maxTemplate)
	}
	rest := source
	for rest != "" {
		literal, after, found := strings.Cut(rest, "{{")
		if strings.Contains(literal, "}}") {
			return t, fmt.Errorf("has a }} without a {{")
		}
		if literal != "" {
			t.parts = append(t.parts, part{literal: literal})
		}
		if !found {
			break
		}
		inner, behind, closed := strings.Cut(after, "}}")
		if !closed {
			return t, fmt.Errorf("has a {{ without a }}")
		}
		e, err := parseExpression(inner)
		if err != nil {
			return t, err
		}
		t.parts = append(t.parts, part{expr: e})
		rest = behind
	}
	for _, e := range t.expressions() {
		if len(t.parts) > 1 && !e.textual() {
			return t, fmt.Errorf("has {{%s}} within a text, and that is %s: %s", e, e.kind(), fits(e.kind()))
		}
		if k := e.kind(); k == kindTTL || k == kindTime {
			return t, fmt.Errorf("has {{%s}}, which is %s, without its unit: %s", e, k, fits(k))
		}
	}
	return t, nil
}

// fits are the filters that can make something else of a kind.
func fits(k kind) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		if slices.Contains(filters[name].of, k) {
			names = append(names, "| "+name)
		}
	}
	if len(names) == 0 {
		return "it stands alone, in JSON"
	}
	return "add one of " + strings.Join(names, ", ")
}

func parseExpression(inner string) (*expression, error) {
	pieces := strings.Split(inner, "|")
	source := strings.TrimSpace(pieces[0])
	e := &expression{}
	source, e.optional = strings.CutSuffix(source, "?")
	e.root, e.key, _ = strings.Cut(source, ".")
	_, bare := kinds[e.root]
	_, takesKey := keyed[e.root]
	switch {
	case e.key == "" && !bare && takesKey:
		return nil, fmt.Errorf("has {{%s}}, which needs a name behind it: {{%s.<name>}}", short(source), e.root)
	case e.key == "" && !bare || e.key != "" && !takesKey:
		return nil, fmt.Errorf("has {{%s}}, which is nothing that a template can be filled with", short(source))
	case e.key != "" && !isKey(e.key):
		return nil, fmt.Errorf("has {{%s}}, whose name is none: letters, digits, _, - and . make one", short(source))
	}
	for _, text := range pieces[1:] {
		name, arg, _ := strings.Cut(strings.TrimSpace(text), " ")
		f := filter{name: name, arg: strings.TrimSpace(arg)}
		known, ok := filters[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("has the filter %s, which there is not: %s", short(name), fits(e.kind()))
		case !slices.Contains(known.of, e.kind()):
			return nil, fmt.Errorf("has the filter %s of {{%s}}, which is %s: %s", name, e, e.kind(), fits(e.kind()))
		case known.arg != (f.arg != ""):
			return nil, fmt.Errorf("has the filter %s with too few or too many words: before and after take the one at which to cut, others none", name)
		}
		e.filters = append(e.filters, f)
	}
	return e, nil
}

// isKey reports whether a name may stand behind the dot.
func isKey(s string) bool {
	return len(s) <= 64 && s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.'
	})
}

func short(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// tree is a JSON value with templates for its texts.
type tree struct {
	text   *template        // a text, or the value of one expression
	scalar any              // number, flag or null
	list   []*tree          // nil for none
	object map[string]*tree // nil for none
	each   *each
}

// each makes a list, or with a key an object, of what a dimension holds.
type each struct {
	of    expression
	key   *template
	value *tree
}
