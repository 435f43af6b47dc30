package ending

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
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
	run := k.startKill(ctx, k.allKillable().feed)
	empty := k.door.Drain(ctx, k.Drain)
	if err := k.outcome(ctx, run); err != nil {
		return err
	}
	if !empty {
		return k.door.MintsUnderWay()
	}
	// What the last mints have left behind is on record now.
	if rest, err := k.ledger.HoldersOf(ctx, killable); err == nil && len(rest) == 0 {
		return nil
	}
	return k.outcome(ctx, k.startKill(ctx, k.allKillable().feed))
}

func (k *Killer) allKillable() walk {
	return walk{
		ledger:   k.ledger,
		whole:    true,
		concerns: killable,
		holders:  func(ctx context.Context) ([]string, error) { return k.ledger.HoldersOf(ctx, killable) },
		matches: func(s *grantSummary) string {
			if s.Revocable {
				return causeMountDisabled
			}
			return ""
		},
	}
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

// leftoverBudget bounds the kill of what nobody has waited for: tokens without a lease
// whose kill has failed, or on which Vault's last run never came.
const leftoverBudget = 15 * time.Second

// killLeftover is the last occasion to kill anything before the records go.
func (k *Killer) killLeftover(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leftoverBudget)
	defer cancel()
	rest, err := k.ledger.HoldersOf(ctx, killable)
	if err == nil && len(rest) > 0 {
		err = k.outcome(ctx, k.startKill(ctx, k.allKillable().feed))
	}
	if err == nil {
		return
	}
	k.logger().Error("the mount is given up, and not everything that it handed out is dead", "error", err)
	logged := 0
	for _, holder := range k.ledger.HoldersSoFar(killable) {
		err := k.ledger.Walk(ctx, holder, "", func(s *grantSummary) bool {
			if s.Revocable {
				k.logAbandoned(s)
				logged++
			}
			return logged < maxAbandoned
		})
		if err != nil || logged == maxAbandoned {
			return
		}
	}
}

// maxAbandoned bounds what is logged of grants that live on.
const maxAbandoned = 1000

// logAbandoned names a token that nobody will kill any more.
func (k *Killer) logAbandoned(s *grantSummary) {
	k.logger().Error("a token lives on", "grant_id", s.ID, "provider", s.Provider, "lives", LivesUntil(s))
}

// lateTries is how often a token is tried to be killed that came after the end.
const lateTries = 5

// killLate goes on trying to kill what no ledger keeps any more: the token of a mint
// that ended after Vault had given up the mount, or this process of it.
func (k *Killer) killLate(p *downstream.Provider, g *grant.Grant, failed error) {
	late := g.Summary()
	if errors.Is(failed, downstream.ErrNotRevocable) {
		k.logAbandoned(&late)
		return
	}
	k.logger().Error("a token came after the end and is not dead yet", "grant_id", g.ID, "provider", g.Provider, "lives", LivesUntil(&late), "error", failed)
	go func() {
		for try := range lateTries {
			time.Sleep(k.LatePause << try)
			ctx, cancel := context.WithTimeout(context.Background(), killBudget)
			err := k.reaper.Revoke(ctx, p, g.Handle)
			cancel()
			if err == nil {
				k.logger().Info("grant killed", "event", "grant_killed", "grant_id", g.ID, "provider", g.Provider, "cause", CauseNotHandedOut)
				return
			}
			if errors.Is(err, provider.ErrCannotRevoke) {
				break
			}
		}
		k.logAbandoned(&late)
	}()
}

func killable(c grant.Count) bool { return c.Revocable > 0 }

// namedAlive is how many live grants an error names.
const namedAlive = 5

// stillAlive names a few of the grants that live, and until when they do.
func (k *Killer) stillAlive(ctx context.Context) string {
	if !k.ledger.Loaded() {
		return "the records of grants are still being read after a start: try again"
	}
	if newer := form.Explain(k.ledger.Newer()); newer != "" {
		return newer
	}
	live := 0
	for _, c := range k.ledger.Totals() {
		live += c.Revocable
	}
	holders, err := k.ledger.HoldersOf(ctx, killable)
	if err != nil || live == 0 {
		return "some grants could not be killed"
	}
	named := 0
	text := fmt.Sprintf("%d grants still live at their providers:", live)
	for _, holder := range holders[:min(len(holders), namedAlive)] {
		if err := k.ledger.Walk(ctx, holder, "", func(s *grantSummary) bool {
			if s.Revocable {
				named++
				text += fmt.Sprintf(" %s at %s %s;", s.ID, s.Provider, LivesUntil(s))
			}
			return named < namedAlive
		}); err != nil || named == namedAlive {
			break
		}
	}
	return text + " bring the provider back and try again, or wait until they have expired"
}

// LivesUntil says in words until when a token lives if nothing kills it.
func LivesUntil(s *grantSummary) string {
	if s.ExpiresAt.IsZero() {
		return "without an end that is known"
	}
	return "until " + s.ExpiresAt.UTC().Format(time.RFC3339)
}
