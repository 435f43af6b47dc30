package stored

import (
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// What only steers: none of these is shown to a caller.
var (
	// ErrAbsent says that there is no such entry. It is never in the chain of an error
	// that says anything else of it.
	ErrAbsent = errors.New("there is no such entry")
	// ErrUndecodable says that an entry is there and says nothing.
	ErrUndecodable = errors.New("the stored entry cannot be decoded")
	// ErrChanged says that an entry is not the one any more that a change was made from.
	ErrChanged = errors.New("the stored entry was changed meanwhile")
	// ErrUnchanged is what an edit returns that finds nothing to change.
	ErrUnchanged = errors.New("there is nothing to change")
)

// Unreadable reports whether an entry is there of which this version of the plugin cannot
// know what it says: it is broken, or newer.
func Unreadable(err error) bool {
	return errors.Is(err, ErrUndecodable) || errors.Is(err, form.ErrNewer)
}

// Kind is how things of one kind are stored.
type Kind[T any] struct {
	// Name is what a message calls one.
	Name string
	// SealWrap has Vault wrap them by its seal too.
	SealWrap bool
	// Encode makes the same bytes of the same thing.
	Encode func(*T) ([]byte, error)
	// Decode makes a thing of its own each time. Its errors hold no secret; in the chain
	// of the one for what a newer version stored is form.ErrNewer.
	Decode func(raw []byte) (*T, error)
}

// KindOf is the kind of what is stored as JSON in a form.
func KindOf[T any](kind form.Kind) Kind[T] {
	return Kind[T]{
		Name:   kind.Name,
		Encode: func(v *T) ([]byte, error) { return kind.Encode(v) },
		Decode: func(raw []byte) (*T, error) {
			v := new(T)
			return v, kind.Decode(raw, v)
		},
	}
}

// KindIn is KindOf where in says in which form a thing is stored: what an earlier version
// understands rightly stays readable to it.
func KindIn[T any](kind form.Kind, in func(*T) int) Kind[T] {
	k := KindOf[T](kind)
	k.Encode = func(v *T) ([]byte, error) { return kind.EncodeIn(in(v), v) }
	return k
}

// decode tells what is newer from what is broken.
func (k Kind[T]) decode(raw []byte) (*T, error) {
	v, err := k.Decode(raw)
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, form.ErrNewer):
		return nil, err
	default:
		return nil, fmt.Errorf("%w: %w", ErrUndecodable, err)
	}
}

// Fault is a failure of Vault's storage, or something in it that only a newer version of
// the plugin reads: ours, not the caller's.
func Fault(err error) *fault.Error {
	if newer := form.Explain(err); newer != "" {
		return fault.New(fault.TemporarilyUnavailable, "%s", newer).Because(err)
	}
	return fault.New(fault.TemporarilyUnavailable, "Vault's storage failed: try again").Because(err)
}

// Entry is v as an entry of Vault's storage, for who keeps it by other means.
func Entry(kind form.Kind, key string, v any) (*logical.StorageEntry, error) {
	raw, err := kind.Encode(v)
	if err != nil {
		return nil, err
	}
	return &logical.StorageEntry{Key: key, Value: raw}, nil
}
