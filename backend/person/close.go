package person

import "slices"

const (
	// MostIdentities is how many identities are taken for one person.
	MostIdentities = 100
	// MostSharing is how many may share a tie that was come upon and is followed: what
	// more have in common, such as an employee number of 0, is no person's.
	MostSharing = 20
)

// Known is what is known of identities, each of which is a tie itself: an entity's id, or a
// subject at its issuer.
type Known interface {
	// Sharing returns the identities that have a tie, at most limit of them, in any order.
	Sharing(tie Tie, limit int) ([]Tie, error)
	// TiesOf returns what ties an identity, beside itself.
	TiesOf(identity Tie) ([]Tie, error)
}

// Identity is one entity or subject that was taken for the person's.
type Identity struct {
	Tie Tie
	// Why is what it has in common with From, who was found before it. Without a From
	// it has what was asked for.
	Why, From Tie
}

// Person is what was taken for one.
type Person struct {
	// Identities are in the order in which they were found, the nearest first.
	Identities []Identity
	// Ties are all that tie them, the identities themselves among them.
	Ties []Tie
	// Common are ties that were not followed, because too many have them: none is an entity.
	Common []Tie
	// Cut is true if there were more than MostIdentities.
	Cut bool
}

// Close finds who is one person: whoever has a tie of those to begin with, and whoever
// shares one with somebody who was found, and so on.
func Close(begin []Tie, known Known) (Person, error) {
	c := closing{known: known, seen: map[Tie]bool{}, found: map[Tie]bool{}}
	for _, tie := range Clean(slices.Clone(begin)) {
		c.queue = append(c.queue, step{tie: tie})
	}
	for len(c.queue) > 0 {
		at := c.queue[0]
		c.queue = c.queue[1:]
		if c.seen[at.tie] {
			continue
		}
		c.seen[at.tie] = true
		if err := c.follow(at); err != nil {
			return Person{}, err
		}
	}
	return c.Person, nil
}

// closing is one Close under way.
type closing struct {
	Person
	known Known
	queue []step
	seen  map[Tie]bool // ties that were followed
	found map[Tie]bool // identities
}

// step is a tie to follow, and of whose it is; nobody's if it was asked for.
type step struct{ tie, from Tie }

// follow takes in whoever has the tie.
func (c *closing) follow(at step) error {
	if at.tie.Kind == KindEntity || at.tie.Kind == KindSubject {
		// Whether or not anybody has heard of it.
		if err := c.add(at.tie, at); err != nil {
			return err
		}
	}
	limit, itself := MostSharing, at.tie.Kind == KindEntity // whoever names an entity says so itself
	if at.from == (Tie{}) || itself {
		limit = MostIdentities
	}
	sharing, err := c.known.Sharing(at.tie, limit+1)
	if err != nil {
		return err
	}
	if len(sharing) > limit && !itself {
		c.Common = append(c.Common, at.tie)
		return nil
	}
	c.Ties = append(c.Ties, at.tie)
	slices.SortFunc(sharing, compareTies)
	for _, identity := range sharing {
		if err := c.add(identity, at); err != nil {
			return err
		}
	}
	return nil
}

func (c *closing) add(identity Tie, by step) error {
	if c.found[identity] {
		return nil
	}
	if len(c.Identities) == MostIdentities {
		c.Cut = true
		return nil
	}
	c.found[identity] = true
	c.Identities = append(c.Identities, Identity{Tie: identity, Why: by.tie, From: by.from})
	ties, err := c.known.TiesOf(identity)
	if err != nil {
		return err
	}
	c.queue = append(c.queue, step{tie: identity, from: identity})
	for _, tie := range Clean(ties) {
		c.queue = append(c.queue, step{tie: tie, from: identity})
	}
	return nil
}
