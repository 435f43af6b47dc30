package httpapi

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSegment bounds a segment of a path, in bytes.
const maxSegment = 512

// isSegment reports whether a text can be one segment of a path: whatever a server makes
// of it, it stays in its place. It is stricter than a URL: nothing stands there that some
// server reads as a separator, an escape or the way up, or does not see at all.
func isSegment(s string) bool {
	if s == "" || len(s) > maxSegment || !utf8.ValidString(s) {
		return false
	}
	if dots := strings.Trim(s, " +"); dots == "" || strings.Trim(dots, ".") == "" {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		switch {
		case c > unicode.MaxASCII:
			return !unicode.In(c, unicode.L, unicode.M, unicode.Nd)
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return false
		}
		return !strings.ContainsRune("-._~@:+=,!$&'()*| ", c)
	})
}

// isPath reports whether an escaped path is of such segments; there may be a slash at its
// end.
func isPath(escaped string) bool {
	segments := strings.Split(strings.TrimSuffix(escaped, "/"), "/")
	for _, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil || !isSegment(plain) {
			return false
		}
	}
	return true
}
