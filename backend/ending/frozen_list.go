package ending

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// list returns at most limit of what is frozen, in the order of the names, beginning
// with those that come after one.
func (f *frozenNames) list(ctx context.Context, after string, limit int) ([]Frozen, error) {
	names, err := f.all(ctx)
	if err != nil {
		return nil, err
	}
	from, found := slices.BinarySearch(names, after)
	if found {
		from++
	}
	var page []Frozen
	for _, name := range names[from:] {
		if len(page) == limit {
			break
		}
		item, err := f.about(ctx, name)
		if errors.Is(err, stored.ErrAbsent) {
			continue // it was thawed meanwhile
		}
		if errors.Is(err, stored.ErrUndecodable) {
			item, err = &Frozen{}, nil // it is frozen, whatever is said of it
		}
		if err != nil {
			return nil, err
		}
		item.Name = name
		page = append(page, *item)
	}
	return page, nil
}

// all are the names of what is frozen, in order.
func (f *frozenNames) all(ctx context.Context) ([]string, error) {
	f.using.Lock()
	defer f.using.Unlock()
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	f.mu.RLock()
	names := maps.Clone(f.names)
	for key := range f.unsure {
		names[key] = ""
	}
	all := slices.Collect(maps.Keys(f.old))
	f.mu.RUnlock()
	for key, name := range names {
		if name == "" {
			item, err := f.stored.Get(ctx, key)
			if errors.Is(err, stored.ErrAbsent) {
				continue
			}
			if err != nil {
				return nil, err
			}
			name = item.Name
			f.learn(key, name)
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// learn keeps a name that its key does not tell.
func (f *frozenNames) learn(key, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.names[key]; ok {
		f.names[key] = name
	}
}

// about reads since when something is frozen, and by whom.
func (f *frozenNames) about(ctx context.Context, name string) (*Frozen, error) {
	f.mu.RLock()
	old, ok := f.old[name]
	f.mu.RUnlock()
	if ok {
		return &old, nil
	}
	return f.stored.Get(ctx, keyOf(name))
}
