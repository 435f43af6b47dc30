package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// overstay is how long after its lease's end a grant may still be Vault's to
// revoke before the sweep does it.
const overstay = 2 * time.Minute

// Bounds on one sweep: core holds its state lock while the periodic one runs.
// What a slice leaves undone is the next one's; kills go on meanwhile.
const (
	sweepSlice      = 4 * time.Second
	killMountBudget = 80 * time.Second
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
		err := b.killMount(ctx)
		if err != nil {
			b.Logger().Error("the mount cannot be disabled yet", "error", err)
		}
		return b.asLogical(&logical.Request{Operation: logical.RollbackOperation}, err)
	}
	if err := b.advanceKeys(ctx); err != nil {
		b.Logger().Error("the signing keys could not be brought up to date", "error", err)
	}
	if !b.ledger.Loaded() {
		// Reading many records here would hold up core.
		select {
		case <-b.loadLedger():
		case <-time.After(sweepSlice / 2):
			return nil
		}
	}
	counts, err := b.sweep(ctx, false, sweepSlice)
	if err != nil {
		b.meters.sweepFail.Inc()
		b.Logger().Error("sweep failed", "error", err)
	}
	if counts.Killed+counts.Expired+counts.Pending > 0 {
		b.Logger().Info("sweep", "killed", counts.Killed, "expired", counts.Expired, "pending", counts.Pending, "holders", counts.Holders)
	}
	return nil
}

// swept counts what one sweep did.
type swept struct {
	Killed, Expired, Pending, Holders int
}

// sweep retries the outbox, kills what outlived its lease, forgets what has
// certainly expired, judges the holders, and tidies up. It waits for its kills
// no longer than the slice; regardless ignores the outbox's backoff.
func (b *broker) sweep(ctx context.Context, regardless bool, slice time.Duration) (swept, error) {
	started := time.Now()
	defer func() { b.meters.sweep.Observe(time.Since(started).Seconds()) }()
	var problems error
	if err := b.ledger.Flush(ctx); err != nil {
		problems = storageFault(err)
	}
	due, err := b.dueGrants(ctx, regardless)
	if err != nil {
		return swept{}, errors.Join(problems, err)
	}
	unfits, holders, err := b.sweepHolders(ctx, regardless, slice*2/3)
	problems = errors.Join(problems, err, b.resumeOrders(ctx))
	for _, u := range unfits {
		if b.orders.has(u.ID) {
			continue
		}
		due[u.cause] = append(due[u.cause], u.grantSummary)
	}
	counts := b.killDue(ctx, due, slice-time.Since(started))
	counts.Holders = holders
	tidy, cancel := context.WithTimeout(ctx, max(slice-time.Since(started), time.Second))
	defer cancel()
	return counts, errors.Join(problems, b.deleteEmptied(tidy), b.used.sweep(tidy, b.now()), b.quotas.sweep(tidy))
}

// dueGrants are the grants that are the sweep's business, by cause.
func (b *broker) dueGrants(ctx context.Context, regardless bool) (map[string][]grantSummary, error) {
	now := b.now()
	due := map[string][]grantSummary{}
	_, err := b.ledger.Select(ctx, func(s *grantSummary) bool {
		// What an earlier run still has in its queue would only pile up.
		if cause := dueCause(s, now, regardless); cause != "" && !b.orders.has(s.ID) {
			due[cause] = append(due[cause], *s)
		}
		return false
	})
	if err != nil {
		return nil, storageFault(err)
	}
	return due, nil
}

// causeOutbox stands for the cause that the grant's own record names.
const causeOutbox = "outbox"

// dueCause is why a grant is the sweep's business, or "".
func dueCause(s *grantSummary, now time.Time, regardless bool) string {
	grace := overstay
	if regardless {
		grace = 0
	}
	switch {
	case s.CertainlyExpired(now):
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

// killDue starts the kills and counts what has become of them when they are done
// or the time is over.
func (b *broker) killDue(ctx context.Context, due map[string][]grantSummary, atMost time.Duration) swept {
	deadline := time.Now().Add(max(atMost, 100*time.Millisecond))
	runs := map[string]*killRun{}
	for cause, grants := range due {
		runs[cause] = b.startKill(ctx, cause, grants)
	}
	var counts swept
	for cause, run := range runs {
		t, _ := run.wait(ctx, time.Until(deadline))
		counts.Pending += t.Pending
		if cause == causeExpired {
			counts.Expired += t.Revoked + t.ExpiryOnly
		} else {
			counts.Killed += t.Revoked
		}
	}
	return counts
}

// providerRefs are all providers as <type>/<name>.
func (b *broker) providerRefs(ctx context.Context) ([]string, error) {
	var refs []string
	for _, t := range catalog.Types() {
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

// deleteEmptied ends the deletions that waited for grants to die.
func (b *broker) deleteEmptied(ctx context.Context) error {
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
	live, err := b.revocableOf(ctx, p.ref)
	if err != nil || live > 0 {
		return err
	}
	return b.providers.delete(ctx, p.ref)
}

// killMount kills what lives before the mount and its records go.
func (b *broker) killMount(ctx context.Context) error {
	t, err := b.killAll(ctx, causeMountDisabled, func(s *grantSummary) bool { return s.Revocable })
	if err != nil {
		return err
	}
	if t.Pending == 0 {
		return nil
	}
	return fault.New(fault.TemporarilyUnavailable, "the mount cannot be disabled or moved: %s", b.stillAlive(ctx))
}

// stillAlive names a few of the grants that live, and until when they do.
func (b *broker) stillAlive(ctx context.Context) string {
	live, err := b.ledger.Select(ctx, func(s *grantSummary) bool { return s.Revocable })
	if err != nil || len(live) == 0 {
		return "some grants could not be killed"
	}
	text := fmt.Sprintf("%d grants still live at their providers:", len(live))
	for i := range live[:min(len(live), 5)] {
		text += fmt.Sprintf(" %s at %s %s;", live[i].ID, live[i].Provider, livesUntil(&live[i]))
	}
	return text + " bring the provider back and try again, or wait until they have expired"
}

// livesUntil says in words until when a token lives if nothing kills it.
func livesUntil(s *grantSummary) string {
	if s.ExpiresAt.IsZero() {
		return "without an end that is known"
	}
	return "until " + stamp(s.ExpiresAt)
}
