package subject

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds on a pointer, which operators write.
const (
	maxPointer      = 512 // bytes
	maxPointerDepth = maxDepth
)

// pointer leads from the claims to one value: the reference tokens of a JSON
// Pointer (RFC 6901), or the single name of a claim.
type pointer []string

// parsePointer reads a claim's name, or a JSON Pointer if it begins with a
// slash. A name is taken as it stands, so https://example.com/groups needs no
// escape; a pointer escapes / as ~1 and ~ as ~0.
func parsePointer(s string) (pointer, error) {
	switch {
	case s == "":
		return nil, errors.New("a claim's name is empty")
	case len(s) > maxPointer:
		return nil, fmt.Errorf("a claim's name is longer than %d bytes", maxPointer)
	case s[0] != '/':
		return pointer{s}, nil
	}
	tokens := strings.Split(s[1:], "/")
	if len(tokens) > maxPointerDepth {
		return nil, fmt.Errorf("a pointer is more than %d levels deep", maxPointerDepth)
	}
	for i, t := range tokens {
		if !wellEscaped(t) {
			return nil, errors.New("a pointer has a ~ that is followed by neither 0 nor 1 (RFC 6901 3)")
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

// find follows the pointer (RFC 6901 4).
func (p pointer) find(claims map[string]any) (any, bool) {
	var v any = claims
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
