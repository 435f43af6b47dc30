// Package stored keeps configuration: what operators write, and what few requests
// change, in one storage entry each. It is the one answer to five questions: what form
// an entry has, what happens when two change it at once, what is kept in memory of what
// was made of it, when that is dropped, and what it means that nothing can be read.
// Fields is the one list of what operators write of a thing.
//
// Grants are not configuration: package grant keeps them.
package stored

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Keeper keeps entries of one kind: those below a prefix, or a single one. It is safe
// for concurrent use. Vault lets one node write, so a lock in its memory is enough to
// put writers in order; the other nodes hear of a write by Invalidate.
//
// Nothing that it takes or returns is kept: whoever calls may change it.
type Keeper[T any] struct {
	storage logical.Storage
	prefix  string // or the key of a single entry
	kind    Kind[T]
	locks   []*locksutil.LockEntry // by name; never over a call to a provider or issuer
	changed []func(name string)
}

// NewKeeper keeps entries of the kind below a prefix in storage. One that ends with a
// slash holds many entries, each with its name behind it, which may have slashes too.
// Any other is the key of a single entry, whose name is "".
func NewKeeper[T any](storage logical.Storage, prefix string, kind Kind[T]) *Keeper[T] {
	return &Keeper[T]{storage: storage, prefix: prefix, kind: kind, locks: locksutil.CreateLocks()}
}

// OnChange has drop called after each write of an entry, also after one that failed, as
// it may have been written all the same, and when another node wrote it. Several are
// called in the order in which they were added; so what others are made from comes
// first. It must be called before the keeper is used, and drop must not block.
func (k *Keeper[T]) OnChange(drop func(name string)) {
	k.changed = append(k.changed, drop)
}

// Get reads an entry. The error is ErrAbsent if there is none. Any other is a
// *fault.Error: in its chain is ErrUndecodable if the entry is there and says nothing,
// and form.ErrNewer if only a newer version of the plugin knows what it says.
func (k *Keeper[T]) Get(ctx context.Context, name string) (*T, error) {
	raw, err := k.storage.Get(ctx, k.prefix+name)
	if err != nil {
		return nil, Fault(err)
	}
	if raw == nil {
		return nil, ErrAbsent
	}
	entry, err := k.kind.decode(raw.Value)
	if err != nil {
		return nil, Fault(fmt.Errorf("%s: %w", k.prefix+name, err))
	}
	return entry, nil
}

// Exists reports whether Get would return an entry. One that cannot be read is an error.
func (k *Keeper[T]) Exists(ctx context.Context, name string) (bool, error) {
	_, err := k.Get(ctx, name)
	if errors.Is(err, ErrAbsent) {
		return false, nil
	}
	return err == nil, err
}

// List returns the names that begin with folder, without it: those of entries, and with
// a slash at the end those of further folders. folder is "" or ends with a slash.
func (k *Keeper[T]) List(ctx context.Context, folder string) ([]string, error) {
	names, err := k.storage.List(ctx, k.prefix+folder)
	if err != nil {
		return nil, Fault(err)
	}
	return names, nil
}

// Change has edit make another entry of the one that is stored, nil if there is none,
// and stores it; nil deletes. Nobody else writes it meanwhile: so edit must neither call
// a provider nor write another entry of this keeper. What edit returns as an error is
// returned, and nothing is written; but ErrUnchanged is no error, and ErrChanged is
// answered as by Replace.
func (k *Keeper[T]) Change(ctx context.Context, name string, edit func(before *T) (after *T, err error)) error {
	return k.change(ctx, name, edit, k.tell)
}

// ChangeQuietly is Change for who has itself been made of the entry, and knows what it
// changes: nothing is dropped over it on this node.
func (k *Keeper[T]) ChangeQuietly(ctx context.Context, name string, edit func(before *T) (after *T, err error)) error {
	return k.change(ctx, name, edit, func(string) {})
}

// Replace stores after, which was made of before, or deletes if it is nil. It is for who
// must ask the network in between: if somebody else has changed the entry since before
// was read (nil: there was none), nothing is written, and the error, in whose chain
// ErrChanged is, tells the caller to read it and write again. Not every change has to be
// another content: one that was undone is none.
func (k *Keeper[T]) Replace(ctx context.Context, name string, before, after *T) error {
	return k.Change(ctx, name, func(current *T) (*T, error) {
		same, err := k.same(before, current)
		if err != nil {
			return nil, Fault(err)
		}
		if !same {
			return nil, ErrChanged
		}
		return after, nil
	})
}

// Delete deletes an entry, whatever is in it. That there is none is no error.
func (k *Keeper[T]) Delete(ctx context.Context, name string) error {
	lock := locksutil.LockForKey(k.locks, name)
	lock.Lock()
	defer lock.Unlock()
	return k.put(ctx, name, nil, k.tell)
}

// Invalidate drops what was made of the entry that another node has written at key. It
// reports whether key is one of this keeper's.
func (k *Keeper[T]) Invalidate(key string) bool {
	name, ok := strings.CutPrefix(key, k.prefix)
	if !ok || strings.HasSuffix(k.prefix, "/") == (name == "") {
		return false
	}
	k.tell(name)
	return true
}

func (k *Keeper[T]) change(ctx context.Context, name string, edit func(*T) (*T, error), tell func(string)) error {
	lock := locksutil.LockForKey(k.locks, name)
	lock.Lock()
	defer lock.Unlock()
	before, err := k.Get(ctx, name)
	if err != nil && !errors.Is(err, ErrAbsent) {
		return err
	}
	after, err := edit(before)
	switch {
	case errors.Is(err, ErrUnchanged):
		return nil
	case errors.Is(err, ErrChanged):
		return fault.New(fault.InvalidRequest, "the %s was changed by somebody else meanwhile: read it and write again", k.kind.Name).Because(err)
	case err != nil:
		return err
	}
	return k.put(ctx, name, after, tell)
}

// put is for whoever holds the name's lock.
func (k *Keeper[T]) put(ctx context.Context, name string, entry *T, tell func(string)) error {
	key := k.prefix + name
	if entry == nil {
		defer tell(name)
		if err := k.storage.Delete(ctx, key); err != nil {
			return Fault(err)
		}
		return nil
	}
	raw, err := k.kind.Encode(entry)
	if err != nil {
		return Fault(err)
	}
	defer tell(name)
	if err := k.storage.Put(ctx, &logical.StorageEntry{Key: key, Value: raw, SealWrap: k.kind.SealWrap}); err != nil {
		return Fault(err)
	}
	return nil
}

func (k *Keeper[T]) tell(name string) {
	for _, drop := range k.changed {
		drop(name)
	}
}

// same reports whether two entries are stored as the same.
func (k *Keeper[T]) same(a, b *T) (bool, error) {
	if a == nil || b == nil {
		return a == b, nil
	}
	rawA, err := k.kind.Encode(a)
	if err != nil {
		return false, err
	}
	rawB, err := k.kind.Encode(b)
	return bytes.Equal(rawA, rawB), err
}
