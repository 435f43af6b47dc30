package subject

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays may nest. Kubernetes' claims, the
// deepest of the well-known ones, nest three deep.
const maxDepth = 16

var (
	errNotObject = errors.New("it is not a JSON object")
	errNotUTF8   = errors.New("it is not UTF-8")
	errTooDeep   = errors.New("it nests too deep")
	errDuplicate = errors.New("it has the same member twice")
)

// decodeObject reads raw as one JSON object, numbers as json.Number. It refuses
// what different parsers read differently and could therefore be used to show
// one token to us and another to the next verifier: duplicate members at any
// depth (RFC 7519 4), invalid UTF-8 (RFC 8725 3.7) and trailing data.
func decodeObject(raw []byte) (map[string]any, error) {
	switch {
	case !utf8.Valid(raw):
		return nil, errNotUTF8
	case !json.Valid(raw):
		return nil, errNotObject
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	return object, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, errNotObject
	}
	open, nested := token.(json.Delim)
	if !nested {
		return token, nil
	}
	if depth >= maxDepth {
		return nil, errTooDeep
	}
	var v any
	if open == '{' {
		v, err = decodeMembers(d, depth+1)
	} else {
		v, err = decodeElements(d, depth+1)
	}
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return nil, errNotObject
	}
	return v, nil
}

func decodeMembers(d *json.Decoder, depth int) (map[string]any, error) {
	object := map[string]any{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errNotObject
		}
		if _, twice := object[name]; twice {
			return nil, errDuplicate
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
