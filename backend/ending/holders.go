package ending

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// cursor is where the next slice of holders begins: core holds its state lock while the
// periodic function runs, so one run judges only so many.
type cursor struct {
	mu    sync.Mutex
	after string
}

// sweepHolders judges holders until it has seen all of them or the slice is over, and
// returns those who are unfit. It reads no record. afresh begins with the first holder
// instead of where the last slice ended. Vault is asked once or twice per holder. An error
// while asking kills nobody: the holder is judged next time. Where Vault does not know many
// of them, a later slice asks again (see confirm).
func (k *Killer) sweepHolders(ctx context.Context, afresh bool, slice time.Duration) (found []unfit, checked int, err error) {
	// One slice at a time. The periodic one does not wait for a manual one, which
	// does its work; no provider is called here.
	if afresh {
		k.judged.mu.Lock()
	} else if !k.judged.mu.TryLock() {
		return nil, 0, nil
	}
	defer k.judged.mu.Unlock()
	if afresh {
		k.judged.after = ""
		if err := k.ledger.Load(ctx); err != nil {
			return nil, 0, LedgerFault(err)
		}
	}
	all := k.ledger.HoldersSoFar(killable)
	deadline := time.Now().Add(slice)
	next := sort.Search(len(all), func(i int) bool { return all[i] > k.judged.after })
	var seen looks
	for _, holder := range all[next:] {
		// At least one each time, or a slow machine would never come to the end.
		if checked > 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			break
		}
		found = append(found, k.judgeHolder(ctx, holder, k.ledger.Counts(holder), &seen)...)
		checked++
		k.judged.after = holder
	}
	if next+checked >= len(all) {
		k.judged.after = ""
	}
	confirmed, err := k.confirm(ctx, seen, all, afresh)
	strangers := map[string]bool{}
	for _, holder := range seen.unknown {
		strangers[holder] = true
	}
	return slices.DeleteFunc(found, func(u unfit) bool { return strangers[u.Holder] && !confirmed[u.Holder] }), checked, err
}

// NextAfter is the holder after whom the next slice of the periodic sweep goes on to judge;
// "" if it begins anew.
func (k *Killer) NextAfter() string {
	k.judged.mu.Lock()
	defer k.judged.mu.Unlock()
	return k.judged.after
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
