package form

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// Part is a JSON value that is known to be well formed, as it came: of a long document only
// those parts are read that count, once. The zero Part is one that is not there.
type Part struct{ raw []byte }

// ParsePart reads raw as one JSON value.
func ParsePart(raw []byte) (Part, error) {
	if !json.Valid(raw) {
		return Part{}, ErrNotJSON
	}
	return Part{raw: raw}, nil
}

// Members are those members of an object, in that order, each once; what is not there is
// the zero Part. Members that nobody names may stand twice.
func (p Part) Members(names ...string) ([]Part, error) {
	r := reader{rest: p.raw}
	if r.next() != '{' {
		return nil, ErrNotObject
	}
	found := make([]Part, len(names))
	err := r.each('}', func() error {
		at := r.nameAmong(names)
		value := r.skip()
		switch {
		case at < 0:
			return nil
		case !found[at].Absent():
			return ErrTwice
		}
		found[at] = Part{raw: value}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// nameAmong is name, as which of the names it is; -1 for another one. Names that nobody
// looks for cost no memory.
func (r *reader) nameAmong(names []string) int {
	r.next()
	raw := r.rest[:lengthOf(r.rest)]
	if plain := raw[1 : len(raw)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		r.take(len(raw))
		r.next()
		r.take(1)
		return slices.IndexFunc(names, func(name string) bool { return name == string(plain) })
	}
	return slices.Index(names, r.name())
}

// Elements are those of an array; ok is false if it is none.
func (p Part) Elements() (all []Part, ok bool) {
	r := reader{rest: p.raw}
	if r.next() != '[' {
		return nil, false
	}
	_ = r.each(']', func() error { // which finds nothing wrong
		all = append(all, Part{raw: r.skip()})
		return nil
	})
	return all, true
}

// Text is a string; ok is false if it is none.
func (p Part) Text() (text string, ok bool) {
	r := reader{rest: p.raw}
	if r.next() != '"' {
		return "", false
	}
	return r.text(), true
}

// Absent reports whether there is no such value.
func (p Part) Absent() bool { return p.raw == nil }

// Raw is the value as it came.
func (p Part) Raw() json.RawMessage { return p.raw }
