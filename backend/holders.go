package backend

import (
	"context"
	"errors"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
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
func (b *broker) sweepHolders(ctx context.Context, afresh bool, slice time.Duration) (found []unfit, checked int, err error) {
	// One slice at a time. The periodic one does not wait for a manual one, which
	// does its work; no provider is called here.
	if afresh {
		b.holders.mu.Lock()
	} else if !b.holders.mu.TryLock() {
		return nil, 0, nil
	}
	defer b.holders.mu.Unlock()
	if afresh {
		b.holders.after = ""
	}
	if afresh {
		if err := b.ledger.Load(ctx); err != nil {
			return nil, 0, ledgerFault(err)
		}
	}
	all := b.ledger.HoldersSoFar(killable)
	deadline := time.Now().Add(slice)
	next := sort.Search(len(all), func(i int) bool { return all[i] > b.holders.after })
	var seen looks
	for _, holder := range all[next:] {
		// At least one each time, or a slow machine would never come to the end.
		if checked > 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			break
		}
		found = append(found, b.judgeHolder(ctx, holder, b.ledger.Counts(holder), &seen)...)
		checked++
		b.holders.after = holder
	}
	if next+checked >= len(all) {
		b.holders.after = ""
	}
	confirmed, err := b.confirm(ctx, seen, all, afresh)
	strangers := map[string]bool{}
	for _, holder := range seen.unknown {
		strangers[holder] = true
	}
	return slices.DeleteFunc(found, func(u unfit) bool { return strangers[u.Holder] && !confirmed[u.Holder] }), checked, err
}

// judgeHolder returns what the holder should not have any more, and why, and notes
// whether Vault knows it.
func (b *broker) judgeHolder(ctx context.Context, holder string, counts []grant.Count, seen *looks) (found []unfit) {
	// Of the others nothing can be done, or the outbox does it.
	counts = slices.DeleteFunc(counts, func(c grant.Count) bool { return c.Revocable <= c.Outbox })
	if len(counts) == 0 {
		return nil
	}
	names := make([]string, 0, len(counts))
	for _, c := range counts {
		names = append(names, c.Role)
	}
	cause, known, err := b.standing(ctx, holder, names)
	if err != nil {
		b.Logger().Warn("Vault could not say who a holder is: judged again next time", "entity_id", holder, "error", err)
		seen.unsaid = append(seen.unsaid, holder)
		return nil
	}
	if known {
		seen.known = append(seen.known, holder)
	} else {
		seen.unknown = append(seen.unknown, holder)
	}
	for _, c := range counts {
		why := cause(c.Role)
		if u := (unfit{Holder: holder, Role: c.Role, cause: why}); why != "" && !slices.Contains(found, u) {
			found = append(found, u)
		}
	}
	return found
}

// standing asks Vault who the holder is now, and returns why the holder should not
// have grants of a role, one of those that are named, any more; "" if it may. An
// error while asking is neither. known is false if Vault knows of nobody by that id.
func (b *broker) standing(ctx context.Context, holder string, names []string) (cause func(role string) string, known bool, err error) {
	roles, want, deleted := b.rolesOf(ctx, names)
	caller, where, err := b.find(entityOf(holder), want)
	if err != nil {
		return nil, false, err
	}
	gone := where != present
	unmet := map[string]bool{}
	for name, role := range roles {
		unmet[name] = len(role.policy.CheckStanding(decision.Situation{Now: b.now(), Caller: caller})) > 0
	}
	return func(role string) string {
		switch {
		case gone:
			return causeHolderGone
		case caller.Disabled:
			return causeHolderDisabled
		case deleted[role]:
			return causeRoleDeleted
		case unmet[role]:
			return causeHolderUnfit
		}
		return ""
	}, where != unknown, nil
}

// rolesOf are the roles that can be judged, and those that are
// gone for certain. A role that could not be read is neither.
func (b *broker) rolesOf(ctx context.Context, names []string) (roles map[string]*compiledRole, want knowledge, deleted map[string]bool) {
	roles, want, deleted = map[string]*compiledRole{}, knownEntity, map[string]bool{}
	for _, name := range names {
		if name == "" || roles[name] != nil || deleted[name] {
			continue
		}
		role, err := b.role(ctx, name)
		switch {
		case err == nil:
			roles[name] = role
			want = max(want, role.judgedBy())
		case errors.Is(err, errNoRole):
			deleted[name] = true
		}
	}
	return roles, want, deleted
}
