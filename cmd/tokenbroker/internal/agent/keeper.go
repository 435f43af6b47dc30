// Package agent keeps children in the memory of one process of the user's, for tools that
// ask for a credential again and again: one child for each connection, role and ask, behind a socket
// of the user's alone. What it keeps stands in no file.
package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/lease"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// Wanted is a child that somebody wants.
type Wanted struct {
	Connection vault.Connection `json:"connection"`
	Ask        vault.Ask        `json:"ask"`
	// Hold is for how long whoever asked may use it without asking again.
	Hold time.Duration `json:"hold"`
}

// key tells children apart. It holds nothing of a token that could be read from it.
func (w Wanted) key() string {
	w.Hold = 0
	text, err := json.Marshal(w)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Lent is a child and until when it may be used.
type Lent struct {
	Child *vault.Child `json:"child"`
	Until time.Time    `json:"until"`
}

const (
	// fresh is for how long nobody asks whether a token that was got or renewed still lives.
	fresh = 30 * time.Second
	// callTimeout bounds a creds request, which asks a provider.
	callTimeout = time.Minute
	// revokeWithin bounds how long a process that ends tries to revoke.
	revokeWithin = 15 * time.Second
)

// Client is what a keeper needs of Vault.
type Client interface {
	lease.Vault
	Get(ctx context.Context, a vault.Ask) (*vault.Child, error)
}

// Keeper has the children.
type Keeper struct {
	open func(vault.Connection) (Client, error)

	mu      sync.Mutex
	entries map[string]*entry
	looking sync.WaitGroup // for entries
	last    time.Time      // when somebody last wanted something
	closed  bool
}

// entry is one child, or the place where it will be.
type entry struct {
	turn  chan struct{} // one at a time gets, or looks whether it lives
	lease *lease.Lease
	until time.Time          // promised to whoever has it
	stop  context.CancelFunc // of who looks after it
}

// NewKeeper keeps nothing yet.
func NewKeeper(open func(vault.Connection) (Client, error)) *Keeper {
	return &Keeper{open: open, entries: map[string]*entry{}, last: time.Now()}
}

// Get is a child that lives, the same for all who want the same.
func (k *Keeper) Get(ctx context.Context, w Wanted) (*Lent, error) {
	key := w.key()
	k.mu.Lock()
	k.last = time.Now()
	if k.closed {
		k.mu.Unlock()
		return nil, errClosed
	}
	e := k.entries[key]
	if e == nil {
		e = &entry{turn: make(chan struct{}, 1)}
		k.entries[key] = e
	}
	k.mu.Unlock()
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, fail.New(fail.Unavailable, "role %s: others wait for a token, too, and none has come", w.Ask.Role)
	}
	held := k.living(ctx, e)
	if held == nil {
		var err error
		if held, err = k.fill(ctx, key, e, w); err != nil {
			return nil, err
		}
	}
	return k.lend(e, held, w.Hold), nil
}

var errClosed = fail.New(fail.Unavailable, "the process that keeps tokens is ending: try again")

// living is an entry's child if it can be handed out once more. A token may have been
// killed; who renews it, hears of that.
func (k *Keeper) living(ctx context.Context, e *entry) *lease.Lease {
	k.mu.Lock()
	held := e.lease
	k.mu.Unlock()
	if held == nil || !time.Now().Before(held.Ends()) {
		return nil
	}
	if !held.Final() && time.Since(held.Checked()) > fresh {
		if err := held.Renew(ctx); err != nil && fail.KindOf(err) != fail.Unavailable {
			return nil
		}
	}
	if time.Until(held.Ends()) <= min(fresh, held.Child().Lease/4) {
		return nil
	}
	return held
}

// fill gets a child. Whoever wants it may go away meanwhile; the token comes all the same,
// and must have its place.
func (k *Keeper) fill(ctx context.Context, key string, e *entry, w Wanted) (*lease.Lease, error) {
	client, err := k.open(w.Connection)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	child, err := client.Get(ctx, w.Ask)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	held := lease.New(client, child)
	if k.closed {
		k.looking.Go(func() { release(held) })
		return nil, errClosed
	}
	if e.lease != nil { // somebody may still have it
		e.stop()
		before := key + " before " + child.LeaseID
		k.entries[before] = &entry{lease: e.lease, until: e.until}
		k.watch(before, k.entries[before])
	}
	e.lease, e.until = held, time.Time{}
	k.entries[key] = e
	k.watch(key, e)
	return held, nil
}

// lend promises a child for a while.
func (k *Keeper) lend(e *entry, held *lease.Lease, hold time.Duration) *Lent {
	k.mu.Lock()
	defer k.mu.Unlock()
	until := time.Now().Add(hold)
	if e.lease == held && until.After(e.until) {
		e.until = until
	}
	if ends := held.Ends(); ends.Before(until) {
		until = ends
	}
	return &Lent{Child: held.Child(), Until: until}
}

// watch looks after an entry: renewed as long as it is promised, and then revoked. The
// caller has the lock.
func (k *Keeper) watch(key string, e *entry) {
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	held := e.lease
	k.looking.Go(func() {
		k.promised(ctx, e, held)
		k.mu.Lock()
		mine := e.lease == held && k.entries[key] == e
		if mine && ctx.Err() == nil { // and not replaced meanwhile
			delete(k.entries, key)
		}
		closed := k.closed
		k.mu.Unlock()
		if ctx.Err() == nil || closed {
			release(held)
		}
	})
}

// promised returns when nobody may use a lease any more, or when its watch ends.
func (k *Keeper) promised(ctx context.Context, e *entry, held *lease.Lease) {
	begun := time.Now()
	for ctx.Err() == nil {
		k.mu.Lock()
		until := e.until
		k.mu.Unlock()
		if until.IsZero() { // it has just been made, and is lent in a moment
			until = begun.Add(callTimeout)
		}
		left := time.Until(until)
		if left <= 0 || time.Now().After(held.Ends()) {
			return
		}
		kept, cancel := context.WithTimeout(ctx, left)
		if until.Before(held.Ends()) || held.Final() {
			<-kept.Done()
		} else if held.Keep(kept) != nil {
			<-kept.Done() // it dies by itself; the next who comes gets another one
		}
		cancel()
	}
}

func release(held *lease.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), revokeWithin)
	defer cancel()
	if time.Now().Before(held.Ends()) {
		_ = held.Revoke(ctx) // nobody is there to be told; its time ends it
	}
}

// Forget ends a child that a tool says does not work, if it is the one that is kept. secret is
// one of its parts.
func (k *Keeper) Forget(w Wanted, secret string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := w.key()
	e := k.entries[key]
	if e == nil || e.lease == nil {
		return
	}
	for _, part := range e.lease.Child().Parts() {
		if e.lease.Child().Text(part) == secret {
			held := e.lease
			e.stop()
			e.lease = nil
			delete(k.entries, key)
			k.looking.Go(func() { release(held) })
			return
		}
	}
}

// Idle is for how long nobody has wanted anything and nothing is kept; 0 if something is.
func (k *Keeper) Idle() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.entries {
		if e.lease != nil || len(e.turn) > 0 {
			return 0
		}
	}
	return time.Since(k.last)
}

// Status are the roles whose children are kept, and until when.
func (k *Keeper) Status() map[string]time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	found := map[string]time.Time{}
	for _, e := range k.entries {
		if e.lease != nil && e.until.After(found[e.lease.Child().Role]) {
			found[e.lease.Child().Role] = e.until
		}
	}
	return found
}

// Close revokes all and hands out no more.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true
	for _, e := range k.entries {
		if e.stop != nil {
			e.stop()
		}
	}
	k.mu.Unlock()
	k.looking.Wait()
}
