package role

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Misread are warnings for whoever takes patterns for another kind than they are: for
// regular expressions, or for the shell's.
func (r *Role) Misread() (warnings []string) {
	for _, list := range []struct {
		name   string
		values []string
	}{{"scopes", r.Scopes}, {"audiences", r.Audiences}, {"resources", r.Resources}} {
		for _, v := range list.values {
			if looksLikeAnotherPattern(v) {
				warnings = append(warnings, fmt.Sprintf("%s: in %s only * is a pattern, and everything else stands for itself: write one value for each that is meant, unless it is called so", list.name, v))
			}
		}
	}
	for _, claim := range slices.Sorted(maps.Keys(r.BoundSubjectClaims)) {
		for _, v := range r.BoundSubjectClaims[claim] {
			if strings.ContainsAny(v, `^$|\`) {
				warnings = append(warnings, fmt.Sprintf("bound_subject_claims: in %s=%s only * is a pattern, and everything else stands for itself: give a list of the values that are meant, unless one is called so", claim, v))
			}
		}
	}
	return warnings
}

// looksLikeAnotherPattern reports whether there is something in the value that is a
// pattern elsewhere and seldom part of a name. In a URL ? begins a query.
func looksLikeAnotherPattern(v string) bool {
	return strings.ContainsAny(v, `[]{}()|^$\`)
}
