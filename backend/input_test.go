package backend

import (
	"errors"
	"fmt"
	"maps"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// canary stands in every value that is given to a secret field.
const canary = "CANARY-value-of-a-secret-field"

// names are what the paths' own names stand for in newInputMount.
var names = map[string]string{
	"name": "p", "role": "r", "type": "oauth2", "grant_id": "none.abc", "entity_id": alice, "kill_id": "20261128T170000.000Z-0123456789ab",
}

// newInputMount has one of everything, so that handlers get as far as they can.
func newInputMount(t testing.TB) *mount {
	t.Helper()
	m := newMount(t, setup{})
	m.must(m.write("roles/p", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	m.must(m.write("issuers/p", map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": m.server.URL, "bound_audiences": "broker",
	}))
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	m.must(m.write("providers/jwt/p", map[string]any{"max_ttl": "1h"}))
	m.hide(canary)
	return m
}

// samplePath makes a path that pattern matches, with each name replaced as given.
func samplePath(t testing.TB, pattern string, names map[string]string) string {
	t.Helper()
	re, err := syntax.Parse(pattern, syntax.Perl)
	require.NoError(t, err)
	var b strings.Builder
	var walk func(*syntax.Regexp)
	walk = func(re *syntax.Regexp) {
		switch re.Op {
		case syntax.OpLiteral:
			b.WriteString(string(re.Rune))
		case syntax.OpCapture:
			if value, ok := names[re.Name]; ok {
				b.WriteString(value)
				return
			}
			require.Empty(t, re.Name, "a name in a path that this test has no sample for")
			walk(re.Sub[0])
		case syntax.OpConcat:
			for _, sub := range re.Sub {
				walk(sub)
			}
		case syntax.OpPlus:
			walk(re.Sub[0])
		}
	}
	walk(re)
	return b.String()
}

// endpoint is one operation of one path of the broker.
type endpoint struct {
	path   *framework.Path
	op     logical.Operation
	sample string
}

func (e endpoint) String() string { return string(e.op) + " " + e.sample }

// everyEndpoint lists all that the framework routes, so that what is added later
// is tested without anybody's thinking of it.
func everyEndpoint(t testing.TB, m *mount) []endpoint {
	t.Helper()
	var all []endpoint
	for _, p := range m.b.Paths {
		for op := range p.Operations {
			if op == logical.CreateOperation {
				continue // the same handler as update, chosen by the existence check
			}
			sample := samplePath(t, p.Pattern, names)
			if p.TakesArbitraryInput { // what no type of provider takes
				sample = "providers/nosuchtype/p"
			}
			require.Equal(t, p.Pattern, m.b.Route(sample).Pattern, "the sample %q is routed elsewhere", sample)
			all = append(all, endpoint{path: p, op: op, sample: sample})
		}
	}
	slices.SortFunc(all, func(a, b endpoint) int { return strings.Compare(a.String(), b.String()) })
	require.Greater(t, len(all), 20)
	return all
}

func (m *mount) send(e endpoint, data map[string]any) error {
	m.t.Helper()
	_, err := m.do(call{op: e.op, path: e.sample, data: data, entity: alice, addr: "127.0.0.1"})
	return err
}

// taken reports whether the endpoint takes the field at all.
func (e endpoint) taken(field string) bool {
	f := e.path.Fields[field]
	_, inPath := names[field]
	return f != nil && (field != fieldForce || e.op == logical.DeleteOperation) && !inPath
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	m := newInputMount(t)
	for _, e := range everyEndpoint(t, m) {
		t.Run(e.String(), func(t *testing.T) {
			for _, field := range []string{"no_such_field", "Scopes", "__proto__", "", "ttl ", "scopes\x00", "名", strings.Repeat("x", 10000)} {
				within(t, func() { requireCode(t, m.send(e, map[string]any{field: canary}), fault.InvalidRequest) })
			}
		})
	}
}

// wrongValues are values that are wrong for a field of the type.
func wrongValues(ft framework.FieldType) []any {
	object := map[string]any{canary: canary}
	list := []any{canary, canary}
	nested := []any{map[string]any{"a": []any{canary}}}
	switch ft {
	case framework.TypeString:
		return []any{nil, object, list, nested, true, []any{}, map[string]any{}}
	case framework.TypeBool:
		return []any{nil, object, list, nested, canary, []any{}, []any{true}, 2, -1, 0.5}
	case framework.TypeInt:
		return []any{nil, object, list, nested, canary, true, 1e30, "99999999999999999999", 1.5, []any{}, []any{1}}
	case framework.TypeFloat:
		return []any{nil, object, list, nested, canary, true, "NaN", "Inf", "-Inf", "1e999", []any{}}
	case framework.TypeDurationSecond:
		return []any{nil, object, list, nested, canary, true, -1, "-1h", 1e30, "99999999999999999999", "9999999999d", 1.5, "1h1", []any{}}
	case framework.TypeCommaStringSlice:
		return []any{nil, object, nested, []any{nil}, []any{1}, []any{true}, []any{[]any{}}, true, `[1]`, `["a"`, `["a"] trailing`, `[["a"]]`, map[string]any{}}
	case framework.TypeKVPairs:
		return []any{nil, nested, true, 1, canary, map[string]any{"a": nil}, map[string]any{"a": 1}, map[string]any{"a": []any{}}, map[string]any{"a": object}, `{"a":`, `{"a":{}}`, []any{canary}, []any{1}}
	case framework.TypeMap:
		return []any{nil, list, nested, true, 1, canary, `{"a"`, `[1]`, []any{}}
	case framework.TypeSlice:
		return []any{nil, object, true, 1, canary, `[1`, `{"a":1}`, map[string]any{}}
	default:
		return nil
	}
}

func TestWrongTypesAreRefused(t *testing.T) {
	for _, e := range everyEndpoint(t, newInputMount(t)) {
		t.Run(e.String(), func(t *testing.T) {
			m := newInputMount(t)
			for name, field := range e.path.Fields {
				values := wrongValues(field.Type)
				require.NotEmpty(t, values, "%s is of type %s, for which this test has no wrong values", name, field.Type)
				if !e.taken(name) {
					continue
				}
				for _, value := range values {
					within(t, func() {
						err := m.send(e, map[string]any{name: value})
						require.Error(t, err, "%s = %#v", name, value)
						requireCode(t, err, fault.InvalidRequest)
					})
				}
			}
		})
	}
}

// oversized are values beyond any use.
func oversized(ft framework.FieldType) []any {
	long := strings.Repeat("a", maxValue+1)
	many := make([]any, maxElements+1)
	wide := map[string]any{}
	for i := range many {
		many[i] = "a"
		wide[fmt.Sprint(i)] = "a"
	}
	var deep any = "a"
	for range maxDepth + 2 {
		deep = []any{deep}
	}
	values := []any{long, deep, many, wide, map[string]any{long: "a"}, map[string]any{"a": long}, []any{long}}
	if ft == framework.TypeSlice || ft == framework.TypeMap {
		values = append(values, "["+strings.Repeat("[", 10000), strings.Repeat(`{"a":`, 10000), "["+strings.TrimSuffix(strings.Repeat(`{},`, maxElements+1), ",")+"]")
	}
	if ft == framework.TypeCommaStringSlice {
		values = append(values, strings.Repeat("a,", maxElements)+"a", "["+strings.Repeat(`"a",`, maxElements)+`"a"]`)
	}
	return values
}

func TestOversizedValuesAreRefused(t *testing.T) {
	m := newInputMount(t)
	values := map[framework.FieldType][]any{}
	for _, e := range everyEndpoint(t, m) {
		tried := map[framework.FieldType]bool{} // the bounds are the type's
		for name, field := range e.path.Fields {
			if !e.taken(name) || tried[field.Type] {
				continue
			}
			tried[field.Type] = true
			if values[field.Type] == nil {
				values[field.Type] = oversized(field.Type)
			}
			for i, value := range values[field.Type] {
				within(t, func() {
					err := m.send(e, map[string]any{name: value})
					require.Error(t, err, "%s: %s, value %d", e, name, i)
					requireCode(t, err, fault.InvalidRequest)
					require.Less(t, len(err.Error()), 4096, "an oversized value must not make an oversized answer")
				})
			}
		}
	}
}

// escapes are names that try to leave the place where names belong.
var escapes = []string{
	"..", ".", "../p", "p/..", "p/../../sys", "a/b", "p/", "/p", "//", "%2f", "..%2f..", "p%00", "p\x00", "p\n", "\n", "p q", " p", "p ",
	"-p", "p-", ".p", "p.", "名前", "p\u202e", "p\u200b", "\xff\xfe", "p?", "p#", "p*", "**", "{{p}}", "$(id)", "'p'", `p"`, `p\`, "+", "p:q",
	strings.Repeat("p", maxName+1), strings.Repeat("p", 200), strings.Repeat("p", 5000),
}

func TestNamesCannotEscape(t *testing.T) {
	m := newInputMount(t)
	before := m.allKeys()
	for _, e := range everyEndpoint(t, m) {
		for name := range names {
			if !strings.Contains(e.path.Pattern, "(?P<"+name+">") || e.path.TakesArbitraryInput {
				continue
			}
			for _, escape := range escapes {
				different := maps.Clone(names)
				different[name] = escape
				evil := e
				evil.sample = samplePath(t, e.path.Pattern, different)
				within(t, func() { requireHarmless(t, evil, m.send(evil, nil)) })
			}
		}
	}
	m.waitForKills()
	// Nobody of such a name holds anything, and that this was asked for is on record.
	after := slices.DeleteFunc(m.allKeys(), func(key string) bool { return strings.HasPrefix(key, kills.StoragePrefix) })
	require.Equal(t, before, after, "nothing was written or deleted")
}

// requireHarmless: a name that no pattern matches has no path, which is Vault's
// 404; another path may have taken it, and found nothing or refused it.
func requireHarmless(t *testing.T, e endpoint, err error) {
	t.Helper()
	if err == nil || errors.Is(err, logical.ErrUnsupportedPath) || errors.Is(err, logical.ErrUnsupportedOperation) {
		if err == nil {
			// Of an entity's id nothing is known, and nobody of that name has anything.
			require.True(t, e.path.Fields["entity_id"] != nil || e.op == logical.ReadOperation || e.op == logical.ListOperation || e.op == logical.DeleteOperation, "%q was accepted", e)
		}
		return
	}
	requireCode(t, err, fault.InvalidRequest)
	require.Less(t, len(err.Error()), 4096)
}

// allKeys are the keys in storage.
func (m *mount) allKeys() []string {
	m.t.Helper()
	keys, err := logical.CollectKeys(m.t.Context(), m.storage)
	require.NoError(m.t, err)
	return keys
}

func TestReadOnlyPathsTakeNoBody(t *testing.T) {
	m := newMount(t, setup{})
	_, err := m.do(call{op: logical.ReadOperation, path: "creds/r", data: map[string]any{"subject_token": m.hide("SUBJECT-canary")}})
	requireCode(t, err, fault.InvalidRequest)
	_, err = m.list("grants", map[string]any{"list": "true"})
	require.NoError(t, err, "how a GET asks for a list")
}

func TestUnknownRolesProvidersAndGrants(t *testing.T) {
	m := newMount(t, setup{})
	for _, c := range []call{
		{op: logical.ReadOperation, path: "creds/nobody"},
		{op: logical.UpdateOperation, path: "creds/nobody"},
		{op: logical.UpdateOperation, path: "roles/nobody/explain"},
		{op: logical.UpdateOperation, path: "providers/oauth2/nobody/check"},
		{op: logical.UpdateOperation, path: "providers/oauth2/nobody/rotate"},
		{op: logical.UpdateOperation, path: "providers/nosuch/p", data: map[string]any{"client_secret": m.hide("UNKNOWN-type-secret")}},
		{op: logical.ReadOperation, path: "providers/nosuch/p"},
		{op: logical.ListOperation, path: "providers/nosuch/"},
		{op: logical.UpdateOperation, path: "providers/oauth2/p/nosuchverb"},
	} {
		_, err := m.do(c)
		require.Error(t, err, c.path)
		requireCode(t, err, fault.InvalidRequest)
	}
	for _, path := range []string{"providers/oauth2/nobody", "roles/nobody", "issuers/nobody", "grants/none.nobody", "grants/nobody"} {
		resp, err := m.read(path)
		require.NoError(t, err, path)
		require.Nil(t, resp, "what is not there is Vault's 404")
	}
}

// A reader of the audit log may take the other one.
func TestJSONTextWithANameTwiceIsRefused(t *testing.T) {
	m := newInputMount(t)
	for _, text := range []string{`{"team":["a"],"team":["b"]}`, `{"team":["a"]}]`} {
		_, err := m.write("roles/p", map[string]any{"bound_subject_claims": text})
		requireCode(t, err, fault.InvalidRequest)
		require.ErrorContains(t, err, "not valid JSON", text)
	}
}

func TestScopesObeyTheirAlphabet(t *testing.T) {
	m := newMount(t, setup{})
	for _, scope := range []any{
		[]any{"read write"}, []any{"read\x00"}, []any{"read\twrite"}, []any{"re\nad"}, []any{`re"ad`}, []any{`re\ad`}, []any{"réad"},
		"read write", "read\x7f", []any{""}, []any{"read", ""},
	} {
		for _, c := range []call{
			{op: logical.UpdateOperation, path: "creds/r", data: map[string]any{"scopes": scope}},
			{op: logical.ReadOperation, path: "creds/r", data: map[string]any{"scopes": scope}},
			{op: logical.UpdateOperation, path: "roles/other", data: map[string]any{"provider": "oauth2/p", "scopes": scope}},
			{op: logical.UpdateOperation, path: "roles/other", data: map[string]any{"provider": "oauth2/p", "scopes": "read", "default_scopes": scope}},
		} {
			_, err := m.do(c)
			require.Error(t, err, "%s with %q", c.path, scope)
			requireCode(t, err, fault.InvalidRequest)
		}
	}
	require.Zero(t, m.server.Counts().Minted)
}

// FuzzInput gives the form check what no test has thought of: whatever it lets
// through, the framework can convert without a panic and without an error.
func FuzzInput(f *testing.F) {
	for _, seed := range []string{
		`{"scopes":["a"]}`, `{"scopes":"[\"a\"]"}`, `{"permissions":{"a":"b"}}`, `{"permissions":["a=b"]}`, `{"ttl":"1h"}`, `{"ttl":1e3}`,
		`{"authorization_details":[{"type":"x"}]}`, `{"authorization_details":"[{}]"}`, `{"bound_subject_claims":{"a":[1]}}`,
		`{"rate_limit":1.5}`, `{"disabled":"true"}`, `{"limit":10}`, `{"client_secret":null}`, `{"ttl":18446744073709551616}`,
	} {
		f.Add(seed)
	}
	b := newBroker(catalog.Types(), &logical.InmemStorage{}, newClock().Now)
	var paths []string
	for _, p := range b.Paths {
		sample := samplePath(f, p.Pattern, names)
		if b.Route(sample) == p {
			paths = append(paths, sample)
		}
	}
	f.Fuzz(func(t *testing.T, body string) {
		var data map[string]any
		if !decodesTo(body, &data) {
			return
		}
		for _, path := range paths {
			for _, op := range []logical.Operation{logical.UpdateOperation, logical.ListOperation, logical.DeleteOperation, logical.ReadOperation} {
				req := &logical.Request{Operation: op, Path: path, Data: maps.Clone(data)}
				err := b.checkInput(req)
				if err != nil {
					require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
					continue
				}
				fields := framework.FieldData{Raw: req.Data, Schema: b.Route(path).Fields}
				for name := range req.Data {
					_, ok := fields.GetOk(name) // panics on what it cannot convert
					require.True(t, ok, "%s of %s", name, path)
				}
			}
		}
	})
}
