package ending

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// holderCursor is where the next slice of holders begins: core holds its state
// lock while the periodic function runs, so one run judges only so many.
type holderCursor struct {
	mu    sync.Mutex
	after string
	// unknown are those whom Vault does not know.
	unknown firstLooks

	// being are those whose kill has not read all their records yet.
	beingMu sync.Mutex
	being   map[unfit]bool
}

// unfit is a holder who should not have a role's grants any more, and why.
type unfit struct {
	Holder, Role string
	cause        string
}

// take returns those of the unfit whose kill has yet to begin.
func (c *holderCursor) take(found []unfit) (rest []unfit) {
	c.beingMu.Lock()
	defer c.beingMu.Unlock()
	if c.being == nil {
		c.being = map[unfit]bool{}
	}
	for _, u := range found {
		if !c.being[u] {
			c.being[u] = true
			rest = append(rest, u)
		}
	}
	return rest
}

// release ends the turn of a kill.
func (c *holderCursor) release(unfits []unfit) {
	c.beingMu.Lock()
	defer c.beingMu.Unlock()
	for _, u := range unfits {
		delete(c.being, u)
	}
}

// sweepHolders judges holders until it has seen all of them or the slice is
// over, and returns those who are unfit. It reads no record. afresh begins with the first holder
// instead of where the last slice ended. Vault is asked once or twice per
// holder. An error while asking kills nobody: the holder is judged next time. Where Vault
// does not know many of them, it is asked again by a later slice (see confirm).
func (k *Killer) sweepHolders(ctx context.Context, afresh bool, slice time.Duration) (found []unfit, checked int, err error) {
	// One slice at a time. The periodic one does not wait for a manual one, which
	// does its work; no provider is called here.
	if afresh {
		k.holders.mu.Lock()
	} else if !k.holders.mu.TryLock() {
		return nil, 0, nil
	}
	defer k.holders.mu.Unlock()
	if afresh {
		k.holders.after = ""
	}
	if afresh {
		if err := k.ledger.Load(ctx); err != nil {
			return nil, 0, LedgerFault(err)
		}
	}
	all := k.ledger.HoldersSoFar(killable)
	deadline := time.Now().Add(slice)
	next := sort.Search(len(all), func(i int) bool { return all[i] > k.holders.after })
	var seen looks
	for _, holder := range all[next:] {
		// At least one each time, or a slow machine would never come to the end.
		if checked > 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			break
		}
		found = append(found, k.judgeHolder(ctx, holder, k.ledger.Counts(holder), &seen)...)
		checked++
		k.holders.after = holder
	}
	if next+checked >= len(all) {
		k.holders.after = ""
	}
	confirmed, err := k.confirm(ctx, seen, all, afresh)
	strangers := map[string]bool{}
	for _, holder := range seen.unknown {
		strangers[holder] = true
	}
	return slices.DeleteFunc(found, func(u unfit) bool { return strangers[u.Holder] && !confirmed[u.Holder] }), checked, err
}

// Standing is what Vault and the roles say of a holder now.
type Standing struct {
	// Known is that Vault knows of somebody by that id, Gone that it is nobody's own:
	// its entity was deleted, or merged into another.
	Known, Gone, Disabled bool
	// Deleted are the roles that are gone, Unfit those that would not have the holder
	// any more.
	Deleted, Unfit map[string]bool
}

// cause is why the holder should not have grants of a role any more; "" if it may.
func (s Standing) cause(role string) string {
	switch {
	case s.Gone:
		return causeHolderGone
	case s.Disabled:
		return causeHolderDisabled
	case s.Deleted[role]:
		return causeRoleDeleted
	case s.Unfit[role]:
		return causeHolderUnfit
	}
	return ""
}

// NextAfter is the holder after whom the next slice of the periodic sweep goes on to judge;
// "" if it begins anew.
func (k *Killer) NextAfter() string {
	k.holders.mu.Lock()
	defer k.holders.mu.Unlock()
	return k.holders.after
}

// judgeHolder returns what the holder should not have any more, and why, and notes
// whether Vault knows it.
func (k *Killer) judgeHolder(ctx context.Context, holder string, counts []grant.Count, seen *looks) (found []unfit) {
	// Of the others nothing can be done, or the outbox does it.
	counts = slices.DeleteFunc(counts, func(c grant.Count) bool { return c.Revocable <= c.Outbox })
	if len(counts) == 0 {
		return nil
	}
	names := make([]string, 0, len(counts))
	for _, c := range counts {
		names = append(names, c.Role)
	}
	stands, err := k.standing(ctx, holder, names)
	if err != nil {
		k.logger().Warn("Vault could not say who a holder is: judged again next time", "entity_id", holder, "error", err)
		seen.unsaid = append(seen.unsaid, holder)
		return nil
	}
	if stands.Known {
		seen.known = append(seen.known, holder)
	} else {
		seen.unknown = append(seen.unknown, holder)
	}
	for _, c := range counts {
		why := stands.cause(c.Role)
		if u := (unfit{Holder: holder, Role: c.Role, cause: why}); why != "" && !slices.Contains(found, u) {
			found = append(found, u)
		}
	}
	return found
}
