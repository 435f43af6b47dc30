package backend

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// usedPrefix is where the jti of single-use subject tokens are remembered, by a
// hash, so that a replay is refused across restarts.
const usedPrefix = "used/"

// usedTokens is the memory of subject tokens that have been used up. It is safe
// for concurrent use.
type usedTokens struct {
	entries *stored.Keeper[usedEntry]

	mu    sync.Mutex
	until map[string]time.Time // what this process has seen; storage is the truth
}

type usedEntry struct {
	Until time.Time `json:"until"`
}

func newUsedTokens(storage logical.Storage) *usedTokens {
	kind := stored.KindOf[usedEntry](form.Kind{Name: "used subject token"})
	return &usedTokens{entries: stored.NewKeeper(storage, usedPrefix, kind), until: map[string]time.Time{}}
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
	err = u.entries.Change(ctx, key, func(before *usedEntry) (*usedEntry, error) {
		if before != nil {
			return nil, errUsed
		}
		return &usedEntry{Until: until}, nil
	})
	if stored.Unreadable(err) {
		return nil, errUsed // that it is there says enough
	}
	if err != nil {
		return nil, err
	}
	u.saw(key, until)
	return func(ctx context.Context) {
		if u.entries.Delete(ctx, key) == nil {
			u.forget(key)
		}
	}, nil
}

// look says what use would, and uses nothing up.
func (u *usedTokens) look(ctx context.Context, t *subject.Token) error {
	key, _, err := t.ReplayKey()
	if err != nil {
		return err
	}
	there, err := u.entries.Exists(ctx, key)
	if there || stored.Unreadable(err) {
		return errUsed
	}
	return err
}

var errUsed = fault.New(fault.InvalidGrant, "the subject token has been used already: get a new one")

// sweep forgets the tokens that could not be accepted any more anyway.
func (u *usedTokens) sweep(ctx context.Context, now time.Time) error {
	keys, err := u.entries.List(ctx, "")
	if err != nil {
		return err
	}
	var unreadable error
	for _, key := range keys {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the slice is over, the next sweep goes on
		}
		if until, seen := u.seen(key); seen && !now.After(until) {
			continue
		}
		err := u.sweepOne(ctx, key, now)
		if stored.Unreadable(err) {
			unreadable = err // no reason to keep the others
			continue
		}
		if err != nil {
			return err
		}
	}
	return unreadable
}

// sweepOne forgets a token if it is past its time, looking once more: it may have been
// taken back and used again since it was listed.
func (u *usedTokens) sweepOne(ctx context.Context, key string, now time.Time) error {
	return u.entries.Change(ctx, key, func(before *usedEntry) (*usedEntry, error) {
		if before == nil {
			u.forget(key)
			return nil, stored.ErrUnchanged
		}
		if now.After(before.Until) {
			u.forget(key)
			return nil, nil
		}
		u.saw(key, before.Until)
		return nil, stored.ErrUnchanged
	})
}

func (u *usedTokens) saw(key string, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.until[key] = until
}

func (u *usedTokens) seen(key string) (until time.Time, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok = u.until[key]
	return until, ok
}

func (u *usedTokens) forget(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.until, key)
}
