package grant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// Clue is something of a grant of which the grant's own id tells to who knows what to ask
// for: the grants that have it are found among millions by their ids, which storage lists,
// and without reading the others' records. The zero value is no clue: all grants have it.
type Clue struct {
	kind clueKind
	name string
}

type clueKind string

const (
	clueRole     clueKind = "\x00role/"
	clueProvider clueKind = "\x00provider/"
	clueIssuer   clueKind = "\x00issuer/"
	clueParty    clueKind = "" // as builds of before digested it
)

// OfRole is what the grants of a role have.
func OfRole(name string) Clue { return Clue{clueRole, name} }

// OfProvider is what the grants of a provider have, by its path.
func OfProvider(ref string) Clue { return Clue{clueProvider, ref} }

// OfIssuer is what the grants have whose subject or actor an issuer of that name has vouched
// for.
func OfIssuer(name string) Clue { return Clue{clueIssuer, name} }

// OfParty is what the grants have that rest on the word of somebody with that id: the
// subject, the actor, or whom the subject's token named beside.
func OfParty(id string) Clue { return Clue{clueParty, id} }

// IsOf reports whether a grant has it.
func (c Clue) IsOf(s *Summary) bool {
	switch {
	case c == Clue{}:
		return true
	case c.kind == clueRole:
		return s.Role == c.name
	case c.kind == clueProvider:
		return s.Provider == c.name
	case c.kind == clueIssuer:
		return s.Subject.Issuer == c.name || s.Actor.Issuer == c.name
	}
	return slices.Contains(s.ids(), c.name)
}

// Told is what a new grant's id tells of it: all of it is true of the grant's record as long
// as there is one, or a kill would pass the grant over.
type Told struct {
	Role, Provider string
	Parties        []Party
}

// A grant's id ends with what tells of it: toldMark, and a few digits of a digest for the
// role, for the provider, and then for each of its parties and of their issuers. The random
// part before it goes into each digest, so that the ids of two grants of one subject have
// nothing in common for who does not know the subject, and so few digits say little to who
// guesses. Of n grants that do not have what is looked for n/65,536 look like it, and cost a
// read each.
//
// The ids of builds of before end with partyMark and the digits of the parties alone, or with
// nothing; whoever makes them end otherwise once more takes another mark. They are read
// where they do not tell, until their tokens have ended.
const (
	toldMark   = "t" // no digit looks like it
	partyMark  = "s"
	toldDigits = 4
	randomPart = 32
)

// NewID makes the id of a grant to an entity ("" is NoHolder). No entity may be NoHolder or
// OwnHolder, about whom the sweep never asks.
func (l *Ledger) NewID(entity string, of Told) (string, error) {
	holder, err := holderOf(entity)
	if err != nil {
		return "", err
	}
	return l.newID(holder, of)
}

// NewOwnID makes the id of a grant of the broker's own.
func (l *Ledger) NewOwnID(of Told) (string, error) { return l.newID(OwnHolder, of) }

func (l *Ledger) newID(holder string, of Told) (string, error) {
	return NewIDBeside(holder, l.live(holder), of)
}

// NewIDBeside makes the id of a grant to a holder who has so many others: while these are
// few they lie in one shard, so that who looks for a clue lists two folders for the holder
// and not seventeen.
func NewIDBeside(holder string, others int, of Told) (string, error) {
	random, err := newRandom(holder)
	if err != nil {
		return "", err
	}
	if others < fewGrants {
		at := len(random) - randomPart
		random = random[:at] + "0" + random[at+1:]
	}
	return holder + "." + random + of.text(random), nil
}

// fewGrants is how many grants of a holder need no shards.
const fewGrants = 256

// live is how many grants the holder has; very many before that is known.
func (l *Ledger) live(holder string) (n int) {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.scanned {
		return fewGrants
	}
	for _, c := range x.countsOf(holder) {
		n += c.Live
	}
	return n
}

// text is what stands behind the random part.
func (t Told) text(random string) string {
	text := append(make([]byte, 0, 1+6*toldDigits), toldMark...)
	text = OfProvider(t.Provider).digest(OfRole(t.Role).digest(text, random), random)
	for i, p := range t.Parties {
		before := t.Parties[:i]
		if p.ID != "" && !slices.ContainsFunc(before, func(q Party) bool { return q.ID == p.ID }) {
			text = OfParty(p.ID).digest(text, random)
		}
		if p.Issuer != "" && !slices.ContainsFunc(before, func(q Party) bool { return q.Issuer == p.Issuer }) {
			text = OfIssuer(p.Issuer).digest(text, random)
		}
	}
	return string(text)
}

// digest appends the clue's digits.
func (c Clue) digest(to []byte, random string) []byte {
	sum := sha256.Sum256([]byte(random + string(c.kind) + c.name))
	return hex.AppendEncode(to, sum[:toldDigits/2])
}

// mayBeOf is false for the id of a grant that surely does not have the clue.
func (c Clue) mayBeOf(id string) bool {
	tail := id[strings.LastIndexByte(id, '.')+1:]
	if random, digits, ok := cutTold(tail, toldMark); ok && len(digits) >= 2*toldDigits {
		switch c.kind {
		case clueRole:
			return c.in(random, digits[:toldDigits])
		case clueProvider:
			return c.in(random, digits[toldDigits:2*toldDigits])
		}
		return c.in(random, digits[2*toldDigits:])
	}
	if random, digits, ok := cutTold(tail, partyMark); ok && c.kind == clueParty {
		return c.in(random, digits)
	}
	return true
}

// cutTold takes apart what stands behind the holder; false if it has not that mark.
func cutTold(tail, mark string) (random, digits string, ok bool) {
	random, digits, marked := strings.Cut(tail, mark)
	return random, digits, marked && len(random) >= randomPart && len(digits)%toldDigits == 0
}

// in reports whether the clue's digits are among those.
func (c Clue) in(random, digits string) bool {
	if c == (Clue{}) {
		return true
	}
	mine := string(c.digest(nil, random))
	for ; digits != ""; digits = digits[toldDigits:] {
		if digits[:toldDigits] == mine {
			return true
		}
	}
	return false
}

// WalkWith is Walk among those of the holder's grants that have a clue. It reads no record
// of another grant, but for the few whose ids look like it and for those whose ids do not
// tell, which builds of before have made.
func (l *Ledger) WalkWith(ctx context.Context, holder string, of Clue, after string, visit func(*Summary) bool) error {
	shards := ^uint32(0)
	if of.kind == clueParty && of.name != "" {
		shards = l.current().shards(holder, of.name)
	}
	such := selected{
		unit: func(at address) bool { return shards&shardBit(at) != 0 },
		id:   of.mayBeOf,
	}
	return l.walk(ctx, holder, after, such, func(s *Summary) bool { return !of.IsOf(s) || visit(s) })
}
