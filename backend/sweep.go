package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// Bounds on one sweep: core holds its state lock while the periodic one runs.
// What a slice leaves undone is the next one's; kills go on meanwhile.
const (
	sweepSlice      = 4 * time.Second
	killMountBudget = 80 * time.Second
	// dueBatch is how many due grants are looked at between two looks at the clock.
	dueBatch = 500
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
	b.door.open()
	if err := b.advanceKeys(ctx); err != nil {
		b.Logger().Error("the signing keys could not be brought up to date", "error", err)
	}
	if err := b.freezer.move(ctx, sweepSlice/4); err != nil {
		b.Logger().Warn("what is frozen could not be given entries of its own yet: it stays frozen as it is", "error", err)
	}
	for _, i := range b.issuers.values() {
		if i != nil { // else one that does not exist
			i.KeepFresh(ctx)
		}
	}
	if !b.ledger.Loaded() {
		// Reading many records here would hold up core. What is due among those that
		// have been read is killed all the same.
		b.loadLedger(sweepSlice / 2)
	}
	counts, err := b.sweep(ctx, false, sweepSlice)
	if err != nil {
		b.meters.sweepFail.Inc()
		b.Logger().Error("sweep failed", "error", err)
	}
	if counts.Killed+counts.Expired+counts.Pending > 0 {
		b.Logger().Info("sweep", "killed", counts.Killed, "expired", counts.Expired, "pending", counts.Pending, "holders", counts.Holders)
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
	err := b.killMount(ctx)
	if err != nil {
		b.Logger().Error("the mount cannot be disabled yet", "error", err)
	}
	return b.asLogical(&logical.Request{Operation: logical.RollbackOperation}, err)
}

// swept counts what one sweep did.
type swept struct {
	Killed, Expired, Pending, Holders int
}

// sweep retries the outbox, kills what outlived its lease, forgets what has
// certainly expired, judges the holders, and tidies up. It waits for its kills
// no longer than the slice. By hand it ignores the outbox's backoff, and judges
// every holder; then, and only then, it waits until the ledger is loaded.
func (b *broker) sweep(ctx context.Context, byHand bool, slice time.Duration) (swept, error) {
	started := time.Now()
	defer func() { b.meters.sweep.Observe(time.Since(started).Seconds()) }()
	if byHand {
		if err := b.ledger.Load(ctx); err != nil {
			return swept{}, ledgerFault(err)
		}
	}
	var problems error
	if err := b.ledger.Flush(ctx); err != nil {
		problems = storageFault(err)
	}
	runs, err := b.killDue(ctx, byHand, slice/3)
	problems = errors.Join(problems, err)
	unfits, holders, err := b.sweepHolders(ctx, byHand, slice*2/3-time.Since(started))
	problems = errors.Join(problems, err, b.resumeOrders(ctx))
	if run := b.killUnfit(ctx, b.holders.take(unfits)); run != nil {
		runs = append(runs, run)
	}
	counts := waitForAll(ctx, runs, slice-time.Since(started))
	counts.Holders = holders
	tidy, cancel := context.WithTimeout(ctx, max(slice-time.Since(started), time.Second))
	defer cancel()
	b.ledger.Unwatch(b.now().Add(-quotaIdle))
	return counts, errors.Join(problems, b.deleteEmptied(tidy), b.used.sweep(tidy, b.now()), b.quotas.sweep(tidy))
}

// killDue starts the kills of what is due, as far as it comes within the slice.
func (b *broker) killDue(ctx context.Context, byHand bool, slice time.Duration) (runs []*killRun, problems error) {
	now, deadline := b.now(), time.Now().Add(slice)
	tried := map[string]bool{}
	q := grant.Query{
		Now: now, Early: byHand, Limit: dueBatch,
		Business: func(s *grantSummary) bool { return dueCause(s, now, byHand) != "" },
		// What an earlier run still has in its queue would only pile up.
		Skip: func(id string) bool { return tried[id] || b.orders.has(id) },
	}
	for {
		due, looked, err := b.ledger.Due(ctx, q)
		if err != nil {
			problems = storageFault(err)
		}
		for _, id := range looked {
			tried[id] = true
		}
		var targets []target
		for i := range due {
			if !b.orders.full(due[i].Provider) {
				targets = append(targets, target{due[i], dueCause(&due[i], now, byHand)})
			}
		}
		if len(targets) > 0 {
			runs = append(runs, b.startThose(ctx, targets))
		}
		if len(looked) < dueBatch || time.Now().After(deadline) {
			return runs, problems
		}
	}
}

// killUnfit starts to kill what its holders should not have any more; nil if there
// is nothing to do.
func (b *broker) killUnfit(ctx context.Context, unfits []unfit) *killRun {
	if len(unfits) == 0 {
		return nil
	}
	byHolder := map[string][]unfit{}
	for _, u := range unfits {
		byHolder[u.Holder] = append(byHolder[u.Holder], u)
	}
	w := walk{
		ledger:   b.ledger,
		holders:  func(context.Context) ([]string, error) { return slices.Sorted(maps.Keys(byHolder)), nil },
		concerns: func(grant.Count) bool { return false }, // how many there are nobody asks
		matches: func(s *grantSummary) string {
			if !s.Revocable || s.Doomed || b.orders.has(s.ID) {
				return "" // nothing can be done, or somebody does it
			}
			for _, u := range byHolder[s.Holder] {
				if u.Role == s.Role {
					return u.cause
				}
			}
			return ""
		},
	}
	return b.startKill(ctx, func(ctx context.Context, expect func(int), yield func(target)) error {
		defer b.holders.release(unfits)
		return w.feed(ctx, expect, yield)
	})
}

// causeOutbox stands for the cause that the grant's own record names.
const causeOutbox = "outbox"

// dueCause is why a grant is the sweep's business, or "".
func dueCause(s *grantSummary, now time.Time, regardless bool) string {
	grace := grant.Overstay
	if regardless {
		grace = 0
	}
	switch {
	case s.Over(now):
		return causeExpired
	case !s.Revocable:
		return ""
	case s.Doomed && (regardless || !now.Before(s.Next)):
		return causeOutbox
	case !s.Doomed && now.After(s.LeaseEnds.Add(grace)):
		return causeOverstayed
	}
	return ""
}

// waitForAll counts what has become of the kills when they are done or the time is
// over.
func waitForAll(ctx context.Context, runs []*killRun, atMost time.Duration) swept {
	deadline := time.Now().Add(max(atMost, 100*time.Millisecond))
	var counts swept
	for _, run := range runs {
		t, _ := run.wait(ctx, time.Until(deadline))
		expired := run.forgotten()
		counts.Pending += t.Pending
		counts.Expired += expired
		counts.Killed += max(0, t.Revoked+t.ExpiryOnly-expired)
	}
	return counts
}

// providerRefs are all providers as <type>/<name>.
func (b *broker) providerRefs(ctx context.Context) ([]string, error) {
	var refs []string
	for _, t := range b.types {
		names, err := b.storage.List(ctx, providerPrefix+t.Name()+"/")
		if err != nil {
			return nil, storageFault(err)
		}
		for _, name := range names {
			refs = append(refs, t.Name()+"/"+name)
		}
	}
	return refs, nil
}

// deleteEmptied ends the deletions that waited for grants to die. Which those are
// is known once the ledger is loaded.
func (b *broker) deleteEmptied(ctx context.Context) error {
	if !b.ledger.Loaded() {
		return nil
	}
	refs, err := b.providerRefs(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		p, err := b.providers.open(ctx, ref)
		if err != nil || p == nil || !p.settings.Deleting {
			continue
		}
		if err := b.deleteIfEmpty(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (b *broker) deleteIfEmpty(ctx context.Context, p *openProvider) error {
	done, alone := p.gate.alone()
	if !alone {
		return nil // the mint under way may bring another grant
	}
	defer done()
	_, live, err := b.countOf(ctx, p.ref)
	if err != nil || live > 0 {
		return err
	}
	if err := b.providers.delete(ctx, p.ref, p.version); !errors.Is(err, errChangedMeanwhile) {
		return err
	}
	return nil // it has been written meanwhile: the next sweep judges it as it is then
}
