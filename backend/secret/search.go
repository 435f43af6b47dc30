package secret

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

// longEnough is from which length on a secret is looked for inside of other text: a
// shorter one stands there by chance.
const longEnough = 16

// In reports whether the secret, if it is long enough, stands in text as it is.
func (t Text) In(text string) bool {
	return len(t.value) >= longEnough && strings.Contains(text, t.value)
}

// Search looks for secrets in text. The zero value finds nothing. It is immutable.
type Search struct {
	secrets   []Text
	spellings []string
}

// NewSearch looks for the secrets that are not empty.
func NewSearch(secrets ...Text) Search {
	var s Search
	for _, t := range secrets {
		if t.Empty() {
			continue
		}
		s.secrets = append(s.secrets, t)
		if len(t.value) >= longEnough {
			s.spellings = append(s.spellings, spellings(t.value)...)
		}
	}
	return s
}

// Is reports whether t is one of the secrets.
func (s Search) Is(t Text) bool {
	return slices.ContainsFunc(s.secrets, t.Equal)
}

// In reports whether one of the secrets that are long enough stands in text: as it is,
// escaped for JSON or a URL, in hex, or in Base64, also where only a part of what was
// encoded is the secret, as in a header of RFC 7617.
func (s Search) In(text string) bool {
	for _, spelling := range s.spellings {
		if strings.Contains(text, spelling) {
			return true
		}
	}
	return false
}

// spellings are the ways in which value shows in text.
func spellings(value string) []string {
	found := []string{value}
	add := func(spelling string) {
		if !slices.Contains(found, spelling) {
			found = append(found, spelling)
		}
	}
	if raw, err := json.Marshal(value); err == nil {
		add(string(raw[1 : len(raw)-1]))
	}
	add(url.QueryEscape(value))
	add(url.PathEscape(value))
	add(hex.EncodeToString([]byte(value)))
	add(strings.ToUpper(hex.EncodeToString([]byte(value))))
	for before := range 3 {
		inside := encodedInside(value, before)
		add(inside)
		add(strings.NewReplacer("+", "-", "/", "_").Replace(inside))
	}
	return found
}

// encodedInside is the part of a Base64 text that is the same whatever stands before and
// behind value, where before is how many bytes of a group of three come first. Characters
// at its edges, which hold bits of its neighbours too, are left out.
func encodedInside(value string, before int) string {
	encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", before) + value))
	first := (8*before + 5) / 6
	last := 8 * (before + len(value)) / 6
	return encoded[first:last]
}
