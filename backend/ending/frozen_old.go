package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// OldFrozenKey was one entry for all that is frozen. What is in it stays frozen, and is
// moved below FrozenPrefix.
const OldFrozenKey = "frozen"

func (f *frozenNames) readOld(ctx context.Context) (map[string]Frozen, error) {
	old, err := f.oldStored.Get(ctx, "")
	if errors.Is(err, stored.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return *old, nil
}

// removeOld takes a name out of the old entry, if it is there. The caller is the one
// using storage, and has loaded.
func (f *frozenNames) removeOld(ctx context.Context, name string) error {
	f.mu.RLock()
	_, there := f.old[name]
	f.mu.RUnlock()
	if !there {
		return nil
	}
	err := f.oldStored.Change(ctx, "", func(before *map[string]Frozen) (*map[string]Frozen, error) {
		if before == nil {
			return nil, nil
		}
		delete(*before, name)
		if len(*before) == 0 {
			return nil, nil
		}
		return before, nil
	})
	if err != nil {
		return err
	}
	return f.load(ctx)
}

// moveOld gives what the old entry holds entries of their own, as much as fits into the
// slice; the next call goes on. The old entry goes last: until then both hold it, and
// whatever ends this in between leaves everything frozen.
func (f *frozenNames) moveOld(ctx context.Context, slice time.Duration) error {
	deadline := time.Now().Add(slice)
	for {
		more, err := f.moveOne(ctx)
		if err != nil || !more || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// moveOne moves one name and lets go of storage then, so that whoever freezes does not wait
// for all of them.
func (f *frozenNames) moveOne(ctx context.Context) (more bool, err error) {
	f.using.Lock()
	defer f.using.Unlock()
	if err := f.load(ctx); err != nil {
		return false, err
	}
	f.mu.RLock()
	left, name := len(f.old), ""
	for each := range f.old {
		if _, moved := f.names[keyOf(each)]; !moved {
			name = each
			break
		}
	}
	f.mu.RUnlock()
	switch {
	case left == 0:
		return false, nil
	case name != "":
		return true, f.write(ctx, name, Frozen{})
	}
	return false, f.oldStored.Delete(ctx, "")
}
