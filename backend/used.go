package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
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
		return nil, errUsed
	}
	entry, err := entryOf(usedForm, usedPrefix+key, usedEntry{Until: until})
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

// look says what use would, and uses nothing up.
func (u *usedTokens) look(ctx context.Context, t *subject.Token) error {
	key, _, err := t.ReplayKey()
	if err != nil {
		return err
	}
	before, err := u.storage.Get(ctx, usedPrefix+key)
	if err != nil {
		return storageFault(err)
	}
	if before != nil {
		return errUsed
	}
	return nil
}

var errUsed = fault.New(fault.InvalidGrant, "the subject token has been used already: get a new one")

// forgetExpired forgets a token if it is past its time, looking once more under
// the lock: it may have been taken back and used again since it was listed.
func (u *usedTokens) forgetExpired(ctx context.Context, key string, now time.Time) error {
	lock := locksutil.LockForKey(u.locks, key)
	lock.Lock()
	defer lock.Unlock()
	until, known, err := u.untilOf(ctx, key)
	if err != nil || !known || !now.After(until) {
		return err
	}
	return u.forgetLocked(ctx, key)
}

func (u *usedTokens) forget(ctx context.Context, key string) error {
	lock := locksutil.LockForKey(u.locks, key)
	lock.Lock()
	defer lock.Unlock()
	return u.forgetLocked(ctx, key)
}

func (u *usedTokens) forgetLocked(ctx context.Context, key string) error {
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
	var newer error
	for _, key := range keys {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the slice is over, the next sweep goes on
		}
		if until, seen := u.seen(key); seen && !now.After(until) {
			continue
		}
		err := u.forgetExpired(ctx, key, now)
		if errors.Is(err, form.ErrNewer) {
			newer = err // that one's to forget, and no reason to keep the others
			continue
		}
		if err != nil {
			return err
		}
	}
	return newer
}

// seen is what this process has read or written of the key.
func (u *usedTokens) seen(key string) (until time.Time, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok = u.until[key]
	return until, ok
}

// untilOf reads the entry; the key's lock must be held.
func (u *usedTokens) untilOf(ctx context.Context, key string) (until time.Time, known bool, err error) {
	raw, err := u.storage.Get(ctx, usedPrefix+key)
	if err != nil {
		return time.Time{}, false, storageFault(err)
	}
	if raw == nil {
		return time.Time{}, false, nil
	}
	var entry usedEntry
	if err := usedForm.Decode(raw.Value, &entry); err != nil {
		return time.Time{}, false, storageFault(err)
	}
	u.mu.Lock()
	u.until[key] = entry.Until
	u.mu.Unlock()
	return entry.Until, true, nil
}
