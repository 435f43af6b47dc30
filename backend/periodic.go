package backend

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Bounds on one sweep: core holds its state lock while the periodic one runs.
// What a slice leaves undone is the next one's; kills go on meanwhile.
const (
	sweepSlice = 4 * time.Second
	// quotaIdle is how long a quota's count is kept that nobody needs.
	quotaIdle = 10 * time.Minute
)

// periodic is Vault's call of about once a minute on the active node. Core does
// not log its error, so it is logged here. On a mount that is being disabled it
// kills everything, in parallel, before Vault ends the leases one by one. Vault
// ignores its error there: what keeps the mount is a lease that cannot be ended.
func (b *broker) periodic(ctx context.Context, _ *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil // the primary's ledger is the primary's to sweep
	}
	if b.System().Tainted() {
		return b.leaveMount(ctx)
	}
	b.door.Open()
	if err := b.advanceKeys(ctx); err != nil {
		b.Logger().Error("the signing keys could not be brought up to date", "error", err)
	}
	if err := b.freezer.Move(ctx, sweepSlice/4); err != nil {
		b.Logger().Warn("what is frozen could not be given entries of its own yet: it stays frozen as it is", "error", err)
	}
	b.rotateDue(ctx)
	for _, i := range b.issuers.open.Values() {
		i.KeepFresh(ctx)
	}
	b.signals.tend(ctx)
	if !b.ledger.Loaded() {
		// Reading many records here would hold up core. What is due among those that
		// have been read is killed all the same.
		b.loadLedger(sweepSlice / 2)
	}
	b.lender.tidy(ctx)
	counts, err := b.sweep(ctx, false, sweepSlice)
	if err != nil {
		b.meters.sweepFail.Inc()
		b.Logger().Error("sweep failed", "error", err)
	}
	if counts.Killed+counts.Expired+counts.Pending > 0 {
		b.Logger().Info("sweep", "killed", counts.Killed, "expired", counts.Expired, "pending", counts.Pending, "holders", counts.Holders, "bystanders", counts.Bystanders)
	}
	if b.System().Tainted() {
		// Vault has begun to disable the mount meanwhile: it takes this run for the
		// last one, and there will be no other.
		return b.leaveMount(ctx)
	}
	return nil
}

// leaveMount is the last run on a mount that is being disabled or moved.
func (b *broker) leaveMount(ctx context.Context) error {
	err := b.killer.Leave(ctx)
	if err != nil {
		b.Logger().Error("the mount cannot be disabled yet", "error", err)
	}
	_, err = b.asLogical(&logical.Request{Operation: logical.RollbackOperation}, err)
	return err
}

// sweep lets the killer sweep, and tidies up in what is left of the slice.
func (b *broker) sweep(ctx context.Context, byHand bool, slice time.Duration) (ending.Swept, error) {
	started := time.Now()
	defer func() { b.meters.sweep.Observe(time.Since(started).Seconds()) }()
	counts, err := b.killer.Sweep(ctx, byHand, slice)
	if failed := b.sweepPersons(ctx, byHand, max(slice/4, slice-time.Since(started))); failed != nil {
		err = errors.Join(err, failed)
	}
	tidy, cancel := context.WithTimeout(ctx, max(slice-time.Since(started), time.Second))
	defer cancel()
	b.ledger.Unwatch(b.now().Add(-quotaIdle))
	err = errors.Join(err, b.deleteEmptied(tidy), b.used.sweep(tidy, b.now()), b.logoffs.sweep(tidy), b.quotas.sweep(tidy), b.keepRecords(tidy, slice/4))
	if err == nil {
		b.meters.sweepLast.Set(float64(b.now().Unix()))
	}
	return counts, err
}

// keepRecords tidies up the records of kills.
func (b *broker) keepRecords(ctx context.Context, slice time.Duration) error {
	own, err := b.own.state(ctx)
	if err != nil {
		return err
	}
	return b.killer.KeepRecords(ctx, own.config.KillsRetention, slice)
}

// deleteEmptied ends the deletions that waited for grants to die. Which those are
// is known once the ledger is loaded.
func (b *broker) deleteEmptied(ctx context.Context) error {
	if !b.ledger.Loaded() {
		return nil
	}
	refs, err := b.providers.Refs(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		p, err := b.providers.Open(ctx, ref)
		if err != nil || !p.Settings.Deleting {
			continue
		}
		if err := b.deleteIfEmpty(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (b *broker) deleteIfEmpty(ctx context.Context, p *downstream.Provider) error {
	done, noMints := b.providers.KeepMintsOut(p.Ref)
	if !noMints {
		return nil // the mint under way may bring another grant
	}
	defer done()
	_, live, err := b.killer.CountAt(ctx, p.Ref)
	if err != nil || live > 0 {
		return err
	}
	if err := b.providers.Delete(ctx, p.Ref, p.Version); !errors.Is(err, stored.ErrChanged) {
		return err
	}
	return nil // it has been written meanwhile: the next sweep judges it as it is then
}
