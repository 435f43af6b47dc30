// Package faulttest says what a test may take for said by an error.
package faulttest

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Says reports whether the text has the part in it as words of its own, behind the code
// if it begins with one: "iss" is not said by "issuer", and not by a code that happens
// to hold it. An empty part is said by nothing: who asks for it asks nothing.
func Says(text, part string) bool {
	if part == "" {
		return false
	}
	if code, message, ok := strings.Cut(text, ": "); ok && isCode(code) && !strings.Contains(part, ": ") {
		text = message
	}
	for at := 0; ; {
		i := strings.Index(text[at:], part)
		if i < 0 {
			return false
		}
		at += i
		before, _ := utf8.DecodeLastRuneInString(text[:at])
		after, _ := utf8.DecodeRuneInString(text[at+len(part):])
		first, _ := utf8.DecodeRuneInString(part)
		last, _ := utf8.DecodeLastRuneInString(part)
		if !(inWord(before) && inWord(first)) && !(inWord(last) && inWord(after)) {
			return true
		}
		at++
	}
}

// isCode tells an error's code, such as invalid_grant, from the beginning of a sentence.
func isCode(text string) bool {
	return strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") == ""
}

func inWord(r rune) bool {
	return r != utf8.RuneError && (r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r))
}
