package backend

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// holderCursor is where the next slice of holders begins: core holds its state
// lock while the periodic function runs, so one run judges only so many.
type holderCursor struct {
	mu    sync.Mutex
	after string
}

// unfit is a grant whose holder should not have it any more.
type unfit struct {
	grantSummary
	cause string
}

// sweepHolders judges holders until it has seen all of them or the slice is
// over, and returns the grants that must die. afresh begins with the first holder
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
	all, err := b.ledger.Holders(ctx)
	if err != nil {
		return nil, 0, storageFault(err)
	}
	deadline := time.Now().Add(slice)
	next := sort.Search(len(all), func(i int) bool { return all[i] > b.holders.after })
	for _, holder := range all[next:] {
		// At least one each time, or a slow machine would never come to the end.
		if checked > 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			return found, checked, nil
		}
		grants, err := b.ledger.OfHolder(ctx, holder)
		if err != nil {
			return found, checked, storageFault(err)
		}
		found = append(found, b.judgeHolder(ctx, holder, grants)...)
		checked++
		b.holders.after = holder
	}
	b.holders.after = ""
	return found, checked, nil
}

// judgeHolder returns the grants of one holder that must die, and why.
func (b *broker) judgeHolder(ctx context.Context, holder string, grants []grantSummary) (found []unfit) {
	cause, err := b.standing(ctx, holder, grants)
	if err != nil {
		b.Logger().Warn("Vault could not say who a holder is: judged again next time", "entity_id", holder, "error", err)
		return nil
	}
	for _, s := range grants {
		if !s.Revocable || s.Doomed {
			continue // nothing can be done, or the outbox does it
		}
		if why := cause(s); why != "" {
			found = append(found, unfit{grantSummary: s, cause: why})
		}
	}
	return found
}

// standing asks Vault who the holder is now, and returns why each of these grants
// of the holder's should not be held any more; "" if it may be. An error while
// asking is neither.
func (b *broker) standing(ctx context.Context, holder string, grants []grantSummary) (cause func(grantSummary) string, err error) {
	roles, needsGroups, deleted := b.rolesOf(ctx, grants)
	caller, gone, err := b.identify(entityOf(holder), needsGroups)
	if err != nil {
		return nil, err
	}
	unmet := map[string]bool{}
	for name, role := range roles {
		unmet[name] = len(role.policy.CheckStanding(decision.Situation{Now: b.now(), Caller: caller})) > 0
	}
	return func(s grantSummary) string {
		switch {
		case gone:
			return causeHolderGone
		case caller.Disabled:
			return causeHolderDisabled
		case deleted[s.Role]:
			return causeRoleDeleted
		case unmet[s.Role]:
			return causeHolderUnfit
		}
		return ""
	}, nil
}

// rolesOf are the roles of the grants that can be judged, and those that are
// gone for certain. A role that could not be read is neither.
func (b *broker) rolesOf(ctx context.Context, grants []grantSummary) (roles map[string]*compiledRole, needsGroups bool, deleted map[string]bool) {
	roles, deleted = map[string]*compiledRole{}, map[string]bool{}
	for _, s := range grants {
		if s.Role == "" || roles[s.Role] != nil || deleted[s.Role] {
			continue
		}
		role, err := b.role(ctx, s.Role)
		switch {
		case err == nil:
			roles[s.Role] = role
			needsGroups = needsGroups || role.policy.NeedsGroups()
		case fault.CodeOf(err) == fault.InvalidRequest:
			deleted[s.Role] = true
		}
	}
	return roles, needsGroups, deleted
}
