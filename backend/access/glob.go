package access

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds on a glob, which keep a match below some hundred thousand steps.
const (
	MaxGlob  = 512 // bytes
	MaxStars = 16  // wildcards
)

// Glob is a pattern that matches a whole value, never a part of it: every byte
// stands for itself, case included, but `*`, which stands for any number of
// bytes other than `/` and `:`, and `**` (or a longer run of stars), which
// stands for any number of any bytes. There is no escape. The zero Glob matches
// nothing.
type Glob struct {
	pattern string
	// prefix and suffix are the literal ends; middle is what lies between them
	// and begins and ends with a star. A literal is all prefix, with no middle.
	prefix, suffix string
	middle         []token
}

// token is a literal, or a star if lit is empty.
type token struct {
	lit  string
	deep bool // the star crosses separators
}

// ParseGlob reads a pattern. Empty ones, ones above MaxGlob bytes or MaxStars
// wildcards, and ones with spaces or unprintable characters are refused.
func ParseGlob(pattern string) (Glob, error) { return parseGlob(pattern, false) }

// ParseTextGlob is ParseGlob for what people name (groups, claims such as a
// workflow's title): it allows the space U+0020.
func ParseTextGlob(pattern string) (Glob, error) { return parseGlob(pattern, true) }

func parseGlob(pattern string, spaces bool) (Glob, error) {
	if err := checkLength("pattern", pattern, MaxGlob); err != nil {
		return Glob{}, err
	}
	if err := checkPrintable("pattern", pattern, spaces); err != nil {
		return Glob{}, err
	}
	tokens, stars := tokenize(pattern)
	if stars > MaxStars {
		return Glob{}, fmt.Errorf("pattern has %d wildcards, more than %d", stars, MaxStars)
	}
	return newGlob(tokens), nil
}

// literalGlob is the Glob that matches exactly v.
func literalGlob(v string) Glob { return Glob{pattern: v, prefix: v} }

func tokenize(pattern string) (tokens []token, stars int) {
	for pattern != "" {
		if n := len(pattern) - len(strings.TrimLeft(pattern, "*")); n > 0 {
			tokens = append(tokens, token{deep: n > 1})
			stars++
			pattern = pattern[n:]
			continue
		}
		lit, _, _ := strings.Cut(pattern, "*")
		tokens = append(tokens, token{lit: lit})
		pattern = pattern[len(lit):]
	}
	return tokens, stars
}

func newGlob(tokens []token) Glob {
	var g Glob
	for _, t := range tokens {
		g.pattern += t.text()
	}
	if len(tokens) > 0 && !tokens[0].star() {
		g.prefix, tokens = tokens[0].lit, tokens[1:]
	}
	if n := len(tokens); n > 0 && !tokens[n-1].star() {
		g.suffix, tokens = tokens[n-1].lit, tokens[:n-1]
	}
	g.middle = tokens
	return g
}

func (t token) star() bool { return t.lit == "" }

func (t token) text() string {
	switch {
	case t.deep:
		return "**"
	case t.star():
		return "*"
	default:
		return t.lit
	}
}

// String is the pattern, with runs of more than two stars written as two.
func (g Glob) String() string { return g.pattern }

// IsLiteral reports whether the pattern has no wildcard: it matches itself only.
func (g Glob) IsLiteral() bool { return len(g.middle) == 0 }

// Match reports whether the whole of value is described by the pattern. A value
// above MaxTarget bytes matches only as a literal. It takes time proportional
// to the length of the value times that of the pattern, and does not allocate.
func (g Glob) Match(value string) bool {
	if g.IsLiteral() {
		return g.pattern == value && value != ""
	}
	return g.describes(value, "/:")
}

// describes matches value, where a single star crosses none of the barriers.
func (g Glob) describes(value, barriers string) bool {
	if len(value) > MaxTarget || len(value) < len(g.prefix)+len(g.suffix) ||
		!strings.HasPrefix(value, g.prefix) || !strings.HasSuffix(value, g.suffix) {
		return false
	}
	value = value[len(g.prefix) : len(value)-len(g.suffix)]
	if len(g.middle) == 1 { // the usual pattern has one star
		return g.middle[0].deep || !strings.ContainsAny(value, barriers)
	}
	return matchTokens(g.middle, value, barriers)
}

// matchTokens runs the tokens over value as a set of positions: reach[i] says
// that the tokens so far can describe value[:i]. There is nothing to backtrack
// into, so no pattern is slow.
func matchTokens(tokens []token, value, barriers string) bool {
	var all [MaxTarget + 1]bool
	reach := all[:len(value)+1]
	reach[0] = true
	for _, t := range tokens {
		switch {
		case t.deep:
			spread(reach, value, "")
		case t.star():
			spread(reach, value, barriers)
		default:
			shift(reach, value, t.lit)
		}
	}
	return reach[len(value)]
}

// spread lets every reachable position reach the next one, unless the byte
// between them is a barrier.
func spread(reach []bool, value, barriers string) {
	for i := range len(value) {
		if reach[i] && !reach[i+1] {
			reach[i+1] = strings.IndexByte(barriers, value[i]) < 0
		}
	}
}

// shift moves every reachable position behind lit, if lit stands there. Going
// downwards, it reads only what it has not yet written.
func shift(reach []bool, value, lit string) {
	for i := len(reach) - 1; i >= 0; i-- {
		from := i - len(lit)
		reach[i] = from >= 0 && reach[from] && value[from:i] == lit
	}
}

// within reports whether surely everything that g matches is matched by h: h
// describes g's pattern itself, where a `*` of h may stand for a `*` but not for
// a `**` of g. This misses some inclusions that hold, and claims none that does
// not.
func (g Glob) within(h Glob) bool {
	switch {
	case g.IsLiteral():
		return h.Match(g.pattern)
	case h.IsLiteral():
		return false
	}
	// No pattern holds control characters, so these two are free to stand for
	// g's stars.
	stars := strings.NewReplacer("**", "\x02", "*", "\x01").Replace(g.pattern)
	return h.describes(stars, "/:\x02")
}

// Globs is a list of patterns of which one must match.
type Globs []Glob

// ParseGlobs reads patterns as ParseGlob does; the error names the pattern.
func ParseGlobs(patterns []string) (Globs, error) {
	globs := make(Globs, 0, len(patterns))
	for i, p := range patterns {
		g, err := ParseGlob(p)
		if err != nil {
			return nil, fmt.Errorf("pattern %d: %w", i+1, err)
		}
		globs = append(globs, g)
	}
	return globs, nil
}

// JustMisses reports whether none of the patterns matches v, and one would if * crossed
// / and : too, which is what people take it for who do not know these patterns.
func (gs Globs) JustMisses(v string) bool {
	return !gs.MatchAny(v) && slices.ContainsFunc(gs, func(g Glob) bool { return !g.IsLiteral() && g.describes(v, "") })
}

// MatchAny reports whether one of the patterns matches v; of none, none does.
func (gs Globs) MatchAny(v string) bool {
	for _, g := range gs {
		if g.Match(v) {
			return true
		}
	}
	return false
}
