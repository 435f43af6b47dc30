package backend

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// usedPrefix is where the jti of single-use subject tokens are remembered, by a
// hash, so that a replay is refused across restarts.
const usedPrefix = "used/"

// usedTokens is the memory of subject tokens that have been used up. It is safe
// for concurrent use.
type usedTokens struct {
	storage logical.Storage
	locks   []*locksutil.LockEntry

	mu    sync.Mutex
	until map[string]time.Time // what this process has seen; storage is the truth
}

type usedEntry struct {
	Until time.Time `json:"until"`
}

func newUsedTokens(storage logical.Storage) *usedTokens {
	return &usedTokens{storage: storage, locks: locksutil.CreateLocks(), until: map[string]time.Time{}}
}

// use records the token before the provider is called; a second use is
// invalid_grant. release takes it back, for when surely nothing was minted.
func (u *usedTokens) use(ctx context.Context, t *subject.Token) (release func(context.Context), err error) {
	key, until, err := t.ReplayKey()
	if err != nil {
		return nil, err
	}
	// An operator may raise the issuer's clock skew while this is remembered.
	if latest := t.ExpiresAt.Add(subject.MaxClockSkew); until.Before(latest) {
		until = latest
	}
	lock := locksutil.LockForKey(u.locks, key)
	lock.Lock()
	defer lock.Unlock()
	before, err := u.storage.Get(ctx, usedPrefix+key)
	if err != nil {
		return nil, storageFault(err)
	}
	if before != nil {
		return nil, fault.New(fault.InvalidGrant, "the subject token has been used already: get a new one")
	}
	entry, err := logical.StorageEntryJSON(usedPrefix+key, usedEntry{Until: until})
	if err != nil {
		return nil, storageFault(err)
	}
	if err := u.storage.Put(ctx, entry); err != nil {
		return nil, storageFault(err)
	}
	u.mu.Lock()
	u.until[key] = until
	u.mu.Unlock()
	return func(ctx context.Context) { _ = u.forget(ctx, key) }, nil
}

func (u *usedTokens) forget(ctx context.Context, key string) error {
	lock := locksutil.LockForKey(u.locks, key)
	lock.Lock()
	defer lock.Unlock()
	if err := u.storage.Delete(ctx, usedPrefix+key); err != nil {
		return storageFault(err)
	}
	u.mu.Lock()
	delete(u.until, key)
	u.mu.Unlock()
	return nil
}

// sweep forgets the tokens that could not be accepted any more anyway.
func (u *usedTokens) sweep(ctx context.Context, now time.Time) error {
	keys, err := u.storage.List(ctx, usedPrefix)
	if err != nil {
		return storageFault(err)
	}
	for _, key := range keys {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the slice is over, the next sweep goes on
		}
		until, err := u.untilOf(ctx, key)
		if err != nil {
			return err
		}
		if now.After(until) {
			if err := u.forget(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// untilOf reads each entry once in the life of the process.
func (u *usedTokens) untilOf(ctx context.Context, key string) (time.Time, error) {
	u.mu.Lock()
	until, ok := u.until[key]
	u.mu.Unlock()
	if ok {
		return until, nil
	}
	raw, err := u.storage.Get(ctx, usedPrefix+key)
	if err != nil {
		return time.Time{}, storageFault(err)
	}
	if raw == nil {
		return time.Time{}, nil
	}
	var entry usedEntry
	if err := raw.DecodeJSON(&entry); err != nil {
		return time.Time{}, storageFault(err)
	}
	u.mu.Lock()
	u.until[key] = entry.Until
	u.mu.Unlock()
	return entry.Until, nil
}
