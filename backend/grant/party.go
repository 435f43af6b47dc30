package grant

import (
	"context"
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

// having is what each holder has of a party's grants. Most parties have one holder.
type having struct {
	first *holding
	part
	more map[*holding]part
}

// part is how many grants of a party a holder has, and in which of its shards one was when
// it came: a bit for each digit, and one for what has no such shard.
type part struct {
	n      int32
	shards uint32
}

const otherShards = 1 << 16

// shardBit is the bit of a shard.
func shardBit(at address) uint32 {
	if at.early || at.shard == noShard || at.shard == "" {
		return otherShards
	}
	if digit := strings.IndexByte("0123456789abcdef", at.shard[len(at.shard)-1]); digit >= 0 {
		return 1 << digit
	}
	return otherShards
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
func (v *parties) add(s *Summary, holder *holding, n int32) {
	at, _ := addressOf(s.ID)
	for _, id := range s.ids() {
		key := maphash.String(v.seed, id)
		if has := v.of[key].with(holder, part{n, shardBit(at)}); has.first == nil {
			delete(v.of, key)
		} else {
			v.of[key] = has
		}
	}
}

// with is how it is with so many grants more of a holder.
func (h having) with(holder *holding, more part) having {
	switch h.first {
	case nil:
		h.first, h.part = holder, more
	case holder:
		h.n, h.shards = h.n+more.n, h.shards|more.shards
	default:
		if h.more == nil {
			h.more = map[*holding]part{}
		}
		has := h.more[holder]
		if has = (part{has.n + more.n, has.shards | more.shards}); has.n > 0 {
			h.more[holder] = has
		} else {
			delete(h.more, holder)
		}
	}
	if h.n > 0 {
		return h
	}
	h.first = nil
	for next, has := range h.more {
		h.first, h.part = next, has
		delete(h.more, next)
		break
	}
	return h
}

// shards are those in which a holder may have grants of a party: all while not every record
// has been read.
func (x *index) shards(holder, party string) uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.scanned {
		return ^uint32(0)
	}
	has, who := x.parties.of[maphash.String(x.parties.seed, party)], x.holders[holder]
	if has.first == who {
		return has.shards
	}
	return has.more[who].shards
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
