package signal

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on a subject.
const (
	maxIdentifier = 2048 // bytes of a value
	maxAliases    = 32
)

// The formats of RFC 9493 3.2 and SSF 1.0 3 that can name a person here.
const (
	FormatIssSub  = "iss_sub"
	FormatEmail   = "email"
	FormatAccount = "account"
	FormatOpaque  = "opaque"
)

// Identifier is one name of a subject (RFC 9493 3).
type Identifier struct {
	Format string
	// Issuer and Subject are iss_sub's.
	Issuer, Subject string
	// Value is what the other formats hold: an address, an account as user@host, an id.
	Value string
}

// Subject is whom or what an event is about.
type Subject struct {
	// Names are those of the person, each of them enough.
	Names []Identifier
	// Narrowing are members of a complex subject that narrow the event to a part of what
	// the person has, such as one session: by these nothing here can be told apart.
	Narrowing []string
	// Other is why there is no name, "" if there is one.
	Other string
}

// formats are the members of each format beside format itself. RFC 9493 3 lets a subject
// have no others.
var formats = map[string][]string{
	FormatIssSub: {"iss", "sub"}, FormatEmail: {"email"}, FormatAccount: {"uri"}, FormatOpaque: {"id"},
	"phone_number": {"phone_number"}, "did": {"url"}, "uri": {"uri"},
	"jwt_id": {"iss", "jti"}, "saml_assertion_id": {"issuer", "assertion_id"}, "ip-addresses": {"ip-addresses"},
}

var errSubject = errors.New("the subject is no subject identifier of RFC 9493")

// parseSubject reads a subject. Errors are for the transmitter, and say nothing of values.
func parseSubject(v any) (*Subject, error) {
	members, ok := v.(map[string]any)
	if !ok {
		return nil, errSubject
	}
	format, err := formatOf(members)
	if err != nil {
		return nil, err
	}
	switch format {
	case "complex":
		return parseComplex(members)
	case "aliases":
		return parseAliases(members)
	}
	return parseSimple(format, members)
}

// formatOf is the format, which Google calls subject_type and writes with a hyphen, and
// which drafts of SSF left out of a complex subject.
func formatOf(members map[string]any) (string, error) {
	format, ok := members["format"].(string)
	if old, isOld := members["subject_type"].(string); !ok && isOld {
		format, ok = strings.ReplaceAll(strings.ReplaceAll(old, "-", "_"), "id_token_claims", FormatIssSub), true
	}
	_, hasFormat := members["format"]
	if _, hasUser := members["user"].(map[string]any); !ok && !hasFormat && hasUser {
		return "complex", nil
	}
	if !ok {
		return "", fmt.Errorf("%w: it has no format", errSubject)
	}
	return format, nil
}

func parseSimple(format string, members map[string]any) (*Subject, error) {
	known, ok := formats[format]
	if !ok {
		return &Subject{Other: "the format of the subject is not known here"}, nil
	}
	values := make([]string, len(known))
	for i, name := range known {
		if format == "ip-addresses" {
			break
		}
		text, isText := members[name].(string)
		if !isText || !isIdentifier(text) {
			return nil, fmt.Errorf("%w: %s is missing or malformed", errSubject, name)
		}
		values[i] = text
	}
	for name := range members {
		if name != "format" && name != "subject_type" && !slices.Contains(known, name) {
			return nil, fmt.Errorf("%w: it has a member that its format does not have", errSubject)
		}
	}
	id := Identifier{Format: format, Value: values[0]}
	switch format {
	case FormatIssSub:
		id = Identifier{Format: format, Issuer: values[0], Subject: values[1]}
	case FormatAccount:
		account, ok := accountOf(values[0])
		if !ok {
			return nil, fmt.Errorf("%w: uri is no acct: URI", errSubject)
		}
		id.Value = account
	case FormatEmail:
		if at := strings.LastIndexByte(id.Value, '@'); at <= 0 || at == len(id.Value)-1 {
			return nil, fmt.Errorf("%w: email is no address", errSubject)
		}
	case FormatOpaque:
	default:
		return &Subject{Other: "by a subject of the format " + format + " nobody is known here"}, nil
	}
	return &Subject{Names: []Identifier{id}}, nil
}

// accountOf is user@host of an acct URI (RFC 7565).
func accountOf(uri string) (string, bool) {
	rest, ok := strings.CutPrefix(uri, "acct:")
	if !ok {
		return "", false
	}
	account, err := url.PathUnescape(rest)
	at := strings.LastIndexByte(account, '@')
	return account, err == nil && at > 0 && at < len(account)-1 && isIdentifier(account)
}

// parseAliases reads names that all mean the same one (RFC 9493 3.2.8), which may not nest.
func parseAliases(members map[string]any) (*Subject, error) {
	list, ok := members["identifiers"].([]any)
	if !ok || len(list) == 0 || len(list) > maxAliases {
		return nil, fmt.Errorf("%w: identifiers must be a list of at most %d", errSubject, maxAliases)
	}
	all := &Subject{}
	for _, v := range list {
		inner, ok := v.(map[string]any)
		if !ok {
			return nil, errSubject
		}
		format, err := formatOf(inner)
		if err != nil {
			return nil, err
		}
		if format == "aliases" || format == "complex" {
			return nil, fmt.Errorf("%w: aliases nest", errSubject)
		}
		one, err := parseSimple(format, inner)
		if err != nil {
			return nil, err
		}
		all.Names, all.Other = append(all.Names, one.Names...), one.Other
	}
	if len(all.Names) > 0 {
		all.Other = ""
	}
	return all, nil
}

// parseComplex reads a subject that several members make up (SSF 1.0 3.3): it is all that
// fits each of them. The person is the user; what else is there narrows.
func parseComplex(members map[string]any) (*Subject, error) {
	all := &Subject{Other: "a complex subject without a user is nobody's who is known here"}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if name == "format" {
			continue
		}
		inner, ok := members[name].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%w: a member of a complex subject is none itself", errSubject)
		}
		format, err := formatOf(inner)
		if err != nil || format == "complex" {
			return nil, fmt.Errorf("%w: a member of a complex subject is no simple one", errSubject)
		}
		if name != "user" {
			all.Narrowing = append(all.Narrowing, name)
			continue
		}
		user, err := parseSubject(inner)
		if err != nil {
			return nil, err
		}
		all.Names, all.Other = user.Names, user.Other
	}
	return all, nil
}

// isIdentifier reports whether a text may name somebody: printable, not empty, bounded.
func isIdentifier(s string) bool {
	return s != "" && len(s) <= maxIdentifier && utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}
