package access

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The longest values that are accepted, in bytes.
const (
	MaxScope  = 512
	MaxTarget = 2048
)

// CheckScope reports whether v is a scope-token of RFC 6749 3.3: one or more of
// %x21, %x23-5B and %x5D-7E, so neither a space (which would make it two) nor a
// quote, a backslash or anything beyond ASCII. The error does not repeat v.
func CheckScope(v string) error {
	if err := checkLength("scope", v, MaxScope); err != nil {
		return err
	}
	for i := range len(v) {
		switch c := v[i]; {
		case c == ' ' && strings.Trim(v, " ") != "":
			return errors.New("there is a space in a scope: separate scopes with commas, as in read,write, or give a list")
		case c < 0x21 || c > 0x7e || c == '"' || c == '\\':
			return fmt.Errorf("scope has the byte %#02x at position %d, outside RFC 6749's alphabet", c, i)
		}
	}
	return nil
}

// CheckTarget reports whether v can be an audience: a StringOrURI of RFC 7519
// that has neither spaces nor anything invisible. The error does not repeat v.
func CheckTarget(v string) error {
	if err := checkLength("audience", v, MaxTarget); err != nil {
		return err
	}
	return checkPrintable("audience", v, false)
}

// CheckResource reports whether v is a resource indicator of RFC 8707 2: an
// absolute URI without a fragment. An http or https one must name a host and
// may hold no user information. The error does not repeat v.
func CheckResource(v string) error {
	if err := checkLength("resource", v, MaxTarget); err != nil {
		return err
	}
	if err := checkURIBytes(v); err != nil {
		return err
	}
	u, err := url.Parse(v)
	if err != nil { // its text would repeat v
		return errors.New("resource is not a URI")
	}
	switch {
	case !u.IsAbs():
		return errors.New("resource must be an absolute URI")
	case u.Host == "" && u.Opaque == "" && u.Path == "":
		return errors.New("resource must name something after its scheme")
	case (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() == "":
		return errors.New("resource must name a host")
	case u.User != nil:
		return errors.New("resource must not hold user information")
	}
	return nil
}

// checkURIBytes allows what RFC 3986 allows in an absolute-URI, with well-formed
// percent escapes. url.Parse is laxer, and two parsers that disagree about a URI
// are how one resource is mistaken for another.
func checkURIBytes(v string) error {
	const marks = "-._~:/?[]@!$&'()*+,;=%"
	for i := range len(v) {
		c := v[i]
		switch {
		case c == '#':
			return errors.New("resource must not have a fragment")
		case !isAlphanumeric(c) && strings.IndexByte(marks, c) < 0:
			return fmt.Errorf("resource has the byte %#02x at position %d, which no URI may hold", c, i)
		case c == '%' && (i+2 >= len(v) || !isHex(v[i+1]) || !isHex(v[i+2])):
			return fmt.Errorf("resource has a malformed percent escape at position %d", i)
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func checkLength(what, v string, limit int) error {
	switch {
	case v == "":
		return fmt.Errorf("%s is empty", what)
	case len(v) > limit:
		return fmt.Errorf("%s has %d bytes, more than %d", what, len(v), limit)
	}
	return nil
}

// checkPrintable refuses what a person reading a role would not see: control
// and format characters, every space but U+0020, and that one too unless spaces
// is set.
func checkPrintable(what, v string, spaces bool) error {
	if !utf8.ValidString(v) {
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	for i, r := range v {
		if !unicode.IsPrint(r) || r == ' ' && !spaces {
			return fmt.Errorf("%s has the character %U at position %d: spaces and control characters are not allowed", what, r, i)
		}
	}
	return nil
}
