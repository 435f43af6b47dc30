package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Bounds on authorization details.
const (
	MaxDetails      = 32       // elements
	MaxDetailsBytes = 64 << 10 // of JSON
	maxDetailsDepth = 8        // levels of nesting
	maxArray        = 256      // members of a standard array
	summaryBytes    = 120
)

// standardArrays are the common data fields of RFC 9396 2.2 that are arrays of
// strings, in which fewer members mean less access. They are in sorted order.
var standardArrays = [...]string{"actions", "datatypes", "locations", "privileges"}

// element is one authorization detail in canonical form.
type element struct {
	typ string
	// arrays are the standard arrays, nil where absent, else sorted and unique.
	arrays [len(standardArrays)][]string
	// rest are the other members, type included, as canonical JSON; frame is
	// what must be equal for elements to be comparable: rest and which arrays
	// there are.
	rest  map[string]json.RawMessage
	frame string
	canon string
}

// ParseDetails reads a JSON array of authorization details, or a single one. It
// refuses what two parsers could read differently (duplicate names, invalid
// UTF-8, something behind the end), elements without a type (RFC 9396 2.1),
// standard arrays that hold anything but strings, and what exceeds the bounds.
// Numbers are compared as they are written. Errors do not repeat the values.
func ParseDetails(raw []byte) (Details, error) {
	if len(raw) > MaxDetailsBytes {
		return Details{}, fmt.Errorf("authorization_details have %d bytes, more than %d", len(raw), MaxDetailsBytes)
	}
	v, err := form.Value(raw, maxDetailsDepth)
	if err != nil {
		return Details{}, fmt.Errorf("authorization_details: %w", err)
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	if len(list) > MaxDetails {
		return Details{}, fmt.Errorf("authorization_details have %d elements, more than %d", len(list), MaxDetails)
	}
	elements := make([]element, 0, len(list))
	for i, v := range list {
		e, err := newElement(v)
		if err != nil {
			return Details{}, fmt.Errorf("authorization_details element %d: %w", i+1, err)
		}
		elements = append(elements, e)
	}
	return newDetails(elements), nil
}

func newElement(v any) (element, error) {
	members, ok := v.(map[string]any)
	if !ok {
		return element{}, errors.New("not an object")
	}
	typ, ok := members["type"].(string)
	if !ok {
		return element{}, errors.New("type must be a string")
	}
	if err := checkLength("type", typ, MaxTarget); err != nil {
		return element{}, err
	}
	if err := checkPrintable("type", typ, false); err != nil {
		return element{}, err
	}
	e := element{typ: typ, rest: make(map[string]json.RawMessage, len(members))}
	for i, name := range standardArrays {
		v, ok := members[name]
		if !ok {
			continue
		}
		if e.arrays[i], ok = stringArray(v); !ok {
			return element{}, fmt.Errorf("%s must be an array of at most %d strings", name, maxArray)
		}
		delete(members, name)
	}
	for name, v := range members {
		e.rest[name] = marshal(v)
	}
	return e.finish(), nil
}

// stringArray returns the members sorted and unique, never nil.
func stringArray(v any) ([]string, bool) {
	list, ok := v.([]any)
	if !ok || len(list) > maxArray {
		return nil, false
	}
	out := make([]string, 0, len(list))
	for _, m := range list {
		s, ok := m.(string)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return slices.Compact(out), true
}

// finish fills in frame and canon from the other fields.
func (e element) finish() element {
	members := maps.Clone(e.rest)
	for i, a := range e.arrays {
		if a != nil {
			members[standardArrays[i]] = json.RawMessage("[]")
		}
	}
	e.frame = object(members)
	for i, a := range e.arrays {
		if a != nil {
			members[standardArrays[i]] = marshal(a)
		}
	}
	e.canon = object(members)
	return e
}

// object writes an object with sorted names.
func object(members map[string]json.RawMessage) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(marshal(name))
		b.WriteByte(':')
		b.Write(members[name])
	}
	b.WriteByte('}')
	return b.String()
}

// marshal writes what form.Value or this file made, which cannot fail: names
// sorted, no whitespace, and no HTML escapes, which only obscure an audit log.
func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// within reports whether e equals f, or is f with fewer members of its standard
// arrays. None may be emptied: an empty array, like an absent one, may mean
// "all" to a server.
func (e element) within(f element) bool {
	if e.frame != f.frame {
		return false
	}
	for i, a := range e.arrays {
		if len(a) == 0 && len(f.arrays[i]) > 0 {
			return false
		}
		for _, m := range a {
			if _, found := slices.BinarySearch(f.arrays[i], m); !found {
				return false
			}
		}
	}
	return true
}

// meet is the largest element within both, if there is one.
func (e element) meet(f element) (element, bool) {
	switch {
	case e.frame != f.frame:
		return element{}, false
	case e.within(f):
		return e, true
	case f.within(e):
		return f, true
	}
	for i, a := range e.arrays {
		if e.arrays[i] == nil {
			continue
		}
		e.arrays[i] = listed(f.arrays[i]).members(a)
		if len(e.arrays[i]) == 0 && len(a)+len(f.arrays[i]) > 0 {
			return element{}, false
		}
	}
	return e.finish(), true
}

// summary is the type and the beginning of the canonical form.
func (e element) summary() string {
	canon := e.canon
	if len(canon) > summaryBytes {
		cut := summaryBytes
		for cut > 0 && !utf8.RuneStart(canon[cut]) {
			cut--
		}
		canon = canon[:cut] + "…"
	}
	return e.typ + " " + canon
}
