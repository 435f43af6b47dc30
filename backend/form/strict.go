package form

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
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
	v, err := (&reader{rest: raw}).value(depth)
	if err != nil {
		return nil, err
	}
	return v, nil
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

// Members reads raw as one object and leaves its values as they came, as parts of raw.
// twice are the names that stand in it more than once, of which members has the last:
// whether that matters is for those to say who know what rests on them.
func Members(raw []byte) (members map[string]json.RawMessage, twice []string, err error) {
	members = map[string]json.RawMessage{}
	err = EachMember(raw, func(name string, value json.RawMessage) {
		if _, known := members[name]; known {
			twice = append(twice, name)
		}
		members[name] = value
	})
	if err != nil {
		return nil, nil, err
	}
	return members, twice, nil
}

// EachMember calls read with each member of the object that raw is, in their order and as
// often as they stand there; never, if raw is no object.
func EachMember(raw []byte, read func(name string, value json.RawMessage)) error {
	r := reader{rest: raw}
	if !json.Valid(raw) || r.next() != '{' {
		return ErrNotObject
	}
	return r.each('}', func() error { // which finds nothing wrong
		name := r.name()
		read(name, r.skip())
		return nil
	})
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

// reader goes through what json.Valid has called JSON, so that it need not look for
// mistakes. encoding/json's own goes through it token by token, at three times the cost:
// answers and headers are read on every issue.
type reader struct{ rest []byte }

// next is the first byte of what comes next, which stays.
func (r *reader) next() byte {
	for i, b := range r.rest { // bytes.TrimLeft would make a set of the blanks each time
		if b != ' ' && b != '\t' && b != '\r' && b != '\n' {
			r.rest = r.rest[i:]
			return b
		}
	}
	r.rest = nil
	return 0
}

// take is the next n bytes.
func (r *reader) take(n int) []byte {
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

// each calls read at every element of the object or array that comes next, up to its
// closing bracket.
func (r *reader) each(closing byte, read func() error) error {
	r.take(1)
	for r.next() != closing {
		if err := read(); err != nil {
			return err
		}
		if r.next() == ',' {
			r.take(1)
		}
	}
	r.take(1)
	return nil
}

// name is a member's name, with the colon behind it.
func (r *reader) name() string {
	r.next()
	name := r.text()
	r.next()
	r.take(1)
	return name
}

// text is the string that comes next.
func (r *reader) text() string {
	raw := r.take(lengthOf(r.rest))
	plain := raw[1 : len(raw)-1]
	if bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return string(plain)
	}
	var s string
	_ = json.Unmarshal(raw, &s) // it is valid
	return s
}

// lengthOf is the length of the string, number or word that raw begins with.
func lengthOf(raw []byte) int {
	if raw[0] != '"' {
		n := 0
		for n < len(raw) && strings.IndexByte(",]} \t\r\n", raw[n]) < 0 {
			n++
		}
		return n
	}
	for end := 1; ; end++ {
		end += bytes.IndexByte(raw[end:], '"')
		escaped := false
		for i := end - 1; raw[i] == '\\'; i-- {
			escaped = !escaped
		}
		if !escaped {
			return end + 1
		}
	}
}

// skip is the value that comes next, as it came.
func (r *reader) skip() json.RawMessage {
	r.next()
	all, depth := r.rest, 0
	for {
		switch r.next() {
		case '{', '[':
			depth++
			r.take(1)
		case '}', ']':
			depth--
			r.take(1)
		case ',', ':':
			r.take(1)
		default:
			r.take(lengthOf(r.rest))
		}
		if depth == 0 {
			n := len(all) - len(r.rest)
			return json.RawMessage(all[:n:n])
		}
	}
}

func (r *reader) value(depth int) (any, error) {
	switch first := r.next(); {
	case first == '"':
		return r.text(), nil
	case first == 't':
		r.take(len("true"))
		return true, nil
	case first == 'f':
		r.take(len("false"))
		return false, nil
	case first == 'n':
		r.take(len("null"))
		return nil, nil
	case first != '{' && first != '[':
		return json.Number(r.take(lengthOf(r.rest))), nil
	case depth <= 0:
		return nil, ErrTooDeep
	case first == '[':
		return r.elements(depth - 1)
	default:
		return r.members(depth - 1)
	}
}

func (r *reader) members(depth int) (any, error) {
	object := map[string]any{}
	err := r.each('}', func() (err error) {
		name := r.name()
		if _, twice := object[name]; twice {
			return ErrTwice
		}
		object[name], err = r.value(depth)
		return err
	})
	return object, err
}

func (r *reader) elements(depth int) (any, error) {
	array := []any{}
	err := r.each(']', func() error {
		v, err := r.value(depth)
		array = append(array, v)
		return err
	})
	return array, err
}
