package httpapi

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// filling is what fills templates. It is of one request of the broker's: nothing is shared.
type filling struct {
	name                 string
	access               access.Access
	ttl                  time.Duration
	now                  time.Time
	settings, parameters map[string]string
	username             string
	taken                map[string]any
	random               string
	// parent fills the parent's expressions; nil where there are none.
	parent func(e *expression) (secret.Text, error)
	// where are values of a request that is not at hand any more, by their expressions.
	where map[string]any
	item  any
	// ends is the latest end that was asked for.
	ends time.Time
	// values counts what bodies were made of.
	values int
}

// maxBodyValues bounds of how many values bodies are made: a $each in another one multiplies.
const maxBodyValues = 20_000

// fill is the value of an expression; found is false where there is none and the template
// says that there may be none.
func (f *filling) fill(e *expression) (v any, found bool, err error) {
	v, err = f.source(e)
	if err != nil {
		return nil, false, err
	}
	if isMissing(v) {
		if e.optional {
			return nil, false, nil
		}
		return nil, false, missing(e)
	}
	for _, filter := range e.filters {
		if v, err = f.filtered(e, filter, v); err != nil {
			return nil, false, err
		}
	}
	return v, true, nil
}

func isMissing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []string:
		return len(v) == 0
	case map[string]string:
		return len(v) == 0
	case []any:
		return v == nil
	}
	return false
}

// code is what a value that will not do is called, by whose it is.
func (e *expression) code() fault.Code {
	switch e.root {
	case string(access.DimScopes):
		return fault.InvalidScope
	case string(access.DimAudiences), string(access.DimResources):
		return fault.InvalidTarget
	case rootTaken, rootLogin:
		return fault.ProviderViolation
	}
	return fault.InvalidRequest
}

func missing(e *expression) *fault.Error {
	switch {
	case slices.Contains(dimensionRoots(), e.root) && e.key == "":
		return fault.New(e.code(), "the system is asked for %s, and there are none, which is not the same as all: ask for some, or have an operator write a role with some", e)
	case e.root == string(access.DimPermissions):
		return fault.New(e.code(), "the system is asked for the permission %s, and there is none: ask for it, or have an operator write a role with it", e.key)
	case e.root == rootTaken, e.root == rootLogin:
		return fault.New(fault.ProviderViolation, "the system's answer has no %s", e.key)
	}
	return fault.New(e.code(), "there is no %s, which the definition needs: have an operator write it", e)
}

// source is an expression's value before its filters.
func (f *filling) source(e *expression) (any, error) {
	if v, known := f.where[e.String()]; known {
		return asWritten(v), nil
	}
	switch e.root {
	case rootName:
		return f.name, nil
	case rootTTL:
		return f.ttl, nil
	case rootExpires:
		return f.now.Add(f.ttl), nil
	case rootSettings:
		return text(f.settings[e.key]), nil
	case rootParams:
		return text(f.parameters[e.key]), nil
	case rootUsername:
		return text(f.username), nil
	case rootTaken:
		return f.taken[e.key], nil
	case rootRandom:
		return f.secret(), nil
	case rootItem:
		return f.ofItem(e), nil
	}
	if slices.Contains(dimensionRoots(), e.root) {
		return f.dimension(e)
	}
	if f.parent == nil {
		return nil, missing(e)
	}
	t, err := f.parent(e)
	return t, err
}

// asWritten is a value that was on record as JSON.
func asWritten(v any) any {
	switch v := v.(type) {
	case []any:
		all := make([]string, len(v))
		for i, element := range v {
			s, ok := element.(string)
			if !ok {
				return v // authorization details
			}
			all[i] = s
		}
		return all
	case map[string]any:
		all := map[string]string{}
		for name, value := range v {
			all[name], _ = value.(string)
		}
		return all
	}
	return v
}

// text is a value, or none.
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// secret is one of the broker's making, the same for all of a mint.
func (f *filling) secret() string {
	if f.random == "" {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // which never fails
		f.random = base64.RawURLEncoding.EncodeToString(raw)
	}
	return f.random
}

func (f *filling) dimension(e *expression) (any, error) {
	d := access.Dimension(e.root)
	if f.access.IsNothing(d) || f.access.IsUnbounded(d) {
		return nil, nil
	}
	switch d {
	case access.DimPermissions:
		all := f.access.Permissions.Map()
		if e.key != "" {
			return text(all[e.key]), nil
		}
		return all, nil
	case access.DimDetails:
		v, err := form.Value(f.access.Details.JSON(), 32)
		if err != nil {
			return nil, fault.New(fault.InvalidRequest, "authorization_details cannot be read")
		}
		return v, nil
	}
	set, _ := f.access.Set(d)
	values, listed := set.Values()
	if !listed {
		return nil, nil
	}
	return values, nil
}

// permission is an item of permissions.
type permission struct{ name, level string }

func (f *filling) ofItem(e *expression) any {
	switch item := f.item.(type) {
	case permission:
		switch e.key {
		case "name":
			return item.name
		case "level":
			return item.level
		}
	case map[string]any:
		if e.key == "" {
			return item
		}
		return item[e.key]
	default:
		if e.key == "" {
			return item
		}
	}
	return nil
}

// unfit is of a value that cannot be used as the definition wants.
func unfit(e *expression, format string, args ...any) *fault.Error {
	return fault.New(e.code(), "%s", "what the definition makes of {{"+e.String()+"}} cannot be sent: "+fmt.Sprintf(format, args...))
}

func (f *filling) filtered(e *expression, by filter, v any) (any, error) {
	switch v := v.(type) {
	case []string:
		return joined(e, by, v)
	case time.Duration:
		return f.span(by, v), nil
	case time.Time:
		return f.moment(by, v), nil
	}
	s, ok := plain(v)
	if !ok {
		return nil, unfit(e, "it is neither a text nor a number")
	}
	switch by.name {
	case "before", "after":
		before, after, found := strings.Cut(s, by.arg)
		if !found || before == "" || after == "" {
			return nil, unfit(e, "it must be of two parts with %s between them", by.arg)
		}
		if by.name == "before" {
			return before, nil
		}
		return after, nil
	case "number":
		if number, ok := form.CanonicalNumber(s); ok {
			return json.Number(number), nil
		}
		return nil, unfit(e, "it is no number")
	case "flag":
		if s == "true" || s == "false" {
			return s == "true", nil
		}
		return nil, unfit(e, "it is neither true nor false")
	}
	return nil, unfit(e, "it is of the wrong kind")
}

func joined(e *expression, by filter, values []string) (any, error) {
	switch by.name {
	case "one":
		if len(values) != 1 {
			return nil, unfit(e, "the system takes exactly one: ask for one of them")
		}
		return values[0], nil
	case "space", "comma":
		by := map[string]string{"space": " ", "comma": ","}[by.name]
		if slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, by) }) {
			return nil, unfit(e, "one of them holds what parts them")
		}
		return strings.Join(values, by), nil
	}
	return nil, unfit(e, "it is a list")
}

// span is a length of time in a unit, rounded up.
func (f *filling) span(by filter, d time.Duration) any {
	unit := map[string]time.Duration{"seconds": time.Second, "minutes": time.Minute, "hours": time.Hour, "days": 24 * time.Hour, "duration": time.Second}[by.name]
	count := int64((d + unit - 1) / unit)
	whole := time.Duration(count) * unit
	f.askedUntil(f.now.Add(whole))
	if by.name != "duration" {
		return json.Number(strconv.FormatInt(count, 10))
	}
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}} {
		if whole%u.unit == 0 && whole > 0 {
			return strconv.FormatInt(int64(whole/u.unit), 10) + u.name
		}
	}
	return strconv.FormatInt(count, 10) + "s"
}

func (f *filling) moment(by filter, at time.Time) any {
	unit := map[string]time.Duration{"rfc3339": time.Second, "unix": time.Second, "rfc3339_ms": time.Millisecond, "unix_ms": time.Millisecond, "date": 24 * time.Hour}[by.name]
	at = roundUp(at.UTC(), unit)
	f.askedUntil(at)
	switch by.name {
	case "unix":
		return json.Number(strconv.FormatInt(at.Unix(), 10))
	case "unix_ms":
		return json.Number(strconv.FormatInt(at.UnixMilli(), 10))
	case "date":
		return at.Format(time.DateOnly)
	case "rfc3339_ms":
		return at.Format("2006-01-02T15:04:05.000Z")
	}
	return at.Format("2006-01-02T15:04:05Z")
}

func roundUp(at time.Time, unit time.Duration) time.Time {
	if down := at.Truncate(unit); down.Before(at) {
		return down.Add(unit)
	}
	return at
}

func (f *filling) askedUntil(at time.Time) {
	if at.After(f.ends) {
		f.ends = at
	}
}

// plain is the text of a value that has one.
func plain(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, utf8.ValidString(v)
	case secret.Text:
		return v.Reveal(), utf8.ValidString(v.Reveal())
	case json.Number: // some systems write a whole number as 1.0 or 1e+14
		if number, ok := form.CanonicalNumber(string(v)); ok {
			return number, true
		}
		return string(v), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// text is what a template becomes within a text.
func (f *filling) text(t template) (s string, found bool, err error) {
	var all strings.Builder
	for _, p := range t.parts {
		if p.expr == nil {
			all.WriteString(p.literal)
			continue
		}
		v, found, err := f.fill(p.expr)
		if err != nil || !found {
			return "", false, err
		}
		s, ok := plain(v)
		if !ok {
			return "", false, unfit(p.expr, "it is neither a text nor a number")
		}
		all.WriteString(s)
	}
	return all.String(), true, nil
}

// must is text of a template in which nothing may be missing.
func (f *filling) must(t template) (string, error) {
	s, _, err := f.text(t)
	return s, err
}

// value is what a JSON tree becomes; found is false of what is left out.
func (f *filling) value(t *tree) (v any, found bool, err error) {
	if f.values++; f.values > maxBodyValues {
		return nil, false, fault.New(fault.InvalidRequest, "a body would be of more than %d values: ask for less", maxBodyValues)
	}
	switch {
	case t.text != nil:
		return f.leaf(*t.text)
	case t.each != nil:
		return f.each(t.each)
	case t.list != nil:
		all := []any{}
		for _, element := range t.list {
			v, found, err := f.value(element)
			if err != nil {
				return nil, false, err
			}
			if found {
				all = append(all, v)
			}
		}
		return all, true, nil
	case t.object != nil:
		all := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(t.object)) {
			v, found, err := f.value(t.object[name])
			if err != nil {
				return nil, false, err
			}
			if found {
				all[name] = v
			}
		}
		return all, true, nil
	}
	return t.scalar, true, nil
}

// leaf is a text, or the value itself of what is one expression.
func (f *filling) leaf(t template) (any, bool, error) {
	e := t.whole()
	if e == nil {
		return okText(f.text(t))
	}
	v, found, err := f.fill(e)
	if err != nil || !found {
		return nil, false, err
	}
	switch value := v.(type) {
	case secret.Text:
		return value.Reveal(), true, nil
	case string:
		if !utf8.ValidString(value) {
			return nil, false, unfit(e, "it is no text")
		}
	case permission:
		return nil, false, unfit(e, "of a permission there are {{item.name}} and {{item.level}}")
	}
	return v, true, nil
}

func okText(s string, found bool, err error) (any, bool, error) { return s, found, err }

// each is a list, or an object, of what a dimension holds.
func (f *filling) each(t *each) (any, bool, error) {
	v, found, err := f.fill(&t.of)
	if err != nil || !found {
		return nil, false, err
	}
	outer := f.item
	defer func() { f.item = outer }()
	list, object := []any{}, map[string]any{}
	for _, item := range items(v) {
		f.item = item
		value, found, err := f.value(t.value)
		if err != nil {
			return nil, false, err
		}
		switch {
		case !found:
		case t.key == nil:
			list = append(list, value)
		default:
			key, err := f.must(*t.key)
			if err != nil {
				return nil, false, err
			}
			if _, twice := object[key]; twice {
				return nil, false, unfit(&t.of, "two of them become %s", short(key))
			}
			object[key] = value
		}
	}
	if t.key != nil {
		return object, true, nil
	}
	return list, true, nil
}

func items(v any) []any {
	var all []any
	switch v := v.(type) {
	case []string:
		for _, s := range v {
			all = append(all, s)
		}
	case map[string]string:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			all = append(all, permission{name, v[name]})
		}
	case []any:
		all = v
	}
	return all
}

// fillingOf is what a mint's templates are filled with.
func (p *Provider) fillingOf(r provider.Request) *filling {
	return &filling{
		name: p.names.Of(r.GrantID), access: r.Access, ttl: r.TTL, now: p.deps.Now(), settings: p.settings, parameters: p.parametersOf(r.Parameters),
		username: p.username, taken: map[string]any{},
	}
}
