package ending

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// leaveBudget bounds the last run on a mount, to which Vault gives 90 s.
const leaveBudget = 85 * time.Second

// MayEnd is what Vault is told of the end of a lease, of whose grant the kill has
// returned err. Where the mount is being disabled or moved an error stops that, and is
// what the operator sees; what a rollback answers then Vault ignores.
func (k *Killer) MayEnd(ctx context.Context, err error) error {
	if err == nil && (k.door.Busy() == 0 || !k.door.Leaving()) || !k.tainted() {
		return err
	}
	k.door.Close(false)
	if err != nil {
		return fault.New(fault.TemporarilyUnavailable, "the mount cannot be disabled or moved: %s", k.stillAlive(ctx)).Because(err)
	}
	if k.door.Busy() > 0 {
		return k.door.MintsUnderWay()
	}
	return nil
}

// Leave kills what lives before the mount and its records go, once no mint is
// under way that could bring more.
func (k *Killer) Leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveBudget)
	defer cancel()
	k.door.Close(false)
	run := k.killKillable(ctx, isNotOwn)
	empty := k.door.Drain(ctx, k.Drain)
	if err := k.outcome(ctx, run); err != nil {
		return err
	}
	if !empty {
		return k.door.MintsUnderWay()
	}
	// What the last mints have left behind is on record now.
	return k.killRest(ctx)
}

// killRest kills all that can be killed, the broker's own last: others are killed by them.
func (k *Killer) killRest(ctx context.Context) error {
	for _, whose := range []func(holder string) bool{isNotOwn, isOwn} {
		if rest, err := k.ledger.HoldersOf(ctx, killable); err == nil && len(rest) == 0 {
			return nil
		}
		if err := k.outcome(ctx, k.killKillable(ctx, whose)); err != nil {
			return err
		}
	}
	if k.door.Busy() > 0 { // with a token that was to kill
		return k.door.MintsUnderWay()
	}
	return nil
}

func isOwn(holder string) bool    { return holder == grant.OwnHolder }
func isNotOwn(holder string) bool { return holder != grant.OwnHolder }

// killKillable starts to kill all that can be killed of some holders.
func (k *Killer) killKillable(ctx context.Context, whose func(holder string) bool) *Run {
	return k.startWalk(ctx, walk{
		whole:    true,
		concerns: killable,
		holders: func(ctx context.Context) ([]string, error) {
			all, err := k.ledger.HoldersOf(ctx, killable)
			return slices.DeleteFunc(all, func(holder string) bool { return !whose(holder) }), err
		},
		matches: func(s *grant.Summary) string {
			if s.Revocable && !(s.IsIntent() && k.ledger.Holding(s.ID)) { // whose mint the door waits for
				return causeMountLeaves
			}
			return ""
		},
	})
}

// outcome waits for the run of a mount that is to go.
func (k *Killer) outcome(ctx context.Context, run *Run) error {
	t, complete := run.Wait(ctx, leaveBudget)
	switch {
	case complete && run.failed != nil:
		return LedgerFault(run.failed)
	case complete && t.Pending == 0:
		return nil
	}
	return fault.New(fault.TemporarilyUnavailable, "the mount cannot be disabled or moved: %s", k.stillAlive(ctx))
}

// End ends the engine: on a mount that goes for good, or because this process ends.
// Vault waits for it, and answers nobody else of this plugin meanwhile, so it waits no
// longer than the last mint of before the closing can take.
func (k *Killer) End(ctx context.Context) {
	k.door.Close(true)
	disabled, budget := k.tainted(), downstream.HaltBudget
	if disabled {
		budget = k.Drain
	}
	if !k.door.Drain(ctx, min(budget, k.Drain)) {
		k.logger().Error("tokens are still being minted: this process kills them as soon as they come, if it lives", "mints", k.door.Whereabouts())
	}
	// What is in memory only would be lost with this process.
	flushed := k.ledger.Flush(ctx)
	if !disabled {
		k.lastRecords(ctx)
	}
	if disabled {
		k.killLeftover(ctx)
		return
	}
	if flushed == nil {
		return
	}
	k.logger().Error("grants could not be recorded before the end: their tokens live until they expire", "error", flushed)
	for _, g := range k.ledger.Unwritten() {
		k.logAbandoned(&g)
	}
}

// recordsBudget is what the records of kills may take of an end.
const recordsBudget = 5 * time.Second

// lastRecords writes what was told of kills, and tells itself of what fails.
func (k *Killer) lastRecords(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, recordsBudget)
	defer cancel()
	_ = k.records.Flush(ctx)
}

// leftoverBudget bounds the kill of what nobody has waited for: tokens without a lease
// whose kill has failed, or on which Vault's last run never came.
const leftoverBudget = 15 * time.Second

// killLeftover is the last occasion to kill anything before the records go.
func (k *Killer) killLeftover(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leftoverBudget)
	defer cancel()
	err := k.killRest(ctx)
	if err == nil {
		return
	}
	k.logger().Error("the mount is given up, and not everything that it handed out is dead", "error", err)
	k.someAlive(ctx, k.ledger.HoldersSoFar(killable), maxAbandoned, k.logAbandoned)
}
