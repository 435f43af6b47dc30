package backend

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// frozenKey holds everything that is frozen, in one entry: it is read whole on
// every issue and changed by hand only.
const frozenKey = "frozen"

// The kinds of things that can be frozen, and killed by.
const (
	kindEntity   = "entity"
	kindRole     = "role"
	kindProvider = "provider"
)

// freeze says since when something is frozen and by whom.
type freeze struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"`
}

// freezer remembers what may get no new grants. A freeze is in memory before it
// returns, and an issue looks again after it has recorded its grant: so either
// the kill that follows a freeze finds the grant, or the issue finds the freeze.
type freezer struct {
	storage logical.Storage

	writing sync.Mutex // over storage; never over a provider's call
	mu      sync.RWMutex
	loaded  bool
	items   map[string]freeze // by "<kind>/<name>"
	// count numbers this process's freezes, and last is each thing's latest one: a
	// mint that was in flight then is not handed out, thawed meanwhile or not.
	count uint64
	last  map[string]uint64
}

func newFreezer(storage logical.Storage) *freezer {
	return &freezer{storage: storage, last: map[string]uint64{}}
}

// load returns the frozen things; the map is never changed once it is there.
func (f *freezer) load(ctx context.Context) (map[string]freeze, error) {
	f.mu.RLock()
	items, loaded := f.items, f.loaded
	f.mu.RUnlock()
	if loaded {
		return items, nil
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	return f.read(ctx)
}

func (f *freezer) read(ctx context.Context) (map[string]freeze, error) {
	raw, err := f.storage.Get(ctx, frozenKey)
	if err != nil {
		return nil, storageFault(err)
	}
	items := map[string]freeze{}
	if raw != nil {
		if err := raw.DecodeJSON(&items); err != nil {
			return nil, storageFault(err)
		}
	}
	f.keep(items, true)
	return items, nil
}

func (f *freezer) keep(items map[string]freeze, loaded bool) {
	f.mu.Lock()
	f.items, f.loaded = items, loaded
	f.mu.Unlock()
}

// forget makes the next look read storage again.
func (f *freezer) forget() { f.keep(nil, false) }

// change freezes or thaws one thing, durably.
func (f *freezer) change(ctx context.Context, key string, to *freeze) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	current, err := f.read(ctx)
	if err != nil {
		return err
	}
	items := maps.Clone(current)
	if to == nil {
		delete(items, key)
	} else if _, already := items[key]; !already {
		items[key] = *to
	}
	entry, err := logical.StorageEntryJSON(frozenKey, items)
	if err != nil {
		return storageFault(err)
	}
	if err := f.storage.Put(ctx, entry); err != nil {
		return storageFault(err)
	}
	f.keep(items, true)
	if to != nil {
		f.mu.Lock()
		f.count++
		f.last[key] = f.count
		f.mu.Unlock()
	}
	return nil
}

// moment is now, for checkSince.
func (f *freezer) moment() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.count
}

// checkSince is check, and also returns what was frozen since the moment and has
// been thawed again.
func (f *freezer) checkSince(ctx context.Context, moment uint64, holder, role, provider string) ([]*fault.Error, error) {
	reasons, err := f.check(ctx, holder, role, provider)
	if err != nil || len(reasons) > 0 {
		return reasons, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, what := range freezable(holder, role, provider) {
		if f.last[what.key()] > moment {
			reasons = append(reasons, fault.New(fault.AccessDenied, "the %s was frozen meanwhile: try again", what.kind))
		}
	}
	return reasons, nil
}

// check returns what of a grant's is frozen.
func (f *freezer) check(ctx context.Context, holder, role, provider string) ([]*fault.Error, error) {
	items, err := f.load(ctx)
	if err != nil {
		return nil, err
	}
	var reasons []*fault.Error
	for _, what := range freezable(holder, role, provider) {
		if _, frozen := items[what.key()]; frozen {
			reasons = append(reasons, fault.New(fault.AccessDenied, "the %s is frozen: an operator has stopped its grants", what.kind))
		}
	}
	return reasons, nil
}

// thing is one that can be frozen.
type thing struct{ kind, name string }

func (t thing) key() string { return t.kind + "/" + t.name }

// freezable is all that a freeze of which stops a grant.
func freezable(holder, role, provider string) []thing {
	return []thing{{kindEntity, holder}, {kindRole, role}, {kindProvider, provider}}
}

// list returns the keys in order, and when and by whom each was frozen.
func (f *freezer) list(ctx context.Context) ([]string, map[string]any, error) {
	items, err := f.load(ctx)
	if err != nil {
		return nil, nil, err
	}
	info := map[string]any{}
	for key, item := range items {
		info[key] = map[string]any{"since": stamp(item.Since), "by": item.By}
	}
	return slices.Sorted(maps.Keys(items)), info, nil
}
