package form

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// The ways in which JSON of somebody else's is refused. Their texts say nothing of what
// it holds, and follow on "it cannot be read:".
var (
	ErrNotJSON   = errors.New("it is not JSON")
	ErrNotObject = errors.New("it is not a JSON object")
	ErrNotUTF8   = errors.New("it is not UTF-8")
	ErrTooDeep   = errors.New("it nests too deep")
	ErrTwice     = errors.New("it has the same member twice")
)

// Value reads raw as one JSON value: maps, slices, strings, json.Number, bool and nil.
// It refuses what different parsers read differently, and by which one document could
// therefore be shown to us and another to the next reader: a member that stands twice in
// an object, at any depth (RFC 7519 4), invalid UTF-8 (RFC 8725 3.7) and what follows the
// value. Objects and arrays nest at most depth deep.
func Value(raw []byte, depth int) (any, error) {
	switch {
	case !utf8.Valid(raw):
		return nil, ErrNotUTF8
	case !json.Valid(raw):
		return nil, ErrNotJSON
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return decodeValue(d, depth)
}

// Object is Value for what must be an object.
func Object(raw []byte, depth int) (map[string]any, error) {
	v, err := Value(raw, depth)
	object, ok := v.(map[string]any)
	switch {
	case errors.Is(err, ErrNotJSON), err == nil && !ok:
		return nil, ErrNotObject
	case err != nil:
		return nil, err
	}
	return object, nil
}

// Members reads raw as one object and leaves its values as they came. twice are the names
// that stand in it more than once, of which members has the last: whether that matters
// is for those to say who know what rests on them.
func Members(raw []byte) (members map[string]json.RawMessage, twice []string, err error) {
	if !json.Valid(raw) {
		return nil, nil, ErrNotObject
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, nil, ErrNotObject
	}
	members = map[string]json.RawMessage{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			return nil, nil, ErrNotObject
		}
		if _, known := members[name]; known {
			twice = append(twice, name)
		}
		members[name] = value
	}
	return members, twice, nil
}

// UniqueMembers is Members for an object in which every name must mean one thing.
func UniqueMembers(raw []byte) (map[string]json.RawMessage, error) {
	members, twice, err := Members(raw)
	if err == nil && len(twice) > 0 {
		err = ErrTwice
	}
	if err != nil {
		return nil, err
	}
	return members, nil
}

// decodeValue reads of what is known to be JSON, so that only depth and names can be at
// fault.
func decodeValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, ErrNotJSON
	}
	open, nested := token.(json.Delim)
	if !nested {
		return token, nil
	}
	if depth <= 0 {
		return nil, ErrTooDeep
	}
	var v any
	if open == '{' {
		v, err = decodeMembers(d, depth-1)
	} else {
		v, err = decodeElements(d, depth-1)
	}
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return nil, ErrNotJSON
	}
	return v, nil
}

func decodeMembers(d *json.Decoder, depth int) (map[string]any, error) {
	object := map[string]any{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, ErrNotJSON
		}
		if _, twice := object[name]; twice {
			return nil, ErrTwice
		}
		if object[name], err = decodeValue(d, depth); err != nil {
			return nil, err
		}
	}
	return object, nil
}

func decodeElements(d *json.Decoder, depth int) ([]any, error) {
	array := []any{}
	for d.More() {
		v, err := decodeValue(d, depth)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
	}
	return array, nil
}
