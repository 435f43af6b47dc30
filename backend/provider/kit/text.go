package kit

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsPrintable is true of text that can stand in a log line and that JSON repeats
// byte by byte.
func IsPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// IsASCII is true of printable ASCII.
func IsASCII(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
