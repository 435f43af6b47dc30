package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
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
	for name, value := range req.Data {
		schema, ok := path.Fields[name]
		if !ok && path.TakesArbitraryInput {
			continue // the handler says what is wrong with the path itself
		}
		if !ok || (name == fieldForce && req.Operation != logical.DeleteOperation) {
			return fault.New(fault.InvalidRequest, "unknown field %q: this path takes %s", short(name), fieldNames(path))
		}
		if err := checkSize(value, 0); err != nil {
			return fault.New(fault.InvalidRequest, "%s: %s", name, err)
		}
		decoded, err := fromJSONText(schema.Type, value)
		if err != nil {
			return fault.New(fault.InvalidRequest, "%s: %s", name, err)
		}
		req.Data[name] = decoded
		converted, ok := convert(path, name, decoded)
		if !ok {
			return fault.New(fault.InvalidRequest, "%s: not a valid %s", name, schema.Type)
		}
		// Once more: one string may be a list, with commas between its elements.
		if list, ok := converted.([]string); ok && len(list) > maxElements {
			return fault.New(fault.InvalidRequest, "%s: more than %d elements", name, maxElements)
		}
	}
	return nil
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
func fromJSONText(t framework.FieldType, value any) (any, error) {
	text, ok := value.(string)
	if !ok {
		return rejectForeign(t, value)
	}
	trimmed := strings.TrimSpace(text)
	var want string
	switch t {
	case framework.TypeMap, framework.TypeKVPairs:
		want = "{"
	case framework.TypeSlice, framework.TypeCommaStringSlice:
		want = "["
	default:
		return value, nil
	}
	if !strings.HasPrefix(trimmed, want) {
		if t == framework.TypeMap || t == framework.TypeSlice {
			return nil, fmt.Errorf("want JSON that begins with %s", want)
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
		return nil, fmt.Errorf("not valid JSON")
	}
	if err := checkSize(decoded, 0); err != nil {
		return nil, err
	}
	return rejectForeign(t, decoded)
}

// rejectForeign refuses what the framework would convert by guesswork, such as a
// map into a list of one, true into 1, or a list of objects into text.
func rejectForeign(t framework.FieldType, value any) (any, error) {
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
		fits = isTextMap(value) || isTextList(value)
	default:
		fits = true
	}
	if !fits {
		return nil, fmt.Errorf("want %s", wanted[t])
	}
	return value, nil
}

// wanted says what rejectForeign wants, in a caller's words.
var wanted = map[framework.FieldType]string{
	framework.TypeString:           "a string",
	framework.TypeInt:              "a number",
	framework.TypeFloat:            "a number",
	framework.TypeDurationSecond:   "a duration, such as 600 or 10m",
	framework.TypeBool:             "true or false",
	framework.TypeMap:              "a map",
	framework.TypeSlice:            "a list",
	framework.TypeCommaStringSlice: "a list of strings",
	framework.TypeKVPairs:          "a map of strings",
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

func fieldNames(path *framework.Path) string {
	names := make([]string, 0, len(path.Fields))
	for name := range path.Fields {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "none"
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

func short(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
