package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// LedgerFault is why something that needs every grant cannot be done now.
func LedgerFault(err error) *fault.Error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fault.New(fault.TemporarilyUnavailable, "the records of grants are still being read after a start: try again").Because(err)
	}
	return stored.Fault(err)
}

// expiryWait is how long LiveAt looks for what has expired, and then waits for its end.
const expiryWait = 4 * time.Second

// LiveAt counts the grants of a provider that are not known to be dead, and how
// many of them could be killed, once every record has been read. What has expired
// is forgotten first, so that it keeps nobody from a change.
func (k *Killer) LiveAt(ctx context.Context, ref string) (live, revocable int, err error) {
	live, revocable, err = k.CountAt(ctx, ref)
	if err != nil || live == 0 {
		return live, revocable, err
	}
	made := newMade()
	made.use()
	defer made.drop()
	runs, err := k.killDue(ctx, false, expiryWait, made)
	if err != nil {
		return 0, 0, err
	}
	waitForAll(ctx, runs, expiryWait)
	return k.CountAt(ctx, ref)
}

// CountAt is LiveAt as of the last sweep.
func (k *Killer) CountAt(ctx context.Context, ref string) (live, revocable int, err error) {
	if err := k.ledger.Load(ctx); err != nil {
		return 0, 0, LedgerFault(err)
	}
	if err := k.ledger.Newer(); err != nil {
		return 0, 0, stored.Fault(err) // whose they are nobody knows
	}
	for _, c := range k.ledger.Totals() {
		if c.Provider == ref {
			live, revocable = live+c.Live, revocable+c.Revocable
		}
	}
	return live, revocable, nil
}
