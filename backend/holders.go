package backend

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// holderCursor is where the next slice of holders begins: core holds its state
// lock while the periodic function runs, so one run judges only so many.
type holderCursor struct {
	mu    sync.Mutex
	after string

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
// holder. An error while asking kills nobody: the holder is judged next time.
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
	for _, holder := range all[next:] {
		// At least one each time, or a slow machine would never come to the end.
		if checked > 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			return found, checked, nil
		}
		found = append(found, b.judgeHolder(ctx, holder, b.ledger.Counts(holder))...)
		checked++
		b.holders.after = holder
	}
	b.holders.after = ""
	return found, checked, nil
}

// judgeHolder returns what the holder should not have any more, and why.
func (b *broker) judgeHolder(ctx context.Context, holder string, counts []grant.Count) (found []unfit) {
	// Of the others nothing can be done, or the outbox does it.
	counts = slices.DeleteFunc(counts, func(c grant.Count) bool { return c.Revocable <= c.Outbox })
	if len(counts) == 0 {
		return nil
	}
	roles, needsGroups, deleted := b.rolesOf(ctx, counts)
	caller, gone, err := b.identify(entityOf(holder), needsGroups)
	if err != nil {
		b.Logger().Warn("Vault could not say who a holder is: judged again next time", "entity_id", holder, "error", err)
		return nil
	}
	verdicts := map[string]string{}
	for name, role := range roles {
		if reasons := role.policy.CheckStanding(decision.Situation{Now: b.now(), Caller: caller}); len(reasons) > 0 {
			verdicts[name] = causeHolderUnfit
		}
	}
	for _, c := range counts {
		cause := verdicts[c.Role]
		switch {
		case gone:
			cause = causeHolderGone
		case caller.Disabled:
			cause = causeHolderDisabled
		case deleted[c.Role]:
			cause = causeRoleDeleted
		}
		if u := (unfit{Holder: holder, Role: c.Role, cause: cause}); cause != "" && !slices.Contains(found, u) {
			found = append(found, u)
		}
	}
	return found
}

// rolesOf are the roles of the counts that can be judged, and those that are
// gone for certain. A role that could not be read is neither.
func (b *broker) rolesOf(ctx context.Context, counts []grant.Count) (roles map[string]*compiledRole, needsGroups bool, deleted map[string]bool) {
	roles, deleted = map[string]*compiledRole{}, map[string]bool{}
	for _, c := range counts {
		if c.Role == "" || roles[c.Role] != nil || deleted[c.Role] {
			continue
		}
		role, err := b.role(ctx, c.Role)
		switch {
		case err == nil:
			roles[c.Role] = role
			needsGroups = needsGroups || role.policy.NeedsGroups()
		case fault.CodeOf(err) == fault.InvalidRequest:
			deleted[c.Role] = true
		}
	}
	return roles, needsGroups, deleted
}
