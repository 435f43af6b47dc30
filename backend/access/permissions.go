package access

import (
	"fmt"
	"slices"
	"strings"
)

// Levels are a permission's levels from the lowest to the highest; each
// includes those below it.
type Levels []string

// DefaultLevels are the levels of providers that declare none.
func DefaultLevels() Levels { return Levels{"read", "write", "admin"} }

// Bounds on permissions.
const (
	MaxPermissions = 1024
	MaxLevels      = 32
	maxName        = 256
)

// Permissions is unbounded, or a map from a permission's name to its level. The
// zero Permissions is nothing.
type Permissions struct {
	unbounded bool
	entries   []permission // sorted by name, unique
}

// permission allows the levels, of which the last is the highest. Kept as a
// set, and not as a rank, it has a meet whatever Levels it was written with: a
// provider that inserts a level in a later version does not void older grants.
type permission struct {
	name   string
	levels []string // never empty, never written to
}

// UnboundedPermissions is every permission at every level.
func UnboundedPermissions() Permissions { return Permissions{unbounded: true} }

// NewPermissions reads a map from names to levels; without Levels it takes the
// DefaultLevels. An unknown level, a name that is empty, above 256 bytes or has
// spaces, `=` or unprintable characters, is an error, as are doubtful Levels.
func NewPermissions(levels Levels, m map[string]string) (Permissions, error) {
	if len(levels) == 0 {
		levels = DefaultLevels()
	}
	if err := levels.check(); err != nil {
		return Permissions{}, err
	}
	if len(m) > MaxPermissions {
		return Permissions{}, fmt.Errorf("%d permissions, more than %d", len(m), MaxPermissions)
	}
	levels = slices.Clone(levels)
	entries := make([]permission, 0, len(m))
	for name, level := range m {
		if err := checkName("permission", name); err != nil {
			return Permissions{}, err
		}
		rank := slices.Index(levels, level)
		if rank < 0 {
			return Permissions{}, fmt.Errorf("permission %q has an unknown level; the levels are %s", name, strings.Join(levels, ", "))
		}
		entries = append(entries, permission{name, levels[:rank+1]})
	}
	slices.SortFunc(entries, func(a, b permission) int { return strings.Compare(a.name, b.name) })
	return Permissions{entries: entries}, nil
}

func (l Levels) check() error {
	if len(l) > MaxLevels {
		return fmt.Errorf("%d levels, more than %d", len(l), MaxLevels)
	}
	for i, level := range l {
		if err := checkName("level", level); err != nil {
			return err
		}
		if slices.Contains(l[:i], level) {
			return fmt.Errorf("level %q is listed twice", level)
		}
	}
	return nil
}

func checkName(what, v string) error {
	if err := checkLength(what+" name", v, maxName); err != nil {
		return err
	}
	if strings.Contains(v, "=") {
		return fmt.Errorf("%s name %q must not hold a =", what, v)
	}
	return checkPrintable(what+" name", v, false)
}

// IsUnbounded reports whether p is every permission.
func (p Permissions) IsUnbounded() bool { return p.unbounded }

// IsNothing reports whether p has no permission at all.
func (p Permissions) IsNothing() bool { return !p.unbounded && len(p.entries) == 0 }

// Map returns each permission's highest level, in a map of the caller's own. It
// is empty, not nil, for nothing and for unbounded permissions.
func (p Permissions) Map() map[string]string {
	m := make(map[string]string, len(p.entries))
	for _, e := range p.entries {
		m[e.name] = e.top()
	}
	return m
}

func (e permission) top() string { return e.levels[len(e.levels)-1] }

func (e permission) String() string { return e.name + "=" + e.top() }

// Meet has the permissions that both have, each at the lower of its two levels.
// If p and q were made with different Levels, a level survives that both know
// and allow.
func (p Permissions) Meet(q Permissions) Permissions {
	switch {
	case p.unbounded:
		return q
	case q.unbounded:
		return p
	}
	var both []permission
	for _, e := range p.entries {
		f, ok := q.find(e.name)
		if !ok {
			continue
		}
		if levels := meetLevels(e.levels, f.levels); len(levels) > 0 {
			both = append(both, permission{e.name, levels})
		}
	}
	return Permissions{entries: both}
}

func (p Permissions) find(name string) (permission, bool) {
	i, found := slices.BinarySearchFunc(p.entries, name, func(e permission, n string) int { return strings.Compare(e.name, n) })
	if !found {
		return permission{}, false
	}
	return p.entries[i], true
}

// meetLevels returns the common levels. Of the same Levels one list begins with
// the other, and that one is the meet. Otherwise the order is that of the list
// that sorts first, so that it does not depend on which side a list stands.
func meetLevels(a, b []string) []string {
	if slices.Compare(a, b) > 0 {
		a, b = b, a
	}
	if len(a) <= len(b) && slices.Equal(a, b[:len(a)]) {
		return a
	}
	var common []string
	for _, l := range a {
		if slices.Contains(b, l) {
			common = append(common, l)
		}
	}
	return common
}

// Within reports whether q allows everything that p does.
func (p Permissions) Within(q Permissions) bool {
	if q.unbounded || p.unbounded {
		return q.unbounded
	}
	return !slices.ContainsFunc(p.entries, func(e permission) bool { return !q.allows(e) })
}

func (p Permissions) allows(e permission) bool {
	f, ok := p.find(e.name)
	return ok && !slices.ContainsFunc(e.levels, func(l string) bool { return !slices.Contains(f.levels, l) })
}

// Equal reports whether p and q allow the same.
func (p Permissions) Equal(q Permissions) bool { return p.Within(q) && q.Within(p) }

// Excess names what of p is not in q, as name=level, sorted by name; "*" stands
// for an unbounded p in a bounded q. It is empty if and only if p is Within q.
func (p Permissions) Excess(q Permissions) []string {
	if p.unbounded && !q.unbounded {
		return []string{"*"}
	}
	var excess []string
	for _, e := range p.entries {
		if !q.unbounded && !q.allows(e) {
			excess = append(excess, e.String())
		}
	}
	return excess
}

// List returns the permissions as name=level, sorted by name.
func (p Permissions) List() []string {
	var all []string
	for _, e := range p.entries {
		all = append(all, e.String())
	}
	return all
}
