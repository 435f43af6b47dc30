package oauth2

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// The members that token answers, introspection and JWT claims share. A member
// that is null counts as absent.

// filled is present for a member of which an empty text says nothing either: servers that
// fill in every member they know write one.
func filled(raw json.RawMessage) json.RawMessage {
	raw = present(raw)
	if string(raw) == `""` {
		return nil
	}
	return raw
}

func present(raw json.RawMessage) json.RawMessage {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}

// presentDetails is authorization_details, if it holds any: an empty text or object is
// an answer of servers that fill in every member they know.
func presentDetails(raw json.RawMessage) json.RawMessage {
	raw = present(raw)
	if string(raw) == `""` || string(raw) == "{}" {
		return nil
	}
	return raw
}

func stringMember(raw json.RawMessage) (string, error) {
	if present(raw) == nil {
		return "", nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// idMember is a name that some servers write as a whole number, where a database has one.
func idMember(raw json.RawMessage) (string, error) {
	if digits(raw) {
		return string(raw), nil
	}
	return stringMember(raw)
}

// digits reports whether raw is a whole number in the one spelling that needs no reading.
func digits(raw json.RawMessage) bool {
	return len(raw) > 0 && !bytes.ContainsFunc(raw, func(c rune) bool { return c < '0' || c > '9' })
}

// tokenText is a token as it can be sent: of a template's line ends RFC 6749 A.12 has none
// in it.
func tokenText(text string) string { return strings.Trim(text, "\r\n\t") }

// optionalSeconds is a lifetime that may not have been named.
type optionalSeconds struct {
	known bool
	value time.Duration
}

// numberIn is the text of a number, also of one that many servers have as a string.
func numberIn(raw json.RawMessage) string {
	raw = present(raw)
	var quoted string
	if isText(raw) && json.Unmarshal(raw, &quoted) == nil {
		return strings.TrimSpace(quoted)
	}
	return string(raw)
}

// isText reports whether raw, which is JSON or nothing, is a string. To try to read one, and
// to drop the error, costs more than all else that is done with a member.
func isText(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '"' }

// wholeSeconds is a number of seconds, cut off.
func wholeSeconds(raw json.RawMessage) (int64, bool) {
	return form.WholeNumber(numberIn(raw))
}

// parseLifetime reads expires_in, which is never read as "for ever" (RFC 6749 5.1).
func parseLifetime(raw json.RawMessage) (optionalSeconds, error) {
	raw = filled(raw)
	if raw == nil {
		return optionalSeconds{}, nil
	}
	seconds, ok := wholeSeconds(raw)
	switch {
	case !ok || seconds < 1:
		return optionalSeconds{}, errLifetime
	case seconds > int64(maxLifetime/time.Second):
		return optionalSeconds{}, errLifetimeLong
	}
	return optionalSeconds{known: true, value: time.Duration(seconds) * time.Second}, nil
}

// scopeList is a scope member; absent and empty are different answers.
type scopeList struct {
	known  bool
	values []string
}

// parseScope reads a scope member: a string of tokens (RFC 6749 3.3) or, as some
// servers have it, an array of such strings. Space of any kind parts two tokens,
// because none can be in one.
func parseScope(raw json.RawMessage) (scopeList, error) {
	raw = present(raw)
	if raw == nil {
		return scopeList{}, nil
	}
	values, err := stringOrList(raw)
	if err != nil {
		return scopeList{}, errScopeShape
	}
	list := scopeList{known: true}
	for _, v := range values {
		list.values = append(list.values, strings.FieldsFunc(v, func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) })...)
	}
	for _, v := range list.values {
		if access.CheckScope(v) != nil {
			return scopeList{}, errScopeShape
		}
	}
	return list, nil
}

// apart takes values apart that servers join by commas against RFC 6749 3.3, which has
// the comma in a scope's alphabet. So a value that was asked for stays whole, and so
// does one of which a part was not asked for: what is left is never within what was
// asked for unless every part is.
func (l scopeList) apart(asked access.Set) scopeList {
	var values []string
	for _, v := range l.values {
		parts := strings.FieldsFunc(v, func(r rune) bool { return r == ',' })
		stranger := func(part string) bool { return !asked.Contains(part) }
		if asked.Contains(v) || len(parts) == 0 || slices.ContainsFunc(parts, stranger) {
			parts = []string{v}
		}
		values = append(values, parts...)
	}
	return scopeList{known: l.known, values: values}
}

// stringOrList reads a string or an array of strings.
func stringOrList(raw json.RawMessage) ([]string, error) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var many []string
	err := json.Unmarshal(raw, &many)
	return many, err
}

var errTime = errors.New("the end of the token (exp) is not a number of seconds since 1970")

// numericDate reads a NumericDate (RFC 7519 2); the zero time if it is absent.
// A fraction is cut off, so an end is never later than it was meant.
func numericDate(raw json.RawMessage) (time.Time, error) {
	raw = filled(raw)
	if raw == nil {
		return time.Time{}, nil
	}
	date, ok := form.NumericDate(json.Number(numberIn(raw)))
	if !ok || date.Unix() < 1 {
		return time.Time{}, errTime
	}
	return date.Truncate(time.Second), nil
}

// inSeconds is a date of RFC 3339, which some servers' introspection has for a NumericDate,
// as one; anything else stays what it is. In a JWT, which others read too, it is none.
func inSeconds(raw json.RawMessage) json.RawMessage {
	text, err := stringMember(raw)
	if err != nil {
		return raw
	}
	date, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return raw
	}
	return strconv.AppendInt(nil, date.Unix(), 10)
}

// errClaims is of claims that are no JSON object, or in which something stands twice.
var errClaims = errors.New("the token's claims are not a JSON object in which each name stands once")

// claimsIn reads a JWT's claims, of which none may stand twice (RFC 7519 4).
func claimsIn(payload []byte) (map[string]json.RawMessage, error) {
	claims, err := form.UniqueMembers(payload)
	if err != nil || !utf8.Valid(payload) { // RFC 8725 3.7
		return nil, errClaims
	}
	return claims, nil
}
