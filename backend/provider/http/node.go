package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// mistakes are what is wrong with a definition, each with its place. Reading goes on after
// one, so that an operator is told all of them.
type mistakes struct{ all []string }

// maxMistakes is how many a person mends at once.
const maxMistakes = 12

func (m *mistakes) add(at, format string, args ...any) {
	if at == "" {
		at = "the definition"
	}
	m.all = append(m.all, at+" "+fmt.Sprintf(format, args...))
}

// err names the first ones; nil if there are none.
func (m *mistakes) err() error {
	if len(m.all) == 0 {
		return nil
	}
	shown := m.all[:min(len(m.all), maxMistakes)]
	text := strings.Join(shown, "; ")
	if more := len(m.all) - len(shown); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return kit.Invalid(fieldDefinition, "%s", text)
}

// node is a value in a definition, and where it stands, as a JSON Pointer (RFC 6901).
// What is absent is a node too, of which every reading is the zero value.
type node struct {
	at    string
	v     any
	found bool
	m     *mistakes
}

var escapePointer = strings.NewReplacer("~", "~0", "/", "~1")

func (n node) in(name string) string { return n.at + "/" + escapePointer.Replace(name) }

func (n node) wrong(format string, args ...any) { n.m.add(n.at, format, args...) }

// child is a member; absent of what is no object.
func (n node) child(name string) node {
	object, _ := n.v.(map[string]any)
	v, found := object[name]
	return node{at: n.in(name), v: v, found: found, m: n.m}
}

// object reads an object that has no other members than these.
func (n node) object(members ...string) bool {
	if !n.found {
		return false
	}
	object, ok := n.v.(map[string]any)
	if !ok {
		n.wrong("must be an object")
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(members, name) {
			n.m.add(n.in(short(name)), "is not known: here stand %s", strings.Join(members, ", "))
		}
	}
	return true
}

// members are those of an object with names of the operator's.
func (n node) members(most int) []string {
	if !n.found {
		return nil
	}
	object, ok := n.v.(map[string]any)
	switch {
	case !ok:
		n.wrong("must be an object")
		return nil
	case len(object) > most:
		n.wrong("has more than %d members", most)
		return nil
	}
	return slices.Sorted(maps.Keys(object))
}

// list are the elements of an array.
func (n node) list(most int) []node {
	if !n.found {
		return nil
	}
	array, ok := n.v.([]any)
	switch {
	case !ok:
		n.wrong("must be an array")
		return nil
	case len(array) > most:
		n.wrong("has more than %d elements", most)
		return nil
	}
	nodes := make([]node, len(array))
	for i, v := range array {
		nodes[i] = node{at: n.at + "/" + strconv.Itoa(i), v: v, found: true, m: n.m}
	}
	return nodes
}

// maxText bounds a text that is shown, in bytes.
const maxText = 1 << 10

func (n node) text() string {
	if !n.found {
		return ""
	}
	s, ok := n.v.(string)
	switch {
	case !ok:
		n.wrong("must be a text")
	case len(s) > maxText || !kit.IsPrintable(s):
		n.wrong("must be printable text of at most %d bytes", maxText)
	default:
		return s
	}
	return ""
}

// word is a text that is one of these; "" if it is absent.
func (n node) word(words ...string) string {
	s := n.text()
	if s != "" && !slices.Contains(words, s) {
		n.wrong("must be one of %s", strings.Join(words, ", "))
		return ""
	}
	return s
}

func (n node) texts(most int) []string {
	var all []string
	for _, element := range n.list(most) {
		all = append(all, element.text())
	}
	return all
}

func (n node) flag() bool {
	b, ok := n.v.(bool)
	if n.found && !ok {
		n.wrong("must be true or false")
	}
	return b
}

func (n node) number(least, most int) int {
	if !n.found {
		return least
	}
	number, ok := numberText(n.v)
	i, err := strconv.Atoi(number)
	if !ok || err != nil || i < least || i > most {
		n.wrong("must be a whole number from %d to %d", least, most)
		return least
	}
	return i
}

// numberText is the text of a JSON number.
func numberText(v any) (string, bool) {
	switch number := v.(type) {
	case json.Number:
		return string(number), true
	case float64:
		return strconv.FormatFloat(number, 'f', -1, 64), true
	}
	return "", false
}

// duration is written as 90s, 5m, 24h or 30d.
func (n node) duration() time.Duration {
	s := n.text()
	if s == "" {
		return 0
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if count, err := strconv.Atoi(days); err == nil && count > 0 && count <= 36500 {
			return time.Duration(count) * 24 * time.Hour
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d%time.Second != 0 {
		n.wrong("must be a duration of whole seconds, such as 90s, 5m, 24h or 30d")
		return 0
	}
	return d
}

// What makes a pattern one of a whole text.
const begins, ends = `\A(?:`, `)\z`

// written is a pattern as it stands in the definition.
func written(re *regexp.Regexp) string {
	return strings.TrimSuffix(strings.TrimPrefix(re.String(), begins), ends)
}

// pattern is a regular expression (RE2) of a whole text.
func (n node) pattern() *regexp.Regexp {
	s := n.text()
	if s == "" {
		return nil
	}
	_, alone := regexp.Compile(s) // so that no parenthesis of its own closes what makes it whole
	re, err := regexp.Compile(begins + s + ends)
	if alone != nil || err != nil {
		n.wrong("is no regular expression (RE2)")
		return nil
	}
	return re
}

// pointer is a JSON Pointer; "" is the whole answer.
func (n node) pointer() pointer {
	if !n.found {
		return pointer{}
	}
	s, ok := n.v.(string)
	if !ok {
		n.wrong("must be a JSON Pointer (RFC 6901), such as /data/id")
		return pointer{}
	}
	if s == "" {
		return pointer{given: true}
	}
	p, err := form.ParsePointer(s)
	if err != nil {
		n.wrong("is no JSON Pointer: it %s", err)
		return pointer{}
	}
	return pointer{Pointer: p, given: true}
}

func (n node) template() template {
	if !n.found {
		return template{}
	}
	s, ok := n.v.(string)
	if !ok {
		n.wrong("must be a text, which may have {{...}} in it")
		return template{}
	}
	t, err := parseTemplate(s)
	if err != nil {
		n.wrong("%s", err)
	}
	return t
}

// isScalar reports whether v is a text, a number, a flag or null.
func isScalar(v any) bool {
	switch v.(type) {
	case nil, string, bool, json.Number, float64:
		return true
	}
	return false
}
