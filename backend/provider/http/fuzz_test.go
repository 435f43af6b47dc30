package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const fuzzBase = "https://api.example.com/base/v1"

// requireBelow holds a request against base, however a server reads its path.
func requireBelow(t *testing.T, w *wire) *http.Request {
	t.Helper()
	req, err := w.request(context.Background(), fuzzBase)
	require.NoError(t, err)
	require.Equal(t, "https", req.URL.Scheme)
	require.Equal(t, "api.example.com", req.URL.Host)
	require.Nil(t, req.URL.User)
	require.Empty(t, req.URL.Fragment)
	read := req.URL.EscapedPath()
	for range 8 {
		for _, as := range []string{read, strings.ReplaceAll(read, `\`, "/"), strings.ReplaceAll(read, ";", "/"), strings.ReplaceAll(read, " ", ""), strings.ReplaceAll(read, "+", "")} {
			require.True(t, strings.HasPrefix(path.Clean(as)+"/", "/base/v1/"), "%q read as %q", req.URL, as)
		}
		decoded, err := url.PathUnescape(read)
		if err != nil || decoded == read {
			break
		}
		read = decoded
	}
	for name, values := range req.Header {
		for _, value := range append(values, name) {
			require.False(t, strings.ContainsAny(value, "\r\n\x00"), "%q", value)
		}
	}
	return req
}

// seeds are definitions of all kinds.
func seeds(f *testing.F) []string {
	all := []string{rigDefinition, parentOf(loginParent), parentOf(jwtParent)}
	files, err := filepath.Glob("presets/*.json")
	require.NoError(f, err)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(f, err)
		all = append(all, string(raw))
	}
	return all
}

const canary = "canary-0123456789abcdef"

// hostile are values that would leave their place if they could.
var hostile = []string{"a", "..", "a/b", "%2e%2e%2f", "a?b=c", "a#b", "{{password}}", "a\r\nX: 1", `"},"x":{"`, "a&b=c", "\x00", "\xff", "＊", "../../admin", " ", "a b"}

// Whatever is written as a definition, reading it ends, and what it makes of any values
// stays below base_url, has nothing of the parent in a URL, and is what it says it is.
func FuzzDefinitions(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add(text, uint8(0))
	}
	for i := range hostile {
		f.Add(rigDefinition, uint8(i))
	}
	f.Fuzz(func(t *testing.T, text string, which uint8) { requireTame(t, []byte(text), which) })
}

// The same with one text of a definition replaced by another.
func FuzzDefinitionsText(f *testing.F) {
	all := seeds(f)
	for i := range all {
		for n := range 4 {
			f.Add(uint8(i), uint16(n*17), "{{password}}", uint8(n))
			f.Add(uint8(i), uint16(n*13), "../{{name}}", uint8(n))
			f.Add(uint8(i), uint16(n*11), "{{taken.id}}", uint8(n))
		}
	}
	f.Fuzz(func(t *testing.T, seed uint8, at uint16, text string, which uint8) {
		var v any
		require.NoError(t, json.Unmarshal([]byte(all[int(seed)%len(all)]), &v))
		texts := 0
		replaced(v, func(string) string { texts++; return "" }) // on a copy
		n := 0
		v = replaced(v, func(old string) string {
			if n++; n-1 == int(at)%texts {
				return text
			}
			return old
		})
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		requireTame(t, raw, which)
	})
}

// replaced is a copy of a JSON value with other texts, in the order of their places.
func replaced(v any, by func(string) string) any {
	switch v := v.(type) {
	case string:
		return by(v)
	case []any:
		all := make([]any, len(v))
		for i, inner := range v {
			all[i] = replaced(inner, by)
		}
		return all
	case map[string]any:
		all := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			all[name] = replaced(v[name], by)
		}
		return all
	}
	return v
}

// requireTame reads a definition and fills all of its requests.
func requireTame(t *testing.T, text []byte, which uint8) {
	t.Helper()
	d, err := Parse(text)
	if err != nil {
		require.Less(t, len(err.Error()), 1<<20)
		return
	}
	value := hostile[int(which)%len(hostile)]
	p := &Provider{definition: d}
	for _, s := range d.Mint {
		requireStep(t, p, s, value)
		if s.Undo != nil {
			requireStep(t, p, *s.Undo, value)
		}
		if s.Find != nil {
			requireStep(t, p, s.Find.Step, value)
		}
	}
	if d.Check != nil {
		requireStep(t, p, *d.Check, value)
	}
	_ = p.Traits()
	for _, parent := range d.Parent.Headers {
		require.Regexp(t, credential, parent.literal())
	}
}

func requireStep(t *testing.T, p *Provider, s Step, value string) {
	t.Helper()
	levels := p.definition.Access[access.DimPermissions].Levels
	if levels == nil {
		levels = access.DefaultLevels()
	}
	permissions, _ := access.NewPermissions(levels, map[string]string{"a": levels[0]})
	details, _ := access.ParseDetails([]byte(`[{"type":"a","x":[1]}]`))
	set := access.Exactly(value)
	all := map[string]string{}
	taken := map[string]any{}
	for name := range p.definition.Settings {
		all[name] = value
	}
	for name := range p.definition.Parameters {
		all[name] = value
	}
	for _, step := range p.definition.Mint {
		for name := range step.Take {
			taken[name] = value
		}
		if step.Find != nil {
			for name := range step.Find.Take {
				taken[name] = value
			}
		}
	}
	f := &filling{
		name: "broker-x", access: access.Access{Scopes: set, Audiences: set, Resources: set, Permissions: permissions, Details: details}, ttl: time.Hour, now: time.Unix(1e9, 0),
		settings: all, parameters: all, username: value, taken: taken,
		parent: func(e *expression) (secret.Text, error) {
			require.Equal(t, rootJWT, e.root, "a step has no other secret of the parent's")
			return secret.New(canary), nil
		},
	}
	w, err := f.build(s, p.definition.Headers)
	if err != nil {
		return
	}
	req := requireBelow(t, w)
	require.NotContains(t, req.URL.String(), canary)
	switch w.Type {
	case "application/json":
		require.True(t, json.Valid([]byte(w.Body)))
	case "application/x-www-form-urlencoded":
		_, err := url.ParseQuery(w.Body)
		require.NoError(t, err)
	}
	raw, err := json.Marshal(w)
	require.NoError(t, err)
	var again wire
	require.NoError(t, json.Unmarshal(raw, &again))
	require.Equal(t, w.Path, again.Path)
}

const placesDefinition = `{"class": "token", "parent": {"headers": {"Authorization": "Bearer {{token}}"}}, "access": {"resources": {"ask": true, "pattern": "(?s).*"}},
	"mint": [{"method": "POST", "path": "a/x{{resources | one}}/b/{{resources | one}}/c", "query": {"q": "{{resources | one}}", "all": "{{resources}}"}, "headers": {"X-Team": "{{resources | one}}"},
		"json": {"text": "{{resources | one}}", "in": "<{{resources | one}}>", "list": "{{resources}}", "map": {"$each": "resources", "key": "{{item}}", "value": "{{item}}"}}, "take": {"id": "/id"}, "undo": {"method": "DELETE", "path": "d/{{taken.id}}"}}],
	"child": {"secrets": {"access_token": "{{taken.id}}"}, "expires": "never"}}`

// No value leaves its place: what is read of each is the value, and nothing else is there.
func FuzzPlaces(f *testing.F) {
	for _, value := range hostile {
		f.Add(value)
	}
	d, err := Parse([]byte(placesDefinition))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, value string) {
		fill := &filling{access: access.Access{Resources: access.Exactly(value)}}
		w, err := fill.build(d.Mint[0], nil)
		if err != nil {
			return
		}
		req := requireBelow(t, w)
		segments := strings.Split(strings.TrimPrefix(req.URL.EscapedPath(), "/base/v1/"), "/")
		require.Len(t, segments, 5)
		for i, want := range map[int]string{0: "a", 1: "x" + value, 2: "b", 3: value, 4: "c"} {
			got, err := url.PathUnescape(segments[i])
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.Equal(t, url.Values{"q": {value}, "all": {value}}, req.URL.Query())
		require.Equal(t, []string{value}, req.Header["X-Team"])
		var sent any
		require.NoError(t, json.Unmarshal([]byte(w.Body), &sent))
		require.Equal(t, map[string]any{"text": value, "in": "<" + value + ">", "list": []any{value}, "map": map[string]any{value: value}}, sent)
	})
}

// Reading a template ends, and its text is its literals and its values and nothing else.
func FuzzTemplates(f *testing.F) {
	for _, text := range []string{"", "a", "{{name}}", "a{{name}}b", "{{ttl | seconds}}", "{{a", "a}}", "{{name | before /}}", "{{settings.a?}}", "{{}}", "{{{{name}}}}", "{{name}}{{name}}"} {
		f.Add(text, "v")
		f.Add(text, "{{token}}")
	}
	f.Fuzz(func(t *testing.T, source, value string) {
		text, err := parseTemplate(source)
		if err != nil {
			return
		}
		fill := &filling{name: value, settings: map[string]string{"a": value}, ttl: time.Hour, now: time.Unix(1e9, 0), taken: map[string]any{"a": value}}
		got, found, err := fill.text(text)
		if err != nil || !found {
			return
		}
		rest := got
		for _, p := range text.parts {
			if p.expr == nil {
				require.Contains(t, rest, p.literal)
			}
		}
		if e := text.whole(); e != nil && e.root == rootName && len(e.filters) == 0 {
			require.Equal(t, value, got)
		}
	})
}

// Whatever a system answers, reading it ends; what is made of it has no more than was asked
// for unless it says so, and no undo leads elsewhere.
func FuzzAnswers(f *testing.F) {
	for _, body := range []string{`{"id":"1"}`, `{"id":1e400}`, `{"id":"../x"}`, `[]`, `{"key":"k","scopes":["a"],"seconds":5,"id":"x"}`, `{"key":"k","scopes":[{"a":1}],"seconds":-5,"id":"x"}`, `{"items":[{"name":"n","id":"%2e%2e"}]}`, strings.Repeat("[", 100)} {
		f.Add([]byte(body), 200)
		f.Add([]byte(body), 201)
	}
	d, err := Parse([]byte(rigDefinition))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		p := &Provider{definition: d, settings: map[string]string{"tenant": "acme"}, deps: provider.Deps{Now: func() time.Time { return time.Unix(1e9, 0) }}}
		mk := &making{p: p, m: &mentioned{}, f: &filling{settings: p.settings, taken: map[string]any{}, access: access.Access{Scopes: access.Exactly("a")}}}
		a := &answer{status: status, body: body, header: http.Header{}}
		for _, s := range d.Mint {
			_ = s.Success.fits(a)
			if a.take(s.Take, mk.f.taken) != nil {
				continue
			}
			if s.Undo == nil {
				continue
			}
			if w, err := mk.f.build(*s.Undo, nil); err == nil {
				requireBelow(t, w)
				h, err := decodeHandle(encodeHandle([]*wire{w}))
				require.NoError(t, err)
				require.Equal(t, w.Path, h.Undo[0].Path)
			}
		}
		child := &provider.Child{}
		if err := mk.read(child); err == nil {
			require.False(t, child.Secrets[provider.FieldToken].Empty())
			require.True(t, child.ExpiresAt.After(time.Unix(1e9, 0)))
		}
		find := d.Mint[0].Find
		pages := find.pages(&wire{Method: "GET", Path: "x"})
		require.True(t, pages.next())
		items, _ := pages.read(a)
		fd := &finding{revoking{p}}
		for _, item := range items {
			_ = find.fits(item, mk.f)
			if one, err := fd.found(d.Mint[0], mk.f, item); err == nil {
				h, err := decodeHandle(one.Handle)
				require.NoError(t, err)
				requireBelow(t, h.Undo[0])
			}
		}
	})
}

// A handle that was tampered with leads nowhere else.
func FuzzHandles(f *testing.F) {
	for _, p := range []string{"a/b", "../x", "a/%2e%2e/b", "/x", "a//b", "a%2fb", "https://evil.example/", "@evil.example", "a?b", "a#b"} {
		raw, err := json.Marshal(handle{Version: 1, Undo: []*wire{{Method: "DELETE", Path: p, Gone: &Condition{Status: []int{404}, Where: []Test{{At: pointer{given: true}, Is: []any{json.Number("1")}}}}}}})
		require.NoError(f, err)
		f.Add(string(raw))
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := decodeHandle(secret.New(text))
		if err != nil {
			return
		}
		for _, w := range h.Undo {
			if _, err := w.request(context.Background(), fuzzBase); err == nil && !strings.ContainsAny(w.Query, "#") {
				w.Headers = nil // net/http judges these
				requireBelow(t, w)
			}
		}
	})
}

// Pointers are read as they are written, and lead nowhere but into the value.
func FuzzPointers(f *testing.F) {
	for _, p := range []string{"", "/", "/a/0", "/~0~1", "/a~2", "a", "/-1", "/99999999999999999999"} {
		f.Add(p, []byte(`{"a":[1,{"b":null}],"~/":2}`))
	}
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		if !utf8.ValidString(text) {
			return // no JSON has it
		}
		m := &mistakes{}
		p := node{v: text, found: true, m: m}.pointer()
		if m.err() != nil {
			require.False(t, p.given)
			return
		}
		require.Equal(t, text, p.String())
		a := &answer{body: body}
		v, found := a.at(p)
		if found && text == "" {
			whole, err := a.json()
			require.NoError(t, err)
			require.Equal(t, whole, v)
		}
		raw, err := json.Marshal(Test{At: p, Is: []any{"x"}})
		require.NoError(t, err)
		var again Test
		require.NoError(t, json.Unmarshal(raw, &again))
		require.True(t, bytes.Equal(raw, must(json.Marshal(again))))
	})
}

func must(raw []byte, err error) []byte {
	if err != nil {
		panic(errors.New("it was marshalled before"))
	}
	return raw
}
