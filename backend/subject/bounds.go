package subject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Bounds on a role's bound_subject_claims.
const (
	maxBounds      = 64
	maxClaimName   = 512 // bytes
	maxBoundValues = 256 // for each claim
	maxBoundValue  = access.MaxTarget
)

// ClaimBounds are a role's bound_subject_claims, compiled. It is immutable and
// safe for concurrent use; nil bounds nothing.
type ClaimBounds struct{ bounds []claimBound }

// claimBound is what one claim must hold.
type claimBound struct {
	name string // as the role wrote it
	at   form.Pointer
	// literals are texts, numbers the canonical form of those that are numbers.
	literals, numbers []string
	globs             access.Globs
}

// CompileClaims compiles a map from a claim's name or JSON Pointer (RFC 6901, if
// it begins with a slash) to the values that are accepted there. Every claim of
// the map must be met; a claim is met if it has one of the values:
//
//   - A value without * is compared exactly, one with * is a glob of
//     access.ParseTextGlob and describes the whole value. Nothing else in a value is
//     special: an alternation or an anchor stands for itself.
//   - A string is compared as it is, true and false as these words, a number by
//     its value (1 and 1.0 are the same, and no digit is lost); a glob sees its
//     plain decimal form.
//   - An array is met if one of its elements is; elements that are arrays or
//     objects themselves are not looked into.
//   - An object, null and a claim that is missing never meet anything.
//
// An empty list would accept nothing and is refused. Errors are *fault.Error
// with invalid_request, naming the claim; they belong to the role's writer.
func CompileClaims(bounds map[string][]string) (*ClaimBounds, error) {
	if len(bounds) > maxBounds {
		return nil, invalid("bound_subject_claims holds more than %d claims", maxBounds)
	}
	compiled := make([]claimBound, 0, len(bounds))
	for _, name := range sortedKeys(bounds) {
		b, err := compileBound(name, bounds[name])
		if err != nil {
			return nil, invalid("bound_subject_claims: %s: %s", shown(name), err)
		}
		compiled = append(compiled, b)
	}
	return &ClaimBounds{bounds: compiled}, nil
}

func compileBound(name string, values []string) (b claimBound, err error) {
	if !isIdentifier(name) || len(name) > maxClaimName {
		return b, fmt.Errorf("a claim's name must be printable and of at most %d bytes", maxClaimName)
	}
	if b.at, err = parsePointer(name); err != nil {
		return b, err
	}
	b.name = name
	switch {
	case len(values) == 0:
		return b, fmt.Errorf("name at least one accepted value")
	case len(values) > maxBoundValues:
		return b, fmt.Errorf("more than %d values", maxBoundValues)
	}
	for _, v := range values {
		if err := b.accept(v); err != nil {
			return b, err
		}
	}
	return b, nil
}

// parsePointer reads a claim's name, or a JSON Pointer if it begins with a slash. A name
// is taken as it stands, so https://example.com/groups needs no escape.
func parsePointer(name string) (form.Pointer, error) {
	if name[0] != '/' {
		return form.Pointer{name}, nil
	}
	p, err := form.ParsePointer(name)
	if err != nil {
		return nil, fmt.Errorf("a pointer %w", err)
	}
	return p, nil
}

func (b *claimBound) accept(value string) error {
	if strings.Contains(value, "*") {
		g, err := access.ParseTextGlob(value)
		if err != nil {
			return err
		}
		b.globs = append(b.globs, g)
		return nil
	}
	if value == "" || len(value) > maxBoundValue || !isIdentifier(value) {
		return fmt.Errorf("a value must be printable, not empty and of at most %d bytes", maxBoundValue)
	}
	b.literals = append(b.literals, value)
	if n, ok := form.CanonicalNumber(value); ok {
		b.numbers = append(b.numbers, n)
	}
	return nil
}

// Check returns the bounds that the claims do not meet, all of them, by the name
// that the role gives them, sorted; nil if all are met. It never tells a value.
func (c *ClaimBounds) Check(claims map[string]any) []string {
	if c == nil {
		return nil
	}
	var failed []string
	for i := range c.bounds {
		b := &c.bounds[i]
		if v, found := b.at.Find(claims); !found || !b.meets(v) {
			failed = append(failed, b.name)
		}
	}
	return failed
}

// JustMissed are those of some failed bounds, as Check returns them, that would be met if
// * crossed / and : too.
func (c *ClaimBounds) JustMissed(claims map[string]any, failed []string) []string {
	if c == nil {
		return nil
	}
	var missed []string
	for _, b := range c.bounds {
		v, found := b.at.Find(claims)
		if !found || !slices.Contains(failed, b.name) {
			continue
		}
		elements, isArray := v.([]any)
		if !isArray {
			elements = []any{v}
		}
		if slices.ContainsFunc(elements, func(e any) bool {
			text, ok := e.(string)
			return ok && b.globs.JustMisses(text)
		}) {
			missed = append(missed, b.name)
		}
	}
	return missed
}

// LeftOut are those of some failed bounds, as Check returns them, whose claim the issuer
// has left out of the token because it was too large: it says where else the claim could
// be had (_claim_names, OpenID Connect Core 5.6.2), or that there would be some
// (hasgroups, of Microsoft Entra). The broker asks nobody for it.
func (c *ClaimBounds) LeftOut(claims map[string]any, failed []string) []string {
	if c == nil {
		return nil
	}
	var left []string
	for _, b := range c.bounds {
		if slices.Contains(failed, b.name) && leftOut(claims, b.at[0]) {
			left = append(left, b.name)
		}
	}
	return left
}

func leftOut(claims map[string]any, claim string) bool {
	if _, present := claims[claim]; present {
		return false
	}
	elsewhere, _ := claims["_claim_names"].(map[string]any)
	if _, named := elsewhere[claim]; named {
		return true
	}
	has := claims["hasgroups"]
	return claim == "groups" && (has == true || has == "true")
}

func (b *claimBound) meets(v any) bool {
	elements, isArray := v.([]any)
	if !isArray {
		return b.meetsScalar(v)
	}
	return slices.ContainsFunc(elements, b.meetsScalar)
}

func (b *claimBound) meetsScalar(v any) bool {
	switch v := v.(type) {
	case string:
		return slices.Contains(b.literals, v) || b.globs.MatchAny(v)
	case bool:
		text := strconv.FormatBool(v)
		return slices.Contains(b.literals, text) || b.globs.MatchAny(text)
	case json.Number:
		text, ok := form.CanonicalNumber(string(v))
		return ok && (slices.Contains(b.numbers, text) || b.globs.MatchAny(text))
	default:
		return false
	}
}

// ParseBounds reads bound_subject_claims as an operator may write it, a value or
// a list of values for each claim, strings, numbers and booleans, into the form
// in which it is stored and compiled. Errors are *fault.Error with
// invalid_request.
func ParseBounds(written map[string]any) (map[string][]string, error) {
	bounds := make(map[string][]string, len(written))
	for name, v := range written {
		values, ok := boundValues(v)
		if !ok {
			return nil, invalid("bound_subject_claims: %s: give a string, a number, true, false or a list of these",
				shown(name))
		}
		bounds[name] = values
	}
	return bounds, nil
}

func boundValues(v any) ([]string, bool) {
	switch v := v.(type) {
	case []string:
		return slices.Clone(v), true
	case []any:
		values := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := boundValue(e)
			if !ok {
				return nil, false
			}
			values = append(values, s)
		}
		return values, true
	default:
		s, ok := boundValue(v)
		return []string{s}, ok
	}
}

func boundValue(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return string(v), true
	case int:
		return strconv.Itoa(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		raw, err := json.Marshal(v)
		return string(raw), err == nil
	default:
		return "", false
	}
}

// shown is a name that an operator wrote, for an error.
func shown(name string) string {
	const most = 80
	if len(name) > most {
		name = name[:most] + "..."
	}
	return strconv.Quote(name)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
