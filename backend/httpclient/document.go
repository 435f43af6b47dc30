package httpclient

import "bytes"

// guards are what servers put before a JSON document so that it is no script: Angular's,
// and those of older services. No JSON text begins with one.
var guards = [][]byte{[]byte(")]}',"), []byte(")]}'"), []byte("for(;;);"), []byte("while(1);")}

var byteOrderMark = []byte("\xef\xbb\xbf")

// Document is a body without what editors, templates and gateways put around a JSON
// document: a byte order mark, which RFC 8259 8.1 lets a reader ignore, blank space, and
// a guard against inclusion as a script. None of it can be part of the document, so
// that nothing is read otherwise than it was meant.
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
	const blank = " \t\r\n\v\f"
	for {
		trimmed := bytes.TrimPrefix(bytes.Trim(body, blank), byteOrderMark)
		if len(trimmed) == len(body) {
			return trimmed
		}
		body = trimmed
	}
}
