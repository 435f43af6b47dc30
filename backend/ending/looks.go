package ending

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const (
	// FirstLooksKey is where the first looks are remembered over a restart, and
	// maxFirstLooks how many, which keeps the entry small: the others are first looked
	// at again.
	FirstLooksKey = "first-looks"
	maxFirstLooks = 2000
)

// firstLooks are the holders whom Vault did not know when the sweep looked, by when that
// was, and how many there were of late.
type firstLooks struct {
	storage logical.Storage

	mu     sync.Mutex // over storage, never over a provider's call
	loaded bool
	// at are those whose kill waits for a second look.
	at map[string]time.Time
	// lately are all who were unknown within unknownWindow, by when; judged is how many
	// holders were judged, by minute.
	lately map[string]time.Time
	judged map[int64]int
	// newer is true if a newer build's first looks are in storage, which stay there:
	// our own are then in memory alone.
	newer bool
}

var looksForm = form.Kind{Name: "first look at holders"}

// storedLooks is the form in storage.
type storedLooks struct {
	At map[string]time.Time `json:"at"`
}

// Invalidate makes the next sweep read again what another node has written at key. It
// reports whether key is one of the killer's.
func (k *Killer) Invalidate(key string) bool {
	if key != FirstLooksKey {
		return false
	}
	k.looks.forget()
	return true
}

// forget makes the next sweep read storage again.
func (f *firstLooks) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded = false
}

func (f *firstLooks) load(ctx context.Context) error {
	if f.loaded {
		return nil
	}
	raw, err := f.storage.Get(ctx, FirstLooksKey)
	if err != nil {
		return stored.Fault(err)
	}
	var entry storedLooks
	f.newer = false
	if raw != nil {
		// It only helps: what cannot be read of it must not end the offboarding of
		// those who are gone, so the looks begin anew.
		if err := looksForm.Decode(raw.Value, &entry); err != nil {
			entry, f.newer = storedLooks{}, errors.Is(err, form.ErrNewer)
		}
	}
	f.loaded, f.at = true, entry.At
	if f.at == nil {
		f.at = map[string]time.Time{}
	}
	return nil
}

// save remembers the oldest of the first looks.
func (f *firstLooks) save(ctx context.Context) error {
	if f.newer {
		return nil
	}
	if len(f.at) == 0 {
		if err := f.storage.Delete(ctx, FirstLooksKey); err != nil {
			return stored.Fault(err)
		}
		return nil
	}
	oldest := slices.SortedFunc(maps.Keys(f.at), func(x, y string) int {
		return cmp.Or(f.at[x].Compare(f.at[y]), cmp.Compare(x, y))
	})
	looks := storedLooks{At: map[string]time.Time{}}
	for _, holder := range oldest[:min(len(oldest), maxFirstLooks)] {
		looks.At[holder] = f.at[holder]
	}
	entry, err := stored.Entry(looksForm, FirstLooksKey, looks)
	if err == nil {
		err = f.storage.Put(ctx, entry)
	}
	if err != nil {
		return stored.Fault(errors.Join(errors.New("a first look at holders is in memory only"), err))
	}
	return nil
}
