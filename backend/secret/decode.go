package secret

import (
	"bytes"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// What follows undoes what others have written, as leniently as anybody might: what is no
// escape or no digit stays or is passed over, and nothing is an error.

// unixLines has LF for CRLF, and reports whether that changed anything.
func unixLines(text []byte) ([]byte, bool) {
	if !bytes.Contains(text, []byte("\r\n")) {
		return text, false
	}
	return bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), true
}

// unescapePercent undoes RFC 3986 2.1 and reports whether that changed anything.
func unescapePercent(text []byte) ([]byte, bool) {
	return unescape(text, '%', func(rest []byte) (int, []byte) {
		if v, ok := hexNumber(rest, 2); ok {
			return 2, []byte{byte(v)} //nolint:gosec // two digits
		}
		return 0, nil
	})
}

// unescapeJSON undoes RFC 8259 7 and reports whether that changed anything.
func unescapeJSON(text []byte) ([]byte, bool) {
	return unescape(text, '\\', func(rest []byte) (int, []byte) {
		if len(rest) == 0 {
			return 0, nil
		}
		if at := bytes.IndexByte([]byte(`"\/bfnrt`), rest[0]); at >= 0 {
			return 1, []byte{"\"\\/\b\f\n\r\t"[at]}
		}
		if rest[0] != 'u' {
			return 0, nil
		}
		first, ok := hexNumber(rest[1:], 4)
		if !ok {
			return 0, nil
		}
		if len(rest) > 6 && rest[5] == '\\' && rest[6] == 'u' {
			if second, ok := hexNumber(rest[7:], 4); ok {
				if both := utf16.DecodeRune(rune(first), rune(second)); both != utf8.RuneError { //nolint:gosec // four digits each
					return 11, utf8.AppendRune(nil, both)
				}
			}
		}
		return 5, utf8.AppendRune(nil, rune(first)) //nolint:gosec // four digits
	})
}

// unescape replaces what begins with mark. meant is how many bytes behind the mark belong
// to it, and what they stand for; 0 if it is no escape. What does not change is not copied.
func unescape(text []byte, mark byte, meant func(rest []byte) (int, []byte)) (plain []byte, changed bool) {
	done := 0 // up to which text is in plain
	for at := 0; at < len(text); {
		next := bytes.IndexByte(text[at:], mark)
		if next < 0 {
			break
		}
		at += next + 1
		n, stands := meant(text[at:])
		if n == 0 {
			continue
		}
		if !changed {
			plain, changed = make([]byte, 0, len(text)), true
		}
		plain = append(append(plain, text[done:at-1]...), stands...)
		at += n
		done = at
	}
	if !changed {
		return text, false
	}
	return append(plain, text[done:]...), true
}

func hexNumber(text []byte, digits int) (uint64, bool) {
	if len(text) < digits {
		return 0, false
	}
	for _, c := range text[:digits] {
		if inHex[c] < 0 {
			return 0, false
		}
	}
	v, err := strconv.ParseUint(string(text[:digits]), 16, 32)
	return v, err == nil
}

// An alphabet has for each of its characters what it stands for; blank for white space, by
// which lines of a long text are broken, and outside for all others.
type alphabet [256]int8

const (
	outside = -1
	blank   = -2
)

func alphabetOf(spellings ...string) (a alphabet) {
	for c := range a {
		a[c] = outside
	}
	for _, digits := range spellings {
		for value, c := range []byte(digits) {
			a[c] = int8(value)
		}
	}
	return a
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

var (
	inHex    = alphabetOf("0123456789abcdef", "0123456789ABCDEF")
	inBase64 = wrapped(alphabetOf(letters+"+/", letters+"-_")) // RFC 4648 4 and 5
)

func wrapped(a alphabet) alphabet {
	for _, c := range []byte(" \t\r\n") {
		a[c] = blank
	}
	return a
}

// anyRun reports whether found is true of a run of at least so many characters of the
// alphabet, and what of blanks is between them. Where there are no runs it looks at few of
// the characters.
func anyRun(text []byte, of *alphabet, least int, found func(run []byte) bool) bool {
	for start := 0; start+least <= len(text); {
		end := start + least
		at := end - 1
		for at >= start && of[text[at]] != outside {
			at--
		}
		if at >= start {
			start = at + 1
			continue
		}
		for end < len(text) && of[text[end]] != outside {
			end++
		}
		if found(text[start:end]) {
			return true
		}
		start = end + 1
	}
	return false
}

// decodeBase64 appends what a run stands for from its character skip on.
func decodeBase64(into, run []byte, skip int) []byte {
	at, out := 0, len(into)
	for ; skip > 0 && at < len(run); at++ {
		if inBase64[run[at]] >= 0 {
			skip--
		}
	}
	into = slices.Grow(into, len(run))[:out+len(run)]
	for ; at+4 <= len(run); at += 4 { // most runs have no blanks
		a, b, c, d := inBase64[run[at]], inBase64[run[at+1]], inBase64[run[at+2]], inBase64[run[at+3]]
		if a|b|c|d < 0 {
			break
		}
		group := uint32(a)<<18 | uint32(b)<<12 | uint32(c)<<6 | uint32(d)                  //nolint:gosec // none is below 0
		into[out], into[out+1], into[out+2] = byte(group>>16), byte(group>>8), byte(group) //nolint:gosec // a byte each
		out += 3
	}
	return decode(into[:out], run[at:], &inBase64, 6)
}

// decodeHex appends what a run stands for from its character skip on.
func decodeHex(into, run []byte, skip int) []byte {
	return decode(into, run[min(skip, len(run)):], &inHex, 4)
}

func decode(into, run []byte, by *alphabet, width int) []byte {
	var held uint32
	bits := 0
	for _, c := range run {
		v := by[c]
		if v < 0 {
			continue
		}
		held = held<<width | uint32(v)
		if bits += width; bits >= 8 {
			bits -= 8
			into = append(into, byte(held>>bits)) //nolint:gosec // the last eight bits
		}
	}
	return into
}
