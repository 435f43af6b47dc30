package secret

import (
	"bytes"
	"encoding/pem"
	"slices"
	"strings"
)

// longEnough is from which length on a secret is looked for inside of other text: a
// shorter one stands there by chance.
const longEnough = 16

// rounds is how often what is encoded is decoded: a JWT whose claim is a header of
// RFC 7617, say.
const rounds = 2

// Search looks for secrets in text. The zero value finds nothing. It is immutable.
type Search struct {
	whole    []string // what a text is compared with
	inside   [][]byte // what is looked for within it
	shortest int      // of inside
}

// NewSearch looks for the secrets that are not empty.
func NewSearch(secrets ...Text) Search { return search(longEnough, secrets) }

// Anywhere is as NewSearch, and looks for short secrets inside of texts, too: for texts in
// which nothing is there by chance.
func Anywhere(secrets ...Text) Search { return search(1, secrets) }

func search(least int, secrets []Text) Search {
	s := Search{whole: make([]string, 0, len(secrets))}
	for _, t := range secrets {
		core := coreOf(t.value)
		if core == "" {
			continue
		}
		s.whole = append(s.whole, core)
		if len(core) >= least {
			s.lookFor(core)
		}
		if strings.Contains(core, "-----BEGIN ") {
			s.lookForKeys(core)
		}
	}
	return s
}

func (s *Search) lookFor(core string) {
	if len(s.inside) == 0 || len(core) < s.shortest {
		s.shortest = len(core)
	}
	s.inside = append(s.inside, []byte(core))
	if strings.Contains(core, " ") { // which a form has as +
		s.inside = append(s.inside, []byte(strings.ReplaceAll(core, " ", "+")))
	}
}

// lookForKeys looks for the private keys of a PEM text, or of JSON with one inside, by
// what the PEM encodes: its lines may be broken anywhere.
func (s *Search) lookForKeys(text string) {
	rest, _ := unescapeJSON([]byte(text))
	for {
		begins := bytes.Index(rest, []byte("-----BEGIN "))
		if begins < 0 {
			return
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest[begins:]); block == nil {
			return
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") && len(block.Bytes) >= longEnough {
			s.lookFor(string(block.Bytes))
		}
	}
}

// coreOf is what makes a secret the one that it is: lines end in LF, what surrounds it is
// white space, and a JWT is the same one whatever its signature, since ECDSA's has a twin
// and its last character more than one spelling that lax decoders take.
func coreOf(value string) string {
	value = strings.TrimSpace(value)
	if strings.Contains(value, "\r\n") {
		value = strings.ReplaceAll(value, "\r\n", "\n")
	}
	if header, rest, found := strings.Cut(value, "."); found && strings.Count(rest, ".") == 1 && isObject(header) {
		return value[:strings.LastIndexByte(value, '.')+1]
	}
	return value
}

// isObject reports whether a part of a JWT begins as a JSON object does, with {, which is
// 011110 11 in digits of Base64.
func isObject(part string) bool {
	return len(part) > 1 && inBase64[part[0]] == 0b011110 && inBase64[part[1]] >= 0b110000
}

// Is reports whether t is one of the secrets.
func (s Search) Is(t Text) bool {
	core := Text{coreOf(t.value)}
	return slices.ContainsFunc(s.whole, func(own string) bool { return core.Equal(Text{own}) })
}

// In reports whether text is one of the secrets, or has one that is long enough inside: as
// it is, escaped for JSON or a URL, in hex or in Base64, each in any usual spelling, also
// one in another, and where only a part of what was encoded is the secret.
func (s Search) In(text string) bool {
	if len(s.whole) == 0 {
		return false
	}
	if slices.Contains(s.whole, strings.TrimSpace(text)) {
		return true
	}
	if len(s.inside) == 0 || len(text) < s.shortest { // no spelling is shorter than what it spells
		return false
	}
	return s.within([]byte(text), rounds)
}

// within is In for what is not short, with what it holds encoded so many times at most.
func (s Search) within(text []byte, rounds int) bool {
	if len(text) < s.shortest {
		return false
	}
	if s.shows(text) {
		return true
	}
	plain, again := text, true
	for n := 0; again && n < 2; n++ { // what was escaped twice, such as %252F
		again = false
		for _, unescape := range []func([]byte) ([]byte, bool){unixLines, unescapeJSON, unescapePercent} {
			var changed bool
			if plain, changed = unescape(plain); !changed {
				continue
			}
			if again = true; s.shows(plain) {
				return true
			}
		}
	}
	return rounds > 0 && s.encoded(plain, rounds-1)
}

func (s Search) shows(text []byte) bool {
	return slices.ContainsFunc(s.inside, func(own []byte) bool { return bytes.Contains(text, own) })
}

// encoded looks into all of text that may be Base64 or hex. Where that begins is not
// known: the characters before it may be of the same alphabet.
func (s Search) encoded(text []byte, rounds int) bool {
	var buffer []byte
	look := func(run []byte, per int, decode func(into, run []byte, skip int) []byte) bool {
		if buffer == nil {
			buffer = make([]byte, 0, len(text))
		}
		for skip := range per {
			if s.within(decode(buffer[:0], run, skip), rounds) {
				return true
			}
		}
		return false
	}
	return anyRun(text, &inBase64, (8*s.shortest+5)/6, func(run []byte) bool {
		return look(run, 4, decodeBase64) ||
			anyRun(run, &inHex, 2*s.shortest, func(run []byte) bool { return look(run, 2, decodeHex) })
	})
}
