package oauth2

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
)

// The members that token answers, introspection and JWT claims share. A member
// that is null counts as absent.

func present(raw json.RawMessage) json.RawMessage {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
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

// tokenType accepts Bearer (RFC 6750) and DPoP (RFC 9449) in any case and spells
// them as registered. A client must not use a token whose type it does not
// understand (RFC 6749 7.1); whether DPoP was wanted is checkType's to judge.
func tokenType(raw json.RawMessage) (string, error) {
	s, err := stringMember(raw)
	switch {
	case err == nil && strings.EqualFold(s, typeBearerToken):
		return typeBearerToken, nil
	case err == nil && strings.EqualFold(s, typeDPoPToken):
		return typeDPoPToken, nil
	}
	return "", errTokenType
}

// optionalSeconds is a lifetime that may not have been named.
type optionalSeconds struct {
	known bool
	value time.Duration
}

var decimal = regexp.MustCompile(`^[0-9]{1,15}(\.0+)?$`)

// parseLifetime reads expires_in: 1*DIGIT (RFC 6749 A.14), as a number or, as
// many servers have it, as a string. It is never read as "for ever".
func parseLifetime(raw json.RawMessage) (optionalSeconds, error) {
	raw = present(raw)
	if raw == nil {
		return optionalSeconds{}, nil
	}
	var digits string
	if json.Unmarshal(raw, &digits) != nil {
		digits = string(raw)
	}
	if !decimal.MatchString(digits) {
		return optionalSeconds{}, errLifetime
	}
	whole, _, _ := strings.Cut(digits, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	switch {
	case err != nil || seconds < 1:
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
// servers have it, an array of them.
func parseScope(raw json.RawMessage) (scopeList, error) {
	raw = present(raw)
	if raw == nil {
		return scopeList{}, nil
	}
	values, err := stringOrList(raw)
	if err != nil {
		return scopeList{}, errScopeShape
	}
	if raw[0] == '"' && len(values) == 1 {
		values = strings.FieldsFunc(values[0], func(r rune) bool { return r == ' ' })
	}
	for _, v := range values {
		if access.CheckScope(v) != nil {
			return scopeList{}, errScopeShape
		}
	}
	return scopeList{known: true, values: values}, nil
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

var errTime = errors.New("a time is not a number of seconds since 1970")

// numericDate reads a NumericDate (RFC 7519 2); the zero time if it is absent.
// A fraction is cut off, so an end is never later than it was meant.
func numericDate(raw json.RawMessage) (time.Time, error) {
	raw = present(raw)
	if raw == nil {
		return time.Time{}, nil
	}
	var seconds float64
	if err := json.Unmarshal(raw, &seconds); err != nil || seconds < 1 || seconds > 253402300799 {
		return time.Time{}, errTime
	}
	return time.Unix(int64(seconds), 0), nil
}
