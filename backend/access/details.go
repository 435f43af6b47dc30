package access

import (
	"encoding/json"
	"slices"
	"strings"
)

// Details is RFC 9396's authorization_details: unbounded, or a list of elements
// of which none is within another. The zero Details is nothing. The order of the
// elements, and duplicates, carry no meaning.
type Details struct {
	unbounded bool
	elements  []element // sorted by canon, unique, none within another
}

// UnboundedDetails is every authorization detail.
func UnboundedDetails() Details { return Details{unbounded: true} }

// newDetails makes the canonical list: what is within another element says
// nothing of its own.
func newDetails(elements []element) Details {
	slices.SortFunc(elements, func(a, b element) int { return strings.Compare(a.canon, b.canon) })
	elements = slices.CompactFunc(elements, func(a, b element) bool { return a.canon == b.canon })
	var kept []element
	for i, e := range elements {
		covered := false
		for j, f := range elements {
			covered = covered || i != j && e.within(f)
		}
		if !covered {
			kept = append(kept, e)
		}
	}
	return Details{elements: kept}
}

// IsUnbounded reports whether d is every authorization detail.
func (d Details) IsUnbounded() bool { return d.unbounded }

// IsNothing reports whether d has no element.
func (d Details) IsNothing() bool { return !d.unbounded && len(d.elements) == 0 }

// Meet has what both allow: of each pair of elements that differ in their
// standard arrays only, the one with the common members of these arrays.
func (d Details) Meet(c Details) Details {
	switch {
	case d.unbounded:
		return c
	case c.unbounded:
		return d
	}
	var both []element
	for _, e := range d.elements {
		for _, f := range c.elements {
			if m, ok := e.meet(f); ok {
				both = append(both, m)
			}
		}
	}
	return newDetails(both)
}

// Within reports whether each element of d is within one of c.
func (d Details) Within(c Details) bool {
	if c.unbounded || d.unbounded {
		return c.unbounded
	}
	return len(d.excess(c)) == 0
}

func (d Details) excess(c Details) []element {
	var excess []element
	for _, e := range d.elements {
		if !slices.ContainsFunc(c.elements, e.within) {
			excess = append(excess, e)
		}
	}
	return excess
}

// Equal reports whether d and c have the same elements.
func (d Details) Equal(c Details) bool {
	return d.unbounded == c.unbounded &&
		slices.EqualFunc(d.elements, c.elements, func(a, b element) bool { return a.canon == b.canon })
}

// JSON is the elements as a JSON array in canonical order, in bytes of the
// caller's own; nil if there are none or if d is unbounded.
func (d Details) JSON() json.RawMessage {
	if len(d.elements) == 0 {
		return nil
	}
	out := []byte{'['}
	for i, e := range d.elements {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, e.canon...)
	}
	return append(out, ']')
}

// Types returns the types of the elements, sorted and unique.
func (d Details) Types() []string { return types(d.elements) }

func types(elements []element) []string {
	var all []string
	for _, e := range elements {
		all = append(all, e.typ)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Excess describes the elements of d that are within none of c: the type and
// the beginning of the canonical form. "*" stands for an unbounded d in a
// bounded c. It is empty if and only if d is Within c.
func (d Details) Excess(c Details) []string {
	if d.unbounded || c.unbounded {
		return d.excessTypes(c)
	}
	var excess []string
	for _, e := range d.excess(c) {
		excess = append(excess, e.summary())
	}
	return excess
}

// excessTypes is Excess with the types only.
func (d Details) excessTypes(c Details) []string {
	switch {
	case c.unbounded:
		return nil
	case d.unbounded:
		return []string{"*"}
	}
	return types(d.excess(c))
}
