package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// overstay is how long after its lease's end a grant may still be Vault's to
// revoke before the sweep does it.
const overstay = 2 * time.Minute

// sweepBudget bounds one run: core holds its state lock while it runs.
const sweepBudget = 20 * time.Second

// periodic is Vault's call of about once a minute on the active node. Core does
// not log its error, so it is logged here. On a mount that is being disabled it
// kills everything and fails while anything lives that could be killed, which
// makes Vault keep the mount.
func (b *broker) periodic(ctx context.Context, _ *logical.Request) error {
	if b.System().Tainted() {
		return b.asLogical(&logical.Request{Operation: logical.RollbackOperation}, b.killMount(ctx))
	}
	counts, err := b.sweep(ctx, false)
	if err != nil {
		b.Logger().Error("sweep failed", "error", err)
	}
	if counts.Killed+counts.Expired > 0 || counts.Pending > 0 {
		b.Logger().Info("sweep", "killed", counts.Killed, "expired", counts.Expired, "pending", counts.Pending)
	}
	return nil
}

// swept counts what one sweep did.
type swept struct {
	Killed, Expired, Pending int
}

// sweep retries the outbox, kills what outlived its lease, forgets what has
// certainly expired, and deletes providers that only waited for that. With now,
// the outbox's backoff is ignored.
func (b *broker) sweep(ctx context.Context, regardless bool) (swept, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepBudget)
	defer cancel()
	var counts swept
	flushed := b.ledger.Flush(ctx)
	now := b.now()
	due, err := b.ledger.Select(ctx, func(s *grantSummary) bool { return isDue(s, now, regardless) })
	if err != nil {
		return counts, errors.Join(flushed, storageFault(err))
	}
	expired := map[string]bool{}
	for _, s := range due {
		expired[s.ID] = !s.ExpiresAt.IsZero() && now.After(s.ExpiresAt.Add(grant.ExpiryGrace))
	}
	wanted := map[string]bool{}
	for _, s := range due {
		wanted[s.ID] = true
	}
	t, err := b.killAll(ctx, "sweep", func(s *grantSummary) bool { return wanted[s.ID] })
	if err != nil {
		return counts, errors.Join(flushed, err)
	}
	for _, gone := range expired {
		if gone {
			counts.Expired++
		}
	}
	counts.Killed = max(0, t.Revoked+t.ExpiryOnly-counts.Expired)
	counts.Pending = t.Pending
	return counts, errors.Join(flushed, b.deleteEmptied(ctx), b.used.sweep(ctx, now))
}

// isDue reports whether a grant is the sweep's business.
func isDue(s *grantSummary, now time.Time, regardless bool) bool {
	switch {
	case !s.ExpiresAt.IsZero() && now.After(s.ExpiresAt.Add(grant.ExpiryGrace)):
		return true
	case !s.Revocable:
		return false
	case s.Doomed:
		return regardless || !now.Before(s.Next)
	default:
		return now.After(s.LeaseEnds.Add(overstay)) || (regardless && now.After(s.LeaseEnds))
	}
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
		live, err := b.revocableOf(ctx, ref)
		if err != nil {
			return err
		}
		if live == 0 {
			if err := b.providers.delete(ctx, ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// killMount kills what lives before the mount and its records go.
func (b *broker) killMount(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killMountBudget)
	defer cancel()
	t, err := b.killAll(ctx, "mount disabled", func(s *grantSummary) bool { return s.Revocable })
	if err != nil {
		return err
	}
	if t.Pending == 0 {
		return nil
	}
	return fault.New(fault.TemporarilyUnavailable, "the mount cannot be disabled: %s", b.stillAlive(ctx))
}

const killMountBudget = 80 * time.Second

// stillAlive names a few of the grants that live, and until when the last does.
func (b *broker) stillAlive(ctx context.Context) string {
	live, err := b.ledger.Select(ctx, func(s *grantSummary) bool { return s.Revocable })
	if err != nil || len(live) == 0 {
		return "some grants could not be killed"
	}
	text := fmt.Sprintf("%d grants still live at their providers:", len(live))
	for i := range live[:min(len(live), 5)] {
		text += fmt.Sprintf(" %s at %s %s;", live[i].ID, live[i].Provider, endsBefore(&live[i]))
	}
	return text + " bring the provider back and try again, or wait until they have expired"
}
