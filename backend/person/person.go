// Package person tells which identities are one human's: Vault entities, and the subjects
// that token issuers vouch for.
//
// What ties them together are an entity's id, an alias's name at an auth mount that an
// operator has named, and a value of entity metadata whose key an operator has named.
// Nothing else does: a name at a mount that nobody has named is a stranger's, and an empty
// value is nobody's. The package is pure: it asks nobody and stores nothing.
package person

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The kinds of ties.
const (
	KindEntity   = "entity"
	KindAlias    = "alias"
	KindMetadata = "metadata"
	KindSubject  = "subject"
)

// Tie is one thing by which an identity is told: two that share one are the same person's.
type Tie struct {
	Kind string `json:"kind"`
	// At is an alias's mount, by its accessor, a key of metadata, or a subject's issuer; ""
	// for an entity.
	At    string `json:"at,omitempty"`
	Value string `json:"value"`
}

// MaxValue bounds what ties: a longer value ties nobody. A subject's own name may be as long
// as a token's may.
const (
	MaxValue   = 512
	maxSubject = 2048
)

// Entity is the tie of an entity's own id.
func Entity(id string) Tie { return Tie{Kind: KindEntity, Value: id} }

// Subject is the tie of a subject's own name at an issuer.
func Subject(issuer, subject string) Tie { return Tie{Kind: KindSubject, At: issuer, Value: subject} }

// looksLikeEntityID is what Vault makes: a UUID, and outside the root namespace that
// namespace's id behind it.
var looksLikeEntityID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(\.[0-9A-Za-z]+)?$`)

// LooksLikeEntityID reports whether an id has the form of those that Vault makes.
func LooksLikeEntityID(id string) bool { return looksLikeEntityID.MatchString(id) }

// Ties reports whether the tie can tie anybody: a value that is empty or blank, or that
// nobody could read, would tie strangers.
func (t Tie) Ties() bool {
	most := MaxValue
	if t.Kind == KindSubject {
		most = maxSubject
	}
	return strings.TrimSpace(t.Value) != "" && len(t.Value) <= most && utf8.ValidString(t.Value) && !strings.ContainsFunc(t.Value, unicode.IsControl)
}

// String says in words what is shared.
func (t Tie) String() string {
	switch t.Kind {
	case KindAlias:
		return fmt.Sprintf("the alias name %q at the mount %s", t.Value, t.At)
	case KindMetadata:
		return fmt.Sprintf("the metadata %s=%q", t.At, t.Value)
	case KindSubject:
		return fmt.Sprintf("the subject %q of the issuer %s", t.Value, t.At)
	}
	return "the entity " + t.Value
}

// asOne is the tie as it is compared. Vault tells the names of aliases at a mount apart
// regardless of case, so "Alice" there is "alice".
func (t Tie) asOne() Tie {
	if t.Kind == KindAlias && utf8.ValidString(t.Value) {
		t.Value = strings.ToLower(t.Value)
	}
	return t
}

// Key is a short name of the tie: what is kept in memory of many.
func (t Tie) Key() (key [16]byte) {
	sum := sha256.Sum256([]byte(strconv.Itoa(len(t.Kind)) + ":" + t.Kind + strconv.Itoa(len(t.At)) + ":" + t.At + t.Value))
	copy(key[:], sum[:])
	return key
}

func compareTies(x, y Tie) int {
	return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.At, y.At), cmp.Compare(x.Value, y.Value))
}

// Clean sorts ties, each as it is compared, and leaves out what ties nobody and what is there
// twice.
func Clean(ties []Tie) []Tie {
	for i := range ties {
		ties[i] = ties[i].asOne()
	}
	ties = slices.DeleteFunc(ties, func(t Tie) bool { return !t.Ties() })
	if len(ties) == 0 {
		return nil
	}
	slices.SortFunc(ties, compareTies)
	return slices.Compact(ties)
}

// Alias is a name at an auth mount, by the mount's accessor.
type Alias struct{ Mount, Name string }

// Mapping is what operators have named, of all issuers together.
type Mapping struct {
	// Mounts are accessors of auth mounts, in groups: at the mounts of one group a name is
	// the same person's.
	Mounts [][]string
	// Keys are keys of entity metadata of which a value is one person's.
	Keys []string
}

// IsEmpty reports whether nothing ties entities to anybody.
func (m Mapping) IsEmpty() bool { return len(m.Mounts) == 0 && len(m.Keys) == 0 }

// Add takes in what another issuer says.
func (m *Mapping) Add(other Mapping) {
	m.Mounts = append(m.Mounts, other.Mounts...)
	for _, key := range other.Keys {
		if !slices.Contains(m.Keys, key) {
			m.Keys = append(m.Keys, key)
		}
	}
}

// Names reports whether an alias's mount or a key of metadata is named.
func (m Mapping) Names(t Tie) bool {
	switch t.Kind {
	case KindAlias:
		return slices.ContainsFunc(m.Mounts, func(mounts []string) bool { return slices.Contains(mounts, t.At) })
	case KindMetadata:
		return slices.Contains(m.Keys, t.At)
	}
	return true
}

// With is the mapping with more that is named.
func (m Mapping) With(mounts, keys []string) Mapping {
	if len(mounts) > 0 {
		m.Mounts = append(slices.Clone(m.Mounts), mounts)
	}
	m.Keys = append(slices.Clone(m.Keys), keys...)
	return m
}

// OfEntity is what ties an entity, beside its id.
func (m Mapping) OfEntity(aliases []Alias, metadata map[string]string) []Tie {
	var ties []Tie
	for _, mounts := range m.Mounts {
		for _, alias := range aliases {
			if slices.Contains(mounts, alias.Mount) {
				ties = append(ties, AtEach(mounts, alias.Name)...)
			}
		}
	}
	for _, key := range m.Keys {
		if value, ok := metadata[key]; ok {
			ties = append(ties, Tie{Kind: KindMetadata, At: key, Value: value})
		}
	}
	return Clean(ties)
}

// AtEach are the ties of a name that is one person's at each of the mounts.
func AtEach(mounts []string, name string) []Tie {
	var ties []Tie
	for _, mount := range mounts {
		ties = append(ties, Tie{Kind: KindAlias, At: mount, Value: name}.asOne())
	}
	return ties
}
