package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// ratePrefix is where the issues of the last minute are kept, for roles with a
// max_issue_rate: the limit holds across a restart.
const ratePrefix = "rate/"

const rateWindow = time.Minute

// quotas keeps roles' limits per entity. Callers without an entity get nothing from a
// role that has any: a limit that strangers share would let one of them shut out the
// others.
type quotas struct {
	b     *broker
	locks []*locksutil.LockEntry // by role and holder; never over a provider's call

	mu sync.Mutex
	// minting are the ids of grants that are on their way into the ledger.
	minting map[string]map[string]bool
}

func newQuotas(b *broker) *quotas {
	return &quotas{b: b, locks: locksutil.CreateLocks(), minting: map[string]map[string]bool{}}
}

// reserve takes a place for the grant id, or says slow_down. The release gives
// it back; it must come after the grant is in the ledger, or is not to be.
func (q *quotas) reserve(ctx context.Context, role *compiledRole, holder, id string) (release func(), err error) {
	release = func() {}
	key := role.name + "/" + holder
	if role.MaxGrantsPerEntity > 0 {
		if err := q.reserveGrant(ctx, role, holder, key, id); err != nil {
			return nil, err
		}
		release = func() { q.release(key, id) }
	}
	if role.MaxIssueRate > 0 {
		if err := q.take(ctx, role.MaxIssueRate, key); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// reserveGrant counts the union of what lives and what is being minted, so that
// a grant on its way from one to the other counts once.
func (q *quotas) reserveGrant(ctx context.Context, role *compiledRole, holder, key, id string) error {
	return q.count(ctx, role, holder, key, func() {
		if q.minting[key] == nil {
			q.minting[key] = map[string]bool{}
		}
		q.minting[key][id] = true
	})
}

// count runs take if there is a place, as one step. The first time after a start it
// reads the holder's records.
func (q *quotas) count(ctx context.Context, role *compiledRole, holder, key string, take func()) error {
	for {
		if err := q.b.ledger.Watch(ctx, holder, role.name, q.b.now()); err != nil {
			return storageFault(err)
		}
		if known, err := q.countKnown(role, holder, key, take); known {
			return err
		}
	}
}

// countKnown is count; known is false if the ledger has given up watching meanwhile.
func (q *quotas) countKnown(role *compiledRole, holder, key string, take func()) (known bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	counted, known := q.b.ledger.LiveIDs(holder, role.name, q.b.now())
	if !known {
		return false, nil
	}
	for other := range q.minting[key] {
		counted[other] = true
	}
	if len(counted) < role.MaxGrantsPerEntity {
		take()
		return true, nil
	}
	return true, fault.New(fault.SlowDown, "the entity holds %d live grants of this role, as many as it may: revoke leases that are no longer needed", len(counted))
}

// look says what reserve would, and takes nothing.
func (q *quotas) look(ctx context.Context, role *compiledRole, holder string) error {
	if holder == grant.NoHolder {
		return nil // it is refused for what it is
	}
	key := role.name + "/" + holder
	if role.MaxGrantsPerEntity > 0 {
		if err := q.count(ctx, role, holder, key, func() {}); err != nil {
			return err
		}
	}
	if role.MaxIssueRate > 0 {
		_, err := q.window(ctx, role.MaxIssueRate, key)
		return err
	}
	return nil
}

func (q *quotas) release(key, id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.minting[key], id)
	if len(q.minting[key]) == 0 {
		delete(q.minting, key)
	}
}

type rateEntry struct {
	Issues []time.Time `json:"issues"`
}

// take counts one issue within the last minute, durably, before the provider is
// called. An attempt that the provider refuses counts too.
func (q *quotas) take(ctx context.Context, limit int, key string) error {
	lock := locksutil.LockForKey(q.locks, key)
	lock.Lock()
	defer lock.Unlock()
	entry, err := q.window(ctx, limit, key)
	if err != nil {
		return err
	}
	entry.Issues = append(entry.Issues, q.b.now())
	written, err := entryOf(rateForm, ratePrefix+key, entry)
	if err != nil {
		return storageFault(err)
	}
	if err := q.b.storage.Put(ctx, written); err != nil {
		return storageFault(err)
	}
	return nil
}

// window is the issues of the last minute, or slow_down if there are as many as
// the limit.
func (q *quotas) window(ctx context.Context, limit int, key string) (rateEntry, error) {
	var entry rateEntry
	raw, err := q.b.storage.Get(ctx, ratePrefix+key)
	if err != nil {
		return entry, storageFault(err)
	}
	if raw != nil {
		if err := rateForm.Decode(raw.Value, &entry); err != nil {
			return entry, storageFault(err)
		}
	}
	now := q.b.now()
	entry.Issues = slices.DeleteFunc(entry.Issues, func(t time.Time) bool { return now.Sub(t) >= rateWindow })
	if len(entry.Issues) >= limit {
		wait := rateWindow - now.Sub(entry.Issues[len(entry.Issues)-limit])
		return entry, fault.New(fault.SlowDown, "the entity has had %d grants of this role within a minute, as many as it may: try again in %s", limit, wait.Round(time.Second))
	}
	return entry, nil
}

// sweep forgets the issues of more than a minute ago.
func (q *quotas) sweep(ctx context.Context) error {
	roles, err := q.b.storage.List(ctx, ratePrefix)
	if err != nil {
		return storageFault(err)
	}
	for _, role := range roles {
		holders, err := q.b.storage.List(ctx, ratePrefix+role)
		if err != nil {
			return storageFault(err)
		}
		for _, holder := range holders {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the slice is over, the next sweep goes on
			}
			if err := q.forget(ctx, role+holder); err != nil {
				return err
			}
		}
	}
	return nil
}

func (q *quotas) forget(ctx context.Context, key string) error {
	lock := locksutil.LockForKey(q.locks, key)
	lock.Lock()
	defer lock.Unlock()
	raw, err := q.b.storage.Get(ctx, ratePrefix+key)
	if err != nil {
		return storageFault(err)
	}
	if raw == nil {
		return nil
	}
	var entry rateEntry
	err = rateForm.Decode(raw.Value, &entry)
	if errors.Is(err, form.ErrNewer) || err == nil && len(entry.Issues) > 0 &&
		q.b.now().Sub(entry.Issues[len(entry.Issues)-1]) < rateWindow {
		return nil
	}
	if err := q.b.storage.Delete(ctx, ratePrefix+key); err != nil {
		return storageFault(err)
	}
	return nil
}
