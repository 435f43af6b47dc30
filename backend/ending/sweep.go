package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// dueBatch is how many due grants are looked at between two looks at the clock.
const dueBatch = 500

// Swept counts what one sweep did.
type Swept struct {
	Killed, Expired, Pending, Holders, Bystanders int
}

// Sweep retries the outbox, kills what outlived its lease, forgets what has
// certainly expired, and judges the holders. It waits for its kills
// no longer than the slice. By hand it ignores the outbox's backoff, and judges
// every holder; then, and only then, it waits until the ledger is loaded.
func (k *Killer) Sweep(ctx context.Context, byHand bool, slice time.Duration) (Swept, error) {
	started := time.Now()
	if byHand {
		if err := k.ledger.Load(ctx); err != nil {
			return Swept{}, LedgerFault(err)
		}
	}
	var problems error
	if err := k.ledger.Flush(ctx); err != nil {
		problems = stored.Fault(err)
	}
	made := newMade()
	made.use()
	defer made.drop()
	runs, err := k.killDue(ctx, byHand, slice/3, made)
	idle, failed := k.killIdle(ctx, slice/6, made)
	runs, problems = append(runs, idle...), errors.Join(problems, err, failed)
	unfits, holders, err := k.sweepHolders(ctx, byHand, slice*2/3-time.Since(started))
	problems = errors.Join(problems, err, k.resumeOrders(ctx))
	if run := k.killUnfit(ctx, k.losing.take(unfits)); run != nil {
		runs = append(runs, run)
	}
	counts := waitForAll(ctx, runs, slice-time.Since(started))
	counts.Holders = holders
	return counts, problems
}

// killDue starts the kills of what is due, as far as it comes within the slice.
func (k *Killer) killDue(ctx context.Context, byHand bool, slice time.Duration, made *made) (runs []*Run, problems error) {
	now, deadline := k.now(), time.Now().Add(slice)
	tried := map[string]bool{}
	q := grant.Query{
		Now: now, Early: byHand, Limit: dueBatch,
		Business: func(s *grant.Summary) bool {
			// An intent that is held is of a mint under way, however long it takes.
			return dueCause(s, now, byHand) != "" && !(s.IsIntent() && k.ledger.Holding(s.ID))
		},
		// What an earlier run still has in its queue dies by that run.
		Skip: func(id string) bool { return tried[id] || k.queue.has(id) },
	}
	for {
		due, looked, err := k.ledger.Due(ctx, q)
		if err != nil {
			problems = stored.Fault(err)
		}
		for _, id := range looked {
			tried[id] = true
		}
		var targets []target
		for i := range due {
			if !k.queue.full(due[i].Provider) {
				targets = append(targets, target{Summary: due[i], cause: dueCause(&due[i], now, byHand)})
			}
		}
		if len(targets) > 0 {
			runs = append(runs, k.startThose(ctx, targets, made))
		}
		if len(looked) < dueBatch || time.Now().After(deadline) {
			return runs, problems
		}
	}
}

// causeOutbox stands for the cause that the grant's own record names.
const causeOutbox = "outbox"

// dueCause is why a grant is the sweep's business, or "".
func dueCause(s *grant.Summary, now time.Time, regardless bool) string {
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
	case s.Doomed || s.Released:
		return ""
	case s.IsIntent():
		if now.Before(s.Intent) {
			return "" // its mint may be under way
		}
		return causeLostAnswer
	case now.After(s.LeaseEnds.Add(grace)):
		return causeOverstayed
	}
	return ""
}

// waitForAll counts what has become of the kills when they are done or the time is
// over.
func waitForAll(ctx context.Context, runs []*Run, atMost time.Duration) Swept {
	deadline := time.Now().Add(max(atMost, 100*time.Millisecond))
	var counts Swept
	for _, run := range runs {
		t, _ := run.Wait(ctx, time.Until(deadline))
		expired := run.forgotten()
		counts.Pending += t.Pending
		counts.Expired += expired
		counts.Bystanders += t.Bystanders
		counts.Killed += max(0, t.Revoked+t.ExpiryOnly-expired)
	}
	return counts
}
