package grant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
)

// Party is one on whose word a grant rests: the subject on whose behalf it was made, or
// who acts in it.
type Party struct {
	// Issuer vouched for the party, by its name in issuers; "" for the entity that acts.
	Issuer string
	// Iss is what the party's token said of that; "" where the record does not tell.
	Iss string
	// ID is sub.
	ID string
}

// subject is on whose behalf the grant was made, with no ID if on nobody's.
func (g *Grant) subject() Party {
	iss, _ := g.Facts.SubjectClaims["iss"].(string)
	return Party{Issuer: g.SubjectIssuer, Iss: iss, ID: g.Subject}
}

// actor is who acts in it, with no ID if nobody does.
func (g *Grant) actor() Party {
	return Party{Issuer: g.ActorIssuer, Iss: g.ActorIss, ID: g.Actor}
}

// Named are those whom a subject token's claims name beside its sub, as far as they do: whom
// it is about by another issuer's word (sub_id, RFC 9493 3.2.4), which is how the broker's own
// child of an exchange says so, and who acts already (act, RFC 8693 4.1).
func Named(claims map[string]any) (named []Party) {
	if id, _ := claims["sub_id"].(map[string]any); id["format"] == "iss_sub" {
		named = append(named, partyIn(id, nil))
	}
	if act, acts := claims["act"].(map[string]any); acts {
		named = append(named, partyIn(act, claims["iss"]))
	}
	return slices.DeleteFunc(named, func(p Party) bool { return p.Iss == "" || p.ID == "" })
}

// partyIn is whom a claim names; iss is whose sub it is where it does not say so.
func partyIn(claim map[string]any, iss any) Party {
	if own, says := claim["iss"]; says {
		iss = own
	}
	p := Party{}
	p.Iss, _ = iss.(string)
	p.ID, _ = claim["sub"].(string)
	return p
}

// Parties are the subject and the actor, and those whom the subject's token named beside, as
// far as there are any.
func (s *Summary) Parties() []Party {
	parties := make([]Party, 0, 2+len(s.Beside))
	for _, p := range append([]Party{s.Subject, s.Actor}, s.Beside...) {
		if p.ID != "" {
			parties = append(parties, p)
		}
	}
	return parties
}

// Who has grants of a party is in memory by the party's id alone, and so is what a grant's
// own id tells of it: the issuer may be written again by another name, deleted, or be there
// by two names, and an identifier that two issuers use costs a few records that are read in
// vain. The record says which party it is.

// parties are who has grants of which party, by a digest of its id: two that have the same
// cost what two issuers' with the same id cost.
type parties struct {
	seed maphash.Seed
	of   map[uint64]having
}

// having is how many grants of a party each holder has. Most parties have one holder.
type having struct {
	first *holding
	n     int
	more  map[*holding]int
}

func newParties() parties { return parties{seed: maphash.MakeSeed(), of: map[uint64]having{}} }

// ids are those of the grant's parties, each once.
func (s *Summary) ids() []string {
	ids := make([]string, 0, 2)
	for _, p := range s.Parties() {
		if !slices.Contains(ids, p.ID) {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// add counts n grants more of what the holder has of the grant's parties. The caller holds
// the index's mu.
func (v *parties) add(s *Summary, holder *holding, n int) {
	for _, id := range s.ids() {
		key := maphash.String(v.seed, id)
		if has := v.of[key].with(holder, n); has.first == nil {
			delete(v.of, key)
		} else {
			v.of[key] = has
		}
	}
}

// with is how it is with n grants more of a holder.
func (h having) with(holder *holding, n int) having {
	switch h.first {
	case nil:
		h.first, h.n = holder, n
	case holder:
		h.n += n
	default:
		if h.more == nil {
			h.more = map[*holding]int{}
		}
		if h.more[holder] += n; h.more[holder] <= 0 {
			delete(h.more, holder)
		}
	}
	if h.n > 0 {
		return h
	}
	h.first = nil
	for next, n := range h.more {
		h.first, h.n = next, n
		delete(h.more, next)
		break
	}
	return h
}

// HoldersWith lists, ordered, who may have grants of a party with this id, as the subject
// or as the actor, once every record has been read.
func (l *Ledger) HoldersWith(ctx context.Context, party string) ([]string, error) {
	if err := l.Load(ctx); err != nil {
		return nil, err
	}
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	has, ok := x.parties.of[maphash.String(x.parties.seed, party)]
	if !ok {
		return nil, nil
	}
	holders := []string{has.first.name}
	for holder := range maps.Keys(has.more) {
		holders = append(holders, holder.name)
	}
	slices.Sort(holders)
	return holders, nil
}

// WalkWith is Walk among those of the holder's grants that have a party with this id. It
// reads no record of another grant, but for the few whose ids look like it and for those
// whose ids say nothing, which builds of before have made.
func (l *Ledger) WalkWith(ctx context.Context, holder, party, after string, visit func(*Summary) bool) error {
	return l.walk(ctx, holder, after, func(id string) bool { return mayHave(id, party) }, func(s *Summary) bool {
		return !slices.Contains(s.ids(), party) || visit(s)
	})
}

// A grant's id ends with what finds it among very many of its holder's: partyMark, and for
// each of its parties a few digits of a digest. The random part before it goes into that, so
// that two ids of one party have nothing in common for who does not know the party, and so
// few digits say little to who guesses.
const (
	partyMark   = "s" // no digit looks like it
	partyDigits = 4
	randomPart  = 32
)

// NewIDFor is NewID for a grant of which the ids of the parties are known: there are no
// others.
func NewIDFor(holder string, parties ...string) (string, error) {
	id, err := NewID(holder)
	if err != nil {
		return "", err
	}
	return id + told(id[strings.LastIndexByte(id, '.')+1:], parties), nil
}

// told is what stands behind the random part.
func told(random string, parties []string) string {
	text := partyMark
	for i, party := range parties {
		if party != "" && !slices.Contains(parties[:i], party) {
			text += partyDigest(random, party)
		}
	}
	return text
}

func partyDigest(random, party string) string {
	sum := sha256.Sum256([]byte(random + party))
	return hex.EncodeToString(sum[:])[:partyDigits]
}

// mayHave is false for the id of a grant that surely has no party with this id.
func mayHave(id, party string) bool {
	random, told, marked := strings.Cut(id[strings.LastIndexByte(id, '.')+1:], partyMark)
	if !marked || len(random) < randomPart || len(told)%partyDigits != 0 {
		return true
	}
	for digest := partyDigest(random, party); told != ""; told = told[partyDigits:] {
		if told[:partyDigits] == digest {
			return true
		}
	}
	return false
}
