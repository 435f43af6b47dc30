package subject

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// shape is a file below testdata/subject, see its README.
type shape struct {
	About    string
	Audience string
	Header   map[string]any
	Claims   map[string]any
	Bounds   []struct {
		Name   string
		Claims map[string]any
		Fails  []string
	}
}

func readShapes(t testing.TB) map[string]shape {
	t.Helper()
	files, err := filepath.Glob("../../testdata/subject/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	shapes := map[string]shape{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		d := json.NewDecoder(strings.NewReader(string(raw)))
		d.UseNumber()
		d.DisallowUnknownFields()
		var s shape
		require.NoError(t, d.Decode(&s), file)
		shapes[strings.TrimSuffix(filepath.Base(file), ".json")] = s
	}
	return shapes
}

// TestDocumentedShapes signs the tokens of well-known issuers, trusts each by its
// documented iss, and applies a role's bounds to what came out.
func TestDocumentedShapes(t *testing.T) {
	for name, s := range readShapes(t) {
		t.Run(name, func(t *testing.T) {
			fake := newFakeIssuer(t, goodKeys())
			iss, _ := s.Claims["iss"].(string)
			issuer := open(t, IssuerConfig{Name: name, JWKSURL: fake.URL + "/keys", BoundIssuer: iss,
				BoundAudiences: []string{s.Audience}, ClockSkew: DefaultClockSkew})
			header, err := json.Marshal(s.Header)
			require.NoError(t, err)
			claims, err := json.Marshal(s.Claims)
			require.NoError(t, err)
			alg := jwa.SignatureAlgorithm(s.Header["alg"].(string))
			raw := signRaw(alg, fake.keys[alg], header, claims)

			picked, err := pickIssuer(raw, []*Issuer{issuer})
			require.NoError(t, err)
			issued, err := s.Claims["iat"].(json.Number).Int64()
			require.NoError(t, err)
			token, err := picked.Verify(t.Context(), raw, time.Unix(issued, 0).Add(time.Minute))
			require.NoError(t, err)
			assert.Equal(t, s.Claims["sub"], token.Subject)
			assert.Equal(t, s.Claims["jti"], token.ID)

			for _, c := range s.Bounds {
				t.Run(c.Name, func(t *testing.T) {
					values, err := ParseBounds(c.Claims)
					require.NoError(t, err)
					bounds, err := CompileClaims(values)
					require.NoError(t, err)
					assert.ElementsMatch(t, c.Fails, bounds.Check(token.Claims))
				})
			}
		})
	}
}

func TestMeets(t *testing.T) {
	for name, c := range map[string]struct {
		value  string // the claim, as JSON
		bounds []string
		met    bool
	}{
		"exact":                             {`"a"`, []string{"a"}, true},
		"one of several":                    {`"b"`, []string{"a", "b"}, true},
		"case counts":                       {`"A"`, []string{"a"}, false},
		"no prefix":                         {`"ab"`, []string{"a"}, false},
		"a glob is anchored at both ends":   {`"xab"`, []string{"a*"}, false},
		"a glob stops at a slash":           {`"a/b"`, []string{"*"}, false},
		"a glob stops at a colon":           {`"a:b"`, []string{"*"}, false},
		"two stars stop nowhere":            {`"a/b:c"`, []string{"**"}, true},
		"a question mark is itself":         {`"ab"`, []string{"a?"}, false},
		"brackets are themselves":           {`"a"`, []string{"[a]"}, false},
		"a dot is itself":                   {`"axb"`, []string{"a.b"}, false},
		"an alternation is itself":          {`"b"`, []string{"a|b"}, false},
		"a line end does not end the match": {`"a\nb"`, []string{"a"}, false},
		"true":                              {`true`, []string{"true"}, true},
		"not true":                          {`false`, []string{"true"}, false},
		"true is not 1":                     {`true`, []string{"1"}, false},
		"True is not true":                  {`true`, []string{"True"}, false},
		"the string true":                   {`"true"`, []string{"true"}, true},
		"a number":                          {`42`, []string{"42"}, true},
		"a number's other spelling":         {`42`, []string{"4.20e1"}, true},
		"a number spelled otherwise":        {`4.2E+1`, []string{"42"}, true},
		"zeros":                             {`-0.0`, []string{"0"}, true},
		"a number by glob":                  {`1234`, []string{"12*"}, true},
		"a large number":                    {`18446744073709551616`, []string{"18446744073709551616"}, true},
		"its neighbour":                     {`18446744073709551617`, []string{"18446744073709551616"}, false},
		"a string is not a number":          {`"42.0"`, []string{"42"}, false},
		"a string that looks like a number": {`"42"`, []string{"42"}, true},
		"a number with leading zeros":       {`42`, []string{"042"}, false},
		"a number without end":              {`1e9999999`, []string{"1e9999999", "**"}, false},
		"null":                              {`null`, []string{"null", "**"}, false},
		"an object":                         {`{"a":"a"}`, []string{"a", "**"}, false},
		"an array's element":                {`["x","a"]`, []string{"a"}, true},
		"an array's number":                 {`["x",1.0]`, []string{"1"}, true},
		"an empty array":                    {`[]`, []string{"**"}, false},
		"an array in an array":              {`[["a"]]`, []string{"a", "**"}, false},
		"an array is not its text":          {`["a","b"]`, []string{"a,b", "a b", "[a b]"}, false},
		"an empty string by two stars":      {`""`, []string{"**"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			claims, err := form.Object([]byte(`{"c":`+c.value+`}`), maxDepth)
			require.NoError(t, err)
			for _, at := range []string{"c", "/c"} {
				bounds, err := CompileClaims(map[string][]string{at: c.bounds})
				require.NoError(t, err)
				failed := bounds.Check(claims)
				if c.met {
					assert.Empty(t, failed)
				} else {
					assert.Equal(t, []string{at}, failed)
				}
			}
		})
	}
}

func TestCheckNamesEverything(t *testing.T) {
	bounds, err := CompileClaims(map[string][]string{"b": {"1"}, "a": {"1"}, "ok": {"1"}, "/c/d": {"1"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"/c/d", "a", "b"}, bounds.Check(map[string]any{"ok": "1", "a": "2"}))
	assert.Equal(t, []string{"/c/d", "a", "b", "ok"}, bounds.Check(nil))
	assert.Nil(t, (*ClaimBounds)(nil).Check(nil))
	none, err := CompileClaims(nil)
	require.NoError(t, err)
	assert.Nil(t, none.Check(map[string]any{"a": "b"}))
}

func TestCompileRefuses(t *testing.T) {
	many := map[string][]string{}
	for i := range maxBounds + 1 {
		many[strings.Repeat("x", i+1)] = []string{"a"}
	}
	for name, bounds := range map[string]map[string][]string{
		"no name":             {"": {"a"}},
		"a control character": {"a\nb": {"a"}},
		"a huge name":         {strings.Repeat("a", maxClaimName+1): {"a"}},
		"a deep pointer":      {strings.Repeat("/a", form.MaxPointerDepth+1): {"a"}},
		"a bad escape":        {"/a~2b": {"a"}},
		"a bare tilde":        {"/a~": {"a"}},
		"no values":           {"a": {}},
		"nil values":          {"a": nil},
		"an empty value":      {"a": {""}},
		"a value's line end":  {"a": {"x\n"}},
		"a glob's line end":   {"a": {"*\n"}},
		"a huge value":        {"a": {strings.Repeat("a", maxBoundValue+1)}},
		"a huge glob":         {"a": {strings.Repeat("a", 600) + "*"}},
		"many stars":          {"a": {strings.Repeat("*a", 17)}},
		"many values":         {"a": slices.Repeat([]string{"a"}, maxBoundValues+1)},
		"many claims":         many,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := CompileClaims(bounds)
			requireFault(t, err, fault.InvalidRequest, "bound_subject_claims")
			assert.Less(t, len(err.Error()), 300)
		})
	}
}

func TestParseBounds(t *testing.T) {
	got, err := ParseBounds(map[string]any{
		"s": "a", "l": []any{"a", json.Number("1.0"), true, 2.5, int64(3)}, "t": []string{"x"}, "n": 7, "f": 1e6, "b": false,
	})
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{
		"s": {"a"}, "l": {"a", "1.0", "true", "2.5", "3"}, "t": {"x"}, "n": {"7"}, "f": {"1000000"}, "b": {"false"},
	}, got)
	for name, v := range map[string]any{
		"null": nil, "an object": map[string]any{"a": 1}, "a list with null": []any{nil}, "a list in a list": []any{[]any{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseBounds(map[string]any{"claim": v})
			requireFault(t, err, fault.InvalidRequest, `"claim"`)
		})
	}
}

// TestBoundsOnlyNarrow: more bounds never let more tokens pass, and more values
// for one claim never fewer.
func TestBoundsOnlyNarrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		claims := drawClaims(t)
		bounds := drawBounds(t)
		compiled, err := CompileClaims(bounds)
		if err != nil {
			t.Fatal(err)
		}
		failed := compiled.Check(claims)
		if !slices.IsSorted(failed) {
			t.Fatalf("not sorted: %v", failed)
		}
		for name := range bounds {
			fewer := map[string][]string{}
			for k, v := range bounds {
				if k != name {
					fewer[k] = v
				}
			}
			less, err := CompileClaims(fewer)
			if err != nil {
				t.Fatal(err)
			}
			without := less.Check(claims)
			want := slices.DeleteFunc(slices.Clone(failed), func(f string) bool { return f == name })
			if !slices.Equal(without, want) {
				t.Fatalf("without %q: %v, want %v", name, without, want)
			}
			more := map[string][]string{name: append(slices.Clone(bounds[name]), "extra")}
			wider, err := CompileClaims(more)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(failed, name) && wider.Check(claims) != nil {
				t.Fatalf("a further value made %q fail", name)
			}
		}
	})
}

// TestLiteralsMatchOnlyThemselves: whatever stands in a value without a star,
// no other string meets it.
func TestLiteralsMatchOnlyThemselves(t *testing.T) {
	text := rapid.StringMatching(`[a-c.|^$?+()\[\]\\/: ]{1,8}`)
	rapid.Check(t, func(t *rapid.T) {
		value, claim := text.Draw(t, "value"), text.Draw(t, "claim")
		bounds, err := CompileClaims(map[string][]string{"c": {value}})
		if err != nil {
			t.Fatal(err)
		}
		if met := bounds.Check(map[string]any{"c": claim}) == nil; met != (value == claim) {
			t.Fatalf("%q meets %q: %v", claim, value, met)
		}
	})
}

func drawClaims(t *rapid.T) map[string]any {
	scalar := rapid.OneOf(
		rapid.Map(rapid.StringMatching(`[a-b/:]{0,3}`), func(s string) any { return s }),
		rapid.Map(rapid.IntRange(-2, 2), func(i int) any { return json.Number(string(rune('0' + i&3))) }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Just[any](nil),
	)
	value := rapid.OneOf(scalar,
		rapid.Map(rapid.SliceOfN(scalar, 0, 3), func(s []any) any { return s }),
		rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"x", "y"}), scalar, 0, 2), func(m map[string]any) any { return m }),
	)
	return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c"}), value, 0, 3).Draw(t, "claims")
}

func drawBounds(t *rapid.T) map[string][]string {
	name := rapid.SampledFrom([]string{"a", "b", "c", "/a", "/a/x", "/b/0", "/c/y"})
	value := rapid.SampledFrom([]string{"a", "b", "a/b", "*", "**", "a*", "*:b", "0", "1.0", "true", "false"})
	return rapid.MapOfN(name, rapid.SliceOfN(value, 1, 3), 0, 5).Draw(t, "bounds")
}
