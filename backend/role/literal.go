package role

import (
	"fmt"
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
	return warnings
}

// looksLikeAnotherPattern reports whether there is something in the value that is a
// pattern elsewhere and seldom part of a name. In a URL ? begins a query.
func looksLikeAnotherPattern(v string) bool {
	return strings.ContainsAny(v, `[]{}()|^$\`) || strings.Contains(v, ".*") || strings.Contains(v, ".+")
}
