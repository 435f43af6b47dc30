package httpclient

import (
	"bytes"
	"unicode"
)

// guards are what servers put before a JSON document so that it is no script: Angular's,
// and those of older services and frameworks. No JSON text begins with one.
var guards = [][]byte{
	[]byte(")]}',"), []byte(")]}'"),
	[]byte("for(;;);"), []byte("for (;;);"), []byte("while(1);"), []byte("while (1);"),
	[]byte("throw 1; < don't be evil' >"), []byte("throw 1;"),
	[]byte("{}&&"), []byte("{} &&"), []byte("&&&START&&&"), []byte("])}while(1);</x>"),
}

// Document is a body without what editors, templates and gateways put around a JSON
// document: a byte order mark, which RFC 8259 8.1 lets a reader ignore, blank space, a
// comment of HTML, and a guard against inclusion as a script. None of it can be part of
// the document, so that nothing is read otherwise than it was meant.
func Document(body []byte) []byte {
	body = trim(body)
	for _, guard := range guards {
		if rest, ok := bytes.CutPrefix(body, guard); ok {
			return trim(rest)
		}
	}
	return body
}

func trim(body []byte) []byte {
	for {
		trimmed := withoutComment(bytes.TrimFunc(body, blank))
		if len(trimmed) == len(body) {
			return trimmed
		}
		body = trimmed
	}
}

// blank is what no JSON text begins or ends with: space of any kind, the byte order mark,
// the end of a C string, and what parts the texts of RFC 7464.
func blank(c rune) bool {
	return unicode.IsSpace(c) || c == '\uFEFF' || c == 0 || c == '\x1e'
}

// withoutComment takes a comment of HTML away at the beginning or the end, as servers of
// pages add it to whatever they send. No JSON text ends as one does.
func withoutComment(body []byte) []byte {
	const begin, end = "<!--", "-->"
	if rest, ok := bytes.CutPrefix(body, []byte(begin)); ok {
		if _, behind, closed := bytes.Cut(rest, []byte(end)); closed {
			return behind
		}
	}
	if bytes.HasSuffix(body, []byte(end)) {
		if at := bytes.LastIndex(body, []byte(begin)); at >= 0 {
			return body[:at]
		}
	}
	return body
}
