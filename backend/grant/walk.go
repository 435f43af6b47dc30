package grant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
)

// Walk visits the holder's grants as they are on record now, in the order of their
// ids and after the one given, until visit returns false. It needs nothing in
// memory. A record that cannot be read does not hide the others: they are
// visited, and Walk returns what was wrong. One that cannot be decoded is passed
// over.
func (l *Ledger) Walk(ctx context.Context, holder, after string, visit func(*Summary) bool) error {
	var problems error
	err := l.ids(ctx, holder, after, func(id string) (bool, error) {
		g, err := l.Get(ctx, id)
		switch {
		case errors.Is(err, ErrGone), errors.Is(err, ErrUnreadable):
			return true, nil
		case err != nil:
			if problems == nil { // the others say the same
				problems = err
			}
			return ctx.Err() == nil, nil
		}
		s := g.Summary()
		return visit(&s), nil
	})
	return errors.Join(err, problems)
}

// ids visits the ids of the holder's grants, those in memory only included.
func (l *Ledger) ids(ctx context.Context, holder, after string, visit func(id string) (more bool, err error)) error {
	if _, ok := HolderOf(holder + ".x"); !ok {
		return nil
	}
	adopted := l.adoptedOf(holder)
	shards, err := l.storage.List(ctx, holderFolder(holder))
	if err != nil {
		return fmt.Errorf("cannot list a holder's grants: %w", err)
	}
	shards = folders(shards)
	for _, at := range adopted {
		shards = append(shards, at.shard)
	}
	sort.Strings(shards)
	begin, _ := placeOf(after)
	for _, shard := range slices.Compact(shards) {
		if shard < begin.shard {
			continue
		}
		places, err := l.shard(ctx, place{bucket: bucketOf(holder), holder: holder, shard: shard}, adopted)
		if err != nil {
			return err
		}
		for _, at := range places {
			if after != "" && !begin.less(at) {
				continue
			}
			if more, err := visit(at.id()); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// shard lists one shard, and what of it is in memory only.
func (l *Ledger) shard(ctx context.Context, unit place, adopted []place) ([]place, error) {
	names, err := l.storage.List(ctx, unit.folder())
	if err != nil {
		return nil, fmt.Errorf("cannot list a holder's grants: %w", err)
	}
	for _, at := range adopted {
		if at.shard == unit.shard {
			names = append(names, at.rest)
		}
	}
	sort.Strings(names)
	names = slices.Compact(names)
	places := make([]place, len(names))
	for i, rest := range names {
		places[i] = unit
		places[i].rest = rest
	}
	return places, nil
}

func (l *Ledger) adoptedOf(holder string) []place {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []place
	for id := range l.adopted {
		if at, ok := placeOf(id); ok && at.holder == holder {
			out = append(out, at)
		}
	}
	return out
}
