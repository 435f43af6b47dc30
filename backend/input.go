package backend

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Bounds on any request, before a handler sees it.
const (
	maxValue    = 64 << 10 // of one string, in bytes
	maxElements = 1000     // of one list or map
	maxDepth    = 16       // of nested JSON
	maxName     = 128      // of a name in a path
)

// checkInput refuses what no handler should have to think about: fields that the
// path does not have (the framework would ignore them with a warning), values of
// the wrong type (the framework has no code of the contract for them), and sizes
// beyond any use. Lists and maps may also come as JSON text.
func (b *broker) checkInput(req *logical.Request) error {
	switch req.Operation {
	case logical.CreateOperation, logical.ReadOperation, logical.UpdateOperation,
		logical.DeleteOperation, logical.ListOperation, logical.PatchOperation:
	default:
		return nil
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	for _, segment := range strings.Split(req.Path, "/") {
		if len(segment) > maxName {
			return fault.New(fault.InvalidRequest, "a name in the path is longer than %d characters", maxName)
		}
	}
	if req.Operation == logical.ListOperation {
		delete(req.Data, "list") // how a GET asks for a list
	}
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		_, ok := path.Fields[name]
		if !ok && path.TakesArbitraryInput {
			continue // the handler says what is wrong with the path itself
		}
		if !ok || (name == fieldForce && req.Operation != logical.DeleteOperation) {
			return unknownField(req, path, name)
		}
		taken, err := take(path, name, req.Data[name])
		if err != nil {
			return fault.New(fault.InvalidRequest, "%s: %s", name, err)
		}
		req.Data[name] = taken
	}
	return nil
}

// take is what the handler gets of one field's value. An error does not repeat it: it
// may be a secret in the wrong place.
func take(path *framework.Path, name string, value any) (any, error) {
	schema := path.Fields[name]
	if err := checkSize(value, 0); err != nil {
		return nil, err
	}
	value = fromFile(value)
	if value == "" {
		return unset(path, schema)
	}
	decoded, err := fromJSONText(name, schema.Type, value)
	if err != nil {
		return nil, err
	}
	converted, ok := convert(path, name, decoded)
	if !ok {
		return nil, want(name, schema.Type)
	}
	// Once more: one string may be a list, with commas between its elements.
	if list, ok := converted.([]string); ok && len(list) > maxElements {
		return nil, fmt.Errorf("more than %d elements", maxElements)
	}
	return decoded, nil
}

// fromFile takes off what echo, jq -r and editors put around a value, which field=@file
// reads with it. A field that is given twice on the command line is a list.
func fromFile(value any) any {
	switch v := value.(type) {
	case string:
		return form.FromFile(v)
	case []any:
		for i, e := range v {
			if text, ok := e.(string); ok {
				v[i] = form.FromFile(text)
			}
		}
	}
	return value
}

// unset is what an empty value means: the field as it was before anybody wrote it.
func unset(path *framework.Path, schema *framework.FieldSchema) (any, error) {
	switch schema.Type {
	case framework.TypeMap, framework.TypeKVPairs:
		return map[string]any{}, nil
	case framework.TypeSlice:
		return []any{}, nil
	case framework.TypeBool:
		// What cannot be read back was never written: revoke's freeze= would thaw.
		if path.Operations[logical.ReadOperation] == nil {
			return nil, want("", schema.Type)
		}
		return schema.DefaultOrZero(), nil
	case framework.TypeInt, framework.TypeFloat, framework.TypeDurationSecond:
		return schema.DefaultOrZero(), nil
	}
	return "", nil
}

// unknownField says which field may be meant, or which ones there are.
func unknownField(req *logical.Request, path *framework.Path, name string) *fault.Error {
	takes := fieldNames(req, path)
	help := fmt.Sprintf("vault path-help %s%s tells them all", req.MountPoint, req.Path)
	said := "this path takes " + strings.Join(takes, ", ")
	switch meant := alike(name, takes); {
	case len(meant) > 0:
		said = fmt.Sprintf("did you mean %s? %s", strings.Join(meant, " or "), help)
	case len(takes) == 0:
		said = "this path takes none"
	case len(takes) > maxNamed:
		said = "none that this path takes has such a name: " + help
	}
	return fault.New(fault.InvalidRequest, "unknown field %q: %s", short(name), said)
}

// maxNamed is how many fields a person reads one by one.
const maxNamed = 12

// alike are the names that somebody may have meant by another one: by a slip or two, or
// as a part of it, such as group of bound_group_names.
func alike(name string, names []string) []string {
	return near(strings.ReplaceAll(strings.ToLower(name), "-", "_"), names)
}

// near is alike for names that somebody else has given.
func near(name string, names []string) []string {
	if len(name) > maxName {
		return nil
	}
	best := 1 + len(name)/5
	var near, parts []string
	for _, other := range names {
		switch d := distance(name, other); {
		case d < best:
			best, near = d, []string{other}
		case d == best:
			near = append(near, other)
		}
		if part := strings.TrimSuffix(name, "s"); len(part) > 2 && strings.Contains(other, part) {
			parts = append(parts, other)
		}
	}
	if len(near) == 0 {
		near = parts
	}
	return near[:min(len(near), 3)]
}

// distance is the least number of letters that were added, left out, mistaken, or swapped
// with the next one.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // of what a begins with, up to the letter before
	for j := range row {
		row[j] = j
	}
	before := row
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := row[j]
			if a[i] != b[j] {
				cost++
			}
			next[j+1] = min(cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// convert is what the framework makes of the value, if it can make the field's type of
// it. Its own error is dropped: it can hold the value, which may be a secret.
func convert(path *framework.Path, name string, value any) (converted any, ok bool) {
	data := framework.FieldData{Raw: map[string]any{name: value}, Schema: path.Fields}
	if data.Validate() != nil {
		return nil, false
	}
	converted = data.Get(name)
	number, isFloat := converted.(float64)
	return converted, !isFloat || !math.IsNaN(number) && !math.IsInf(number, 0)
}

func checkSize(value any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch v := value.(type) {
	case string:
		if len(v) > maxValue {
			return fmt.Errorf("longer than %d bytes", maxValue)
		}
	case []any:
		if len(v) > maxElements {
			return fmt.Errorf("more than %d elements", maxElements)
		}
		for _, e := range v {
			if err := checkSize(e, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if len(v) > maxElements {
			return fmt.Errorf("more than %d members", maxElements)
		}
		for k, e := range v {
			if len(k) > maxValue {
				return fmt.Errorf("a member's name is longer than %d bytes", maxValue)
			}
			if err := checkSize(e, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// fromJSONText decodes the JSON text of a list or map, which is the only way to
// give one on the command line or in a query.
func fromJSONText(name string, t framework.FieldType, value any) (any, error) {
	text, ok := value.(string)
	if !ok {
		return rejectForeign(name, t, value)
	}
	trimmed := strings.TrimSpace(text)
	var begin string
	switch t {
	case framework.TypeMap, framework.TypeKVPairs:
		begin = "{"
	case framework.TypeSlice, framework.TypeCommaStringSlice:
		begin = "["
	default:
		return value, nil
	}
	if !strings.HasPrefix(trimmed, begin) {
		if t == framework.TypeMap || t == framework.TypeSlice {
			return nil, want(name, t)
		}
		if t == framework.TypeKVPairs {
			return value, onePairEach(name, []any{text})
		}
		return value, nil
	}
	decoded, err := form.Value([]byte(trimmed), maxDepth+1)
	switch {
	case errors.Is(err, form.ErrTooDeep):
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	case errors.Is(err, form.ErrTwice):
		return nil, fmt.Errorf("not valid JSON: %w", err)
	case err != nil:
		return nil, fmt.Errorf("not valid JSON: %w (on a command line it has to stand in single quotes)", want(name, t))
	}
	if err := checkSize(decoded, 0); err != nil {
		return nil, err
	}
	return rejectForeign(name, t, decoded)
}

// rejectForeign refuses what the framework would convert by guesswork, such as a
// map into a list of one, true into 1, or a list of objects into text.
func rejectForeign(name string, t framework.FieldType, value any) (any, error) {
	if value == nil {
		return nil, fmt.Errorf("must not be null: leave the field out, or give an empty value to unset it")
	}
	number := isNumber(value)
	var fits bool
	switch t {
	case framework.TypeString:
		fits = number
	case framework.TypeInt, framework.TypeFloat, framework.TypeDurationSecond:
		fits = number
	case framework.TypeBool:
		_, fits = value.(bool)
	case framework.TypeMap:
		_, fits = value.(map[string]any)
	case framework.TypeSlice:
		_, fits = value.([]any)
	case framework.TypeCommaStringSlice:
		fits = isTextList(value)
	case framework.TypeKVPairs:
		if isTextList(value) {
			return value, onePairEach(name, value)
		}
		fits = isTextMap(value)
	default:
		fits = true
	}
	if !fits {
		return nil, want(name, t)
	}
	return value, nil
}

// onePairEach refuses several pairs in one text, a=b,c=d, of which Vault makes one whose value is
// b,c=d, where no value is meant to hold that.
func onePairEach(name string, list any) error {
	if !slices.Contains([]string{"events", "permissions", "entity_metadata"}, name) {
		return nil
	}
	texts, _ := list.([]string)
	anys, _ := list.([]any)
	for _, element := range anys {
		if text, ok := element.(string); ok {
			texts = append(texts, text)
		}
	}
	for _, text := range texts {
		first, rest, several := strings.Cut(text, ",")
		if several && strings.Contains(first, "=") && strings.Contains(rest, "=") {
			pairs := strings.Split(text, ",")
			return fmt.Errorf("several pairs in one: write %s=%s, or a JSON object of all", name, strings.Join(pairs, " "+name+"="))
		}
	}
	return nil
}

// want says what a field takes, and what that looks like on the command line.
func want(name string, t framework.FieldType) error {
	example := examples[name]
	switch t {
	case framework.TypeString:
		return errors.New("want a string")
	case framework.TypeInt, framework.TypeFloat:
		return errors.New("want a number, such as 5")
	case framework.TypeDurationSecond:
		return errors.New("want a duration, such as 10m, 1h30m or 600, which is seconds")
	case framework.TypeBool:
		return errors.New("want true or false")
	case framework.TypeMap:
		return fmt.Errorf("want a JSON object, such as '%s'", cmp.Or(example, `{"name":"value"}`))
	case framework.TypeSlice:
		return fmt.Errorf("want a JSON array, such as '%s'", cmp.Or(example, `["value"]`))
	case framework.TypeCommaStringSlice:
		return errors.New(`want a list of strings, such as a,b or '["a","b"]'`)
	case framework.TypeKVPairs:
		pair := cmp.Or(example, "name=value")
		key, value, _ := strings.Cut(pair, "=")
		return fmt.Errorf(`want a map of strings, such as %s=%s once for each, or '{"%s":"%s"}'`, name, pair, key, value)
	}
	return fmt.Errorf("not a valid %s", t)
}

// examples are values of fields that take more than a word.
var examples = map[string]string{
	"bound_entity_metadata": "team=payments",
	"permissions":           "contents=read",
	"bound_subject_claims":  `{"repository":"acme/api","ref":["refs/heads/main"]}`,
	"authorization_details": `[{"type":"payment_initiation","actions":["initiate"]}]`,
	"claims":                `{"team":"{{identity.entity.metadata.team}}"}`,
	"exchange_claims":       `{"tenant":"{{subject.claims.tenant}}"}`,
}

func isNumber(value any) bool {
	switch value.(type) {
	case json.Number, float64, int, int64:
		return true
	}
	return false
}

func isTextList(value any) bool {
	if _, ok := value.([]string); ok {
		return true
	}
	list, ok := value.([]any)
	return ok && !slices.ContainsFunc(list, isNoText)
}

func isTextMap(value any) bool {
	if _, ok := value.(map[string]string); ok {
		return true
	}
	m, ok := value.(map[string]any)
	return ok && !slices.ContainsFunc(slices.Collect(maps.Values(m)), isNoText)
}

func isNoText(value any) bool {
	_, ok := value.(string)
	return !ok
}

// fieldNames are the fields that the operation takes beside those in the path itself.
func fieldNames(req *logical.Request, path *framework.Path) []string {
	names := make([]string, 0, len(path.Fields))
	for name := range path.Fields {
		if !strings.Contains(path.Pattern, "<"+name+">") && (name != fieldForce || req.Operation == logical.DeleteOperation) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func short(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
