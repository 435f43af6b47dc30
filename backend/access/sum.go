package access

import "hash/maphash"

// Sum is the same for equal accesses as long as this process lives, and hardly ever
// for others: it tells requests apart where nothing is kept of them.
func (a Access) Sum(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, set := range [...]Set{a.Scopes, a.Audiences, a.Resources} {
		mark(&h, 's', set.unbounded)
		for _, v := range set.values {
			word(&h, v)
		}
		for _, c := range set.clauses {
			mark(&h, 'c', false)
			for _, v := range c.literals {
				word(&h, v)
			}
			for _, g := range c.globs {
				word(&h, g.pattern)
			}
		}
	}
	mark(&h, 'p', a.Permissions.unbounded)
	for _, p := range a.Permissions.entries {
		word(&h, p.name)
		for _, level := range p.levels {
			word(&h, level)
		}
		mark(&h, '.', false)
	}
	mark(&h, 'd', a.Details.unbounded)
	for _, e := range a.Details.elements {
		word(&h, e.canon)
	}
	return h.Sum64()
}

// word adds a word that cannot run into the next one: none holds a NUL.
func word(h *maphash.Hash, v string) {
	_, _ = h.WriteString(v)
	_ = h.WriteByte(0)
}

func mark(h *maphash.Hash, what byte, unbounded bool) {
	_ = h.WriteByte(what)
	if unbounded {
		_ = h.WriteByte('*')
	}
	_ = h.WriteByte(0)
}
