package access

import (
	"cmp"
	"fmt"
	"slices"
)

// MaxPatterns is how many values and globs one Ceiling may list.
const MaxPatterns = 1024

// Set is a set of strings: unbounded, a list of values, or what matches globs.
// The zero Set is nothing.
//
// Two globs have no meet that is a glob, so a set with globs is kept as a
// conjunction: a value is in it if every clause has a literal or a glob for it.
// As soon as one clause is without globs, the set is the list of those of its
// literals that are in all the others. That form is canonical, so meets of the
// same operands in any order are Equal.
type Set struct {
	unbounded bool
	// values, sorted and unique, are the whole set if there are no clauses.
	values []string
	// clauses, sorted and unique, each hold at least one glob.
	clauses []clause
}

// clause is a disjunction. Its literals are members of the set that it is a
// clause of; literals and globs are sorted and unique.
type clause struct {
	literals []string
	globs    []Glob
}

// Unbounded is the set of all strings.
func Unbounded() Set { return Set{unbounded: true} }

// Exactly is the set of these values, in which `*` is a character like others:
// what was asked for, or what was granted. Empty strings are left out.
func Exactly(values ...string) Set {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	if len(sorted) > 0 && sorted[0] == "" {
		sorted = sorted[1:]
	}
	return listed(sorted)
}

// listed is the set of sorted, unique values.
func listed(sorted []string) Set {
	if len(sorted) == 0 {
		return Set{}
	}
	return Set{values: sorted}
}

// Ceiling is the set of what equals one of the patterns, or matches one that is
// a glob; of no patterns it is nothing. Values without a star may have
// MaxTarget bytes, globs are bounded as by ParseGlob.
func Ceiling(patterns ...string) (Set, error) {
	if len(patterns) > MaxPatterns {
		return Set{}, fmt.Errorf("%d values, more than %d", len(patterns), MaxPatterns)
	}
	var c clause
	for i, p := range patterns {
		g, err := parseMember(p)
		if err != nil {
			return Set{}, fmt.Errorf("value %d: %w", i+1, err)
		}
		if g.IsLiteral() {
			c.literals = append(c.literals, p)
		} else {
			c.globs = append(c.globs, g)
		}
	}
	slices.Sort(c.literals)
	c.literals = slices.Compact(c.literals)
	if len(c.globs) == 0 {
		return listed(c.literals), nil
	}
	slices.SortFunc(c.globs, compareGlobs)
	c.globs = slices.CompactFunc(c.globs, sameGlob)
	return Set{clauses: []clause{c}}, nil
}

// parseMember reads a glob, or a literal, which may be longer.
func parseMember(p string) (Glob, error) {
	if len(p) > MaxGlob && !slices.Contains([]byte(p), '*') {
		if err := checkLength("value", p, MaxTarget); err != nil {
			return Glob{}, err
		}
		return literalGlob(p), checkPrintable("value", p, false)
	}
	return ParseGlob(p)
}

func compareGlobs(a, b Glob) int { return cmp.Compare(a.pattern, b.pattern) }
func sameGlob(a, b Glob) bool    { return a.pattern == b.pattern }

// IsUnbounded reports whether the set is that of all strings.
func (s Set) IsUnbounded() bool { return s.unbounded }

// IsNothing reports whether the set surely has no members. Globs that exclude
// each other are not recognized as such; a meet with listed values always is.
func (s Set) IsNothing() bool {
	return !s.unbounded && len(s.values) == 0 && len(s.clauses) == 0
}

// Contains reports whether v is a member. The empty string never is, but in the
// unbounded set.
func (s Set) Contains(v string) bool {
	switch {
	case s.unbounded:
		return true
	case v == "":
		return false
	case len(s.clauses) == 0:
		_, found := slices.BinarySearch(s.values, v)
		return found
	}
	for _, c := range s.clauses {
		if !c.contains(v) {
			return false
		}
	}
	return true
}

// JustMisses reports whether v is no member and would be one by Globs.JustMisses.
func (s Set) JustMisses(v string) bool {
	if s.Contains(v) || v == "" {
		return false
	}
	for _, c := range s.clauses {
		if !c.contains(v) && !Globs(c.globs).JustMisses(v) {
			return false
		}
	}
	return len(s.clauses) > 0
}

func (c clause) contains(v string) bool {
	if _, found := slices.BinarySearch(c.literals, v); found {
		return true
	}
	return Globs(c.globs).MatchAny(v)
}

// Values returns all members, sorted. It is nil and false if they cannot be
// listed: the set is unbounded, or a glob is left in it.
func (s Set) Values() (sorted []string, enumerable bool) {
	if !s.enumerable() {
		return nil, false
	}
	return slices.Clone(s.values), true
}

func (s Set) enumerable() bool { return !s.unbounded && len(s.clauses) == 0 }

// Literals returns the members that are known by name, sorted: all of them if
// the set is enumerable, else those that were written out beside its globs.
func (s Set) Literals() []string {
	if len(s.clauses) == 0 {
		return slices.Clone(s.values)
	}
	var all []string
	for _, c := range s.clauses {
		all = append(all, c.literals...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Meet is the set of what is in both.
func (s Set) Meet(t Set) Set {
	switch {
	case s.unbounded:
		return t
	case t.unbounded:
		return s
	case len(s.clauses) == 0:
		return listed(t.members(s.values))
	case len(t.clauses) == 0:
		return listed(s.members(t.values))
	}
	both := Set{clauses: slices.Concat(s.clauses, t.clauses)}
	kept := make([]clause, len(both.clauses))
	for i, c := range both.clauses {
		kept[i] = clause{literals: both.members(c.literals), globs: c.globs}
	}
	slices.SortFunc(kept, compareClauses)
	return Set{clauses: slices.CompactFunc(kept, func(a, b clause) bool { return compareClauses(a, b) == 0 })}
}

// members returns those of the values that are in s, in their order. It does
// not copy if all of them are.
func (s Set) members(values []string) []string {
	for i, v := range values {
		if s.Contains(v) {
			continue
		}
		kept := slices.Clone(values[:i])
		for _, v := range values[i+1:] {
			if s.Contains(v) {
				kept = append(kept, v)
			}
		}
		return kept
	}
	return values
}

func compareClauses(a, b clause) int {
	return cmp.Or(
		slices.Compare(a.literals, b.literals),
		slices.CompareFunc(a.globs, b.globs, compareGlobs),
	)
}

// Within reports whether surely every member of s is in t. It is exact if s is
// enumerable or unbounded. A glob is within another if that one describes its
// pattern; some inclusions that hold are missed, none is claimed that does not.
func (s Set) Within(t Set) bool {
	switch {
	case t.unbounded:
		return true
	case s.unbounded:
		return false
	case len(s.clauses) == 0:
		return !slices.ContainsFunc(s.values, func(v string) bool { return !t.Contains(v) })
	case len(t.clauses) == 0:
		return false
	}
	for _, bound := range t.clauses {
		if !slices.ContainsFunc(s.clauses, func(c clause) bool { return c.within(bound) }) {
			return false
		}
	}
	return true
}

// within reports whether every literal and glob of c is in bound.
func (c clause) within(bound clause) bool {
	for _, l := range c.literals {
		if !bound.contains(l) {
			return false
		}
	}
	for _, g := range c.globs {
		if !bound.holds(g) {
			return false
		}
	}
	return true
}

func (c clause) holds(g Glob) bool {
	return slices.ContainsFunc(c.globs, g.within)
}

// Excess names what of s is not in t, sorted: members, globs, or "*" for an
// unbounded s in a bounded t. It is empty if and only if s is Within t.
func (s Set) Excess(t Set) []string {
	if s.Within(t) {
		return nil
	}
	if s.unbounded {
		return []string{"*"}
	}
	var excess []string
	for _, l := range s.Literals() {
		if !t.Contains(l) {
			excess = append(excess, l)
		}
	}
	for _, c := range s.clauses {
		for _, g := range c.globs {
			if !(Set{clauses: []clause{{globs: []Glob{g}}}}).Within(t) {
				excess = append(excess, g.pattern)
			}
		}
	}
	slices.Sort(excess)
	return slices.Compact(excess)
}

// Equal reports whether s and t are the same set, written with the same globs.
func (s Set) Equal(t Set) bool {
	return s.unbounded == t.unbounded && slices.Equal(s.values, t.values) &&
		slices.EqualFunc(s.clauses, t.clauses, func(a, b clause) bool { return compareClauses(a, b) == 0 })
}
