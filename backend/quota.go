package backend

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// ratePrefix is where earlier builds kept the issues of the last minute. It is cleared.
const ratePrefix = "rate/"

const rateWindow = time.Minute

// quotas keeps roles' limits per entity. Callers without an entity get nothing from a
// role that has any: a limit that strangers share would let one of them shut out the
// others.
type quotas struct {
	b *broker

	mu sync.Mutex
	// minting are the ids of grants that are on their way into the ledger.
	minting map[string]map[string]bool
	// rates are the issues of the last minute by role and holder, for roles with a
	// max_issue_rate, and since is from when on memory has all of them: those of before are
	// found by the grants' records.
	rates map[string]*issueRate
	since time.Time
}

func newQuotas(b *broker) *quotas {
	return &quotas{b: b, minting: map[string]map[string]bool{}, rates: map[string]*issueRate{}, since: b.now()}
}

// forget is for when another node has written records.
func (q *quotas) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rates, q.since = map[string]*issueRate{}, q.b.now()
}

// reserve counts the grant id within the holder's quota, or says slow_down. The release
// gives it back; it must come after the grant is in the ledger, or is not to be.
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
		if err := q.take(ctx, role, holder); err != nil {
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

// count runs take if the holder may have one more, as one step. The first time after a
// start it reads the holder's records.
func (q *quotas) count(ctx context.Context, role *compiledRole, holder, key string, take func()) error {
	for {
		if err := q.b.ledger.Watch(ctx, holder, role.name, q.b.now()); err != nil {
			return stored.Fault(err)
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
		return q.rated(ctx, role, holder, func(*issueRate) {})
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

// issueRate is when a holder got the grants of a role that it got within the last
// minute.
type issueRate struct {
	mu     sync.Mutex // over storage, never over a provider's call
	known  bool
	issues []time.Time
	over   bool // it counts no more: another has taken its place, or will
}

// take counts one issue before the provider is called. An attempt that the provider
// refuses counts too, but is not on record: a restart forgets it, as it forgets what was
// revoked by then.
func (q *quotas) take(ctx context.Context, role *compiledRole, holder string) error {
	return q.rated(ctx, role, holder, func(r *issueRate) { r.issues = append(r.issues, q.b.now()) })
}

// rated runs take if the holder may have one more, as one step.
func (q *quotas) rated(ctx context.Context, role *compiledRole, holder string, take func(*issueRate)) error {
	for {
		r, since := q.rateOf(role.name + "/" + holder)
		if over, err := q.judge(ctx, r, since, role, holder, take); !over {
			return err
		}
	}
}

func (q *quotas) rateOf(key string) (*issueRate, time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.rates[key]
	if r == nil {
		r = &issueRate{}
		q.rates[key] = r
	}
	return r, q.since
}

func (q *quotas) judge(ctx context.Context, r *issueRate, since time.Time, role *compiledRole, holder string, take func(*issueRate)) (over bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return true, nil
	}
	now := q.b.now()
	if !r.known && now.Sub(since) < rateWindow {
		if r.issues, err = q.onRecord(ctx, role.name, holder, now); err != nil {
			return false, err
		}
	}
	r.known = true
	r.prune(now)
	if limit := role.MaxIssueRate; len(r.issues) >= limit {
		wait := rateWindow - now.Sub(r.issues[len(r.issues)-limit])
		return false, fault.New(fault.SlowDown, "the entity has had %d grants of this role within a minute, as many as it may: try again in %s", limit, wait.Round(time.Second))
	}
	take(r)
	return false, nil
}

func (r *issueRate) prune(now time.Time) {
	r.issues = slices.DeleteFunc(r.issues, func(t time.Time) bool { return now.Sub(t) >= rateWindow })
}

// onRecord are the issues of the last minute that the records tell of, in order.
func (q *quotas) onRecord(ctx context.Context, role, holder string, now time.Time) ([]time.Time, error) {
	var issues []time.Time
	err := q.b.ledger.Walk(ctx, holder, "", func(s *grant.Summary) bool {
		if s.Role == role && now.Sub(s.IssuedAt) < rateWindow {
			issues = append(issues, s.IssuedAt)
		}
		return true
	})
	if err != nil {
		return nil, stored.Fault(err)
	}
	slices.SortFunc(issues, time.Time.Compare)
	return issues, nil
}

// sweep forgets who got nothing within the last minute, and what earlier builds stored.
func (q *quotas) sweep(ctx context.Context) error {
	q.forgetIdle(q.b.now())
	roles, err := q.b.storage.List(ctx, ratePrefix)
	if err != nil {
		return stored.Fault(err)
	}
	for _, role := range roles {
		holders, err := q.b.storage.List(ctx, ratePrefix+role)
		if err != nil {
			return stored.Fault(err)
		}
		for _, holder := range holders {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the slice is over, the next sweep goes on
			}
			if err := q.b.storage.Delete(ctx, ratePrefix+role+holder); err != nil {
				return stored.Fault(err)
			}
		}
	}
	return nil
}

func (q *quotas) forgetIdle(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, r := range q.rates {
		if !r.mu.TryLock() {
			continue // it is in use
		}
		if r.prune(now); len(r.issues) == 0 {
			r.over = true
			delete(q.rates, key)
		}
		r.mu.Unlock()
	}
}
