package access

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// matchesByDefinition is the contract's sentence in code, exponential and
// obviously right: a star is followed through every length it may have.
func matchesByDefinition(pattern, value string) bool {
	if pattern == "" {
		return value == ""
	}
	if pattern[0] != '*' {
		return value != "" && value[0] == pattern[0] && matchesByDefinition(pattern[1:], value[1:])
	}
	rest := strings.TrimLeft(pattern, "*")
	crosses := len(pattern)-len(rest) > 1
	for n := 0; n <= len(value); n++ {
		if matchesByDefinition(rest, value[n:]) {
			return true
		}
		if n < len(value) && !crosses && (value[n] == '/' || value[n] == ':') {
			return false
		}
	}
	return false
}

func TestGlobMatchesByDefinition(t *testing.T) {
	value := rapid.StringOfN(rapid.RuneFrom([]rune("ab/:*é\n")), 0, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		p, v := patterns().Draw(t, "pattern"), value.Draw(t, "value")
		g, err := ParseGlob(p)
		if err != nil {
			t.Fatal(err)
		}
		if want := matchesByDefinition(p, v); g.Match(v) != want {
			t.Fatalf("%q matches %q: want %v", p, v, want)
		}
	})
}

// Short values cover everything a pattern of few tokens can do.
func TestGlobExhaustively(t *testing.T) {
	for _, p := range []string{"*", "**", "a*", "*a", "a*b", "*/*", "*:*", "**a", "a**", "*a*", "**/**", "a**b*", "*a**:*", "**:*a", "*b*b*", "**a*b**a"} {
		g := glob(t, p)
		for _, v := range universe {
			require.Equal(t, matchesByDefinition(p, v), g.Match(v), "%q against %q", p, v)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, value string
		want           bool
	}{
		{"repo", "repo", true},
		{"repo", "repository", false},
		{"repo", "myrepo", false},
		{"repo", "REPO", false},
		{"repo", "repo\n", false},
		{"repo", "\nrepo", false},
		{"repo", "x\nrepo\nx", false},
		{"*", "a", true},
		{"*", "a/b", false},
		{"*", "a:b", false},
		{"*", "a\nb", true},
		{"*", "é日", true},
		{"*", "a\x02b", true},
		{"**", "a/b:c", true},
		{"***", "a/b:c", true},
		{"****", "a/b:c", true},
		{"repo:*", "repo:read", true},
		{"repo:*", "repo:", true},
		{"repo:*", "repo", false},
		{"repo:*", "repo:a/b", false},
		{"repo:**", "repo:a/b:c", true},
		{"repo:*:read", "repo:a:read", true},
		{"repo:*:read", "repo:a:b:read", false},
		{"repo:*:read", "repo:read", false},
		{"repo:acme/*:ref:refs/heads/main", "repo:acme/api:ref:refs/heads/main", true},
		{"repo:acme/*:ref:refs/heads/main", "repo:acme/api:x:ref:refs/heads/main", false},
		{"repo:acme/*:ref:refs/heads/main", "repo:acme/api:ref:refs/heads/main\n", false},
		{"https://*.example.com", "https://a.example.com", true},
		{"https://*.example.com", "https://evil.com/x.example.com", false},
		{"https://*.example.com", "https://evil.com:443.example.com", false},
		{"https://*.example.com", "https://a.example.com.evil.com", false},
		{"aXa*", "aXa", true},
		{"ab*ba", "aba", false}, // the ends do not overlap
		{"a*a", "a", false},
		{"a.c", "abc", false}, // no regular expression
		{"a?c", "abc", false},
		{"[ab]", "a", false},
		{`\*`, "*", false}, // no escape
		{`\*`, `\x`, true},
		{"日*語", "日本語", true},
		{"e\u0301", "\u00e9", false}, // no normalization
		{"a", "", false},
		{"*", "", true},
		{"a*", "", false},
	} {
		g := glob(t, c.pattern)
		require.Equal(t, c.want, g.Match(c.value), "%q against %q", c.pattern, c.value)
	}
}

func TestParseGlob(t *testing.T) {
	for name, pattern := range map[string]string{
		"empty": "", "space": "a b", "tab": "a\tb", "newline": "a\n", "nul": "a\x00b", "delete": "a\x7f",
		"no-break space": "a\u00a0b", "zero width": "a\u200bb", "right to left": "a\u202eb", "line separator": "a\u2028",
		"not UTF-8": "a\xff", "long": strings.Repeat("a", MaxGlob+1), "stars": strings.Repeat("*a", MaxStars+1),
	} {
		_, err := ParseGlob(pattern)
		require.Error(t, err, name)
		if name != "space" {
			_, err = ParseTextGlob(pattern)
			require.Error(t, err, name)
		}
	}
	text, err := ParseTextGlob("Build and *")
	require.NoError(t, err)
	require.True(t, text.Match("Build and Release"))

	require.Equal(t, "a**b*", glob(t, "a****b*").String())
	require.True(t, glob(t, "a").IsLiteral())
	require.False(t, glob(t, "a*").IsLiteral())
	require.True(t, glob(t, strings.Repeat("*", MaxGlob)).Match("a/b"), "a run of stars is one wildcard")
	require.False(t, Glob{}.Match(""), "the zero Glob matches nothing")
	require.False(t, Glob{}.Match("a"))
}

func TestGlobs(t *testing.T) {
	gs, err := ParseGlobs([]string{"a*", "b"})
	require.NoError(t, err)
	require.True(t, gs.MatchAny("ax"))
	require.True(t, gs.MatchAny("b"))
	require.False(t, gs.MatchAny("c"))
	require.False(t, Globs(nil).MatchAny("a"))
	_, err = ParseGlobs([]string{"a", ""})
	require.ErrorContains(t, err, "pattern 2")
}

// Within among globs claims no inclusion that does not hold, and finds those
// that a person would expect.
func TestGlobWithin(t *testing.T) {
	for _, c := range []struct {
		p, q string
		want bool
	}{
		{"*", "**", true}, {"**", "*", false}, {"a*", "*", true}, {"a/*", "*", false}, {"a/*", "**", true},
		{"repo:a*", "repo:*", true}, {"repo:*", "repo:a*", false}, {"repo:*/x", "repo:**", true},
		{"*a*", "*", true}, {"a*b", "a*", true}, {"a**b", "a*b", false}, {"a*b", "a**b", true}, {"***", "**", true},
		{"x", "*", true}, {"*", "x", false},
	} {
		require.Equal(t, c.want, glob(t, c.p).within(glob(t, c.q)), "%q within %q", c.p, c.q)
	}
}

// No pattern is slow, the classical exponential ones included.
func TestGlobIsNeverSlow(t *testing.T) {
	long := strings.Repeat("a", MaxTarget)
	for _, p := range []string{ // the ends match, so that all has to be tried
		strings.Repeat("a*", MaxStars-1) + "z*",
		strings.Repeat("**a", MaxStars-1) + "z**a",
		strings.Repeat("*a", MaxStars-2) + "**z*",
		"**" + strings.Repeat("a", MaxGlob-5) + "*z*",
		"*" + strings.Repeat("a", 200) + "*" + strings.Repeat("a", 200) + "*z**",
	} {
		g := glob(t, p)
		began := time.Now()
		require.False(t, g.Match(long))
		require.Less(t, time.Since(began), 30*time.Second, p)
	}
	require.False(t, glob(t, "**a").Match(strings.Repeat("a", MaxTarget+1)), "too long a value matches no glob")
	g := glob(t, "a*a**a*a")
	require.Zero(t, testing.AllocsPerRun(10, func() { g.Match(long) }))
}

func glob(t testing.TB, pattern string) Glob {
	t.Helper()
	g, err := ParseGlob(pattern)
	require.NoError(t, err, pattern)
	return g
}

func BenchmarkGlob(b *testing.B) {
	for name, c := range map[string]struct{ pattern, value string }{
		"one star":  {"repo:*", "repo:read"},
		"two stars": {"repo:acme/*:ref:refs/heads/*", "repo:acme/api:ref:refs/heads/main"},
		"worst":     {strings.Repeat("a*", MaxStars-1) + "z*", strings.Repeat("a", MaxTarget)},
	} {
		b.Run(name, func(b *testing.B) {
			g := glob(b, c.pattern)
			b.ReportAllocs()
			for b.Loop() {
				g.Match(c.value)
			}
		})
	}
}
