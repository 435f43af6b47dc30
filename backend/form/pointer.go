package form

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds on a pointer, which operators write.
const (
	maxPointer = 512 // bytes
	// MaxPointerDepth is how many levels a pointer leads down at most.
	MaxPointerDepth = 16
)

// Pointer leads from a JSON value to one inside it: the reference tokens of a JSON
// Pointer (RFC 6901).
type Pointer []string

// ParsePointer reads a JSON Pointer, in which / is escaped as ~1 and ~ as ~0. The empty
// one, which is the whole value, is refused: whoever writes none has forgotten it. Errors
// are the ends of sentences.
func ParsePointer(s string) (Pointer, error) {
	switch {
	case len(s) > maxPointer:
		return nil, fmt.Errorf("is longer than %d bytes", maxPointer)
	case s == "" || s[0] != '/':
		return nil, errors.New("does not begin with a slash (RFC 6901 3)")
	}
	tokens := strings.Split(s[1:], "/")
	if len(tokens) > MaxPointerDepth {
		return nil, fmt.Errorf("is more than %d levels deep", MaxPointerDepth)
	}
	for i, t := range tokens {
		if !wellEscaped(t) {
			return nil, errors.New("has a ~ that is followed by neither 0 nor 1 (RFC 6901 3)")
		}
		// RFC 6901 4: ~1 first, so that ~01 becomes ~1 and not /.
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~")
	}
	return tokens, nil
}

func wellEscaped(token string) bool {
	for i := range len(token) {
		if token[i] != '~' {
			continue
		}
		if i+1 == len(token) || token[i+1] != '0' && token[i+1] != '1' {
			return false
		}
	}
	return true
}

// Find follows the pointer through v, a value as Value reads it (RFC 6901 4).
func (p Pointer) Find(v any) (any, bool) {
	for _, token := range p {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[token]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, ok := arrayIndex(token)
			if !ok || i >= len(at) {
				return nil, false
			}
			v = at[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// arrayIndex is RFC 6901 4's: digits without leading zeros. The "-" behind the
// last element never exists.
func arrayIndex(token string) (int, bool) {
	if token == "" || len(token) > 9 || token[0] == '0' && token != "0" {
		return 0, false
	}
	for i := range len(token) {
		if token[i] < '0' || token[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(token)
	return n, err == nil
}
