package ending

import (
	"context"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Held reports whether the grant with this id is one that its holder may still use:
// on record, within its lease, neither killed nor about to be, nothing of it frozen,
// and its holder still somebody whom the role would have. The last is what the sweep
// looks for too, but there only of grants that something can kill.
func (k *Killer) Held(ctx context.Context, id string) (bool, error) {
	s, known, err := k.ledger.Lookup(ctx, id)
	if err != nil {
		return false, stored.Fault(err)
	}
	if !known || s.Doomed || s.Withheld || s.Released || k.queue.has(id) || !k.now().Before(s.LeaseEnds) {
		return false, nil
	}
	frozen, err := k.freezer.Check(ctx, BasisOf(&s))
	if err != nil || len(frozen) > 0 {
		return false, err
	}
	stands, err := k.standing(ctx, s.Holder, []string{s.Role})
	if err != nil {
		return false, err
	}
	return stands.cause(s.Role) == "", nil
}
