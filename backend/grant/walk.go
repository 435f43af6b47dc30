package grant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Walk visits the holder's grants as they are on record now, in the order of their
// ids and after the one given, until visit returns false. It needs nothing in
// memory. A record that cannot be read does not hide the others: they are
// visited, and Walk returns what was wrong. One that cannot be decoded is passed
// over, unless a newer version of the plugin can.
func (l *Ledger) Walk(ctx context.Context, holder, after string, visit func(*Summary) bool) error {
	return l.walk(ctx, holder, after, everyOne, visit)
}

// selected is which of a holder's grants a walk looks at: shards, and ids in them.
type selected struct {
	unit func(address) bool
	id   func(string) bool
}

var everyOne = selected{unit: func(address) bool { return true }, id: func(string) bool { return true }}

// walk is Walk among some of the grants.
func (l *Ledger) walk(ctx context.Context, holder, after string, such selected, visit func(*Summary) bool) error {
	var problems error
	err := l.ids(ctx, holder, after, such, func(id string) (bool, error) {
		g, err := l.Get(ctx, id)
		switch {
		case passedOver(err):
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

// passedOver reports whether who looks for grants goes on as if there were none: it is gone,
// or nobody can decode its record.
func passedOver(err error) bool {
	return errors.Is(err, ErrGone) || errors.Is(err, ErrUnreadable) && !errors.Is(err, form.ErrNewer)
}

// ids visits such ids of the holder's grants, those in memory only included.
func (l *Ledger) ids(ctx context.Context, holder, after string, such selected, visit func(id string) (more bool, err error)) error {
	if !IsHolder(holder) {
		return nil
	}
	adopted := l.adoptedOf(holder)
	units, err := l.units(ctx, holder, adopted)
	if err != nil {
		return err
	}
	begin, resumed := addressOf(after)
	for _, unit := range units {
		if !such.unit(unit) || resumed && unit.less(address{early: begin.early, shard: begin.shard}) {
			continue
		}
		addresses, err := l.shard(ctx, unit, adopted)
		if err != nil {
			return err
		}
		for _, at := range addresses {
			if resumed && !begin.less(at) || !such.id(at.id()) {
				continue
			}
			if owner, _ := HolderOf(at.id()); owner != holder {
				continue // an early one of somebody whose id begins like this one's
			}
			if more, err := visit(at.id()); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// units are the shards in which the holder has grants, in order.
func (l *Ledger) units(ctx context.Context, holder string, adopted []address) ([]address, error) {
	var units []address
	if early, ok := earlyUnit(holder); ok && early.folder != "" {
		units = append(units, early)
	}
	shards, err := l.storage.List(ctx, inBucket(holder))
	if err != nil {
		return nil, fmt.Errorf("cannot list a holder's grants: %w", err)
	}
	shards = folders(shards)
	for _, at := range adopted {
		if !at.early {
			shards = append(shards, at.shard)
		}
	}
	sort.Strings(shards)
	for _, shard := range slices.Compact(shards) {
		units = append(units, address{bucket: bucketOf(holder), folder: holder, shard: shard})
	}
	return units, nil
}

// shard lists one shard, and what of it is in memory only.
func (l *Ledger) shard(ctx context.Context, unit address, adopted []address) ([]address, error) {
	names, err := l.storage.List(ctx, unit.path())
	if err != nil {
		return nil, fmt.Errorf("cannot list a holder's grants: %w", err)
	}
	for _, at := range adopted {
		if at.folder == unit.folder && at.shard == unit.shard {
			names = append(names, at.rest)
		}
	}
	sort.Strings(names)
	names = slices.Compact(names)
	addresses := make([]address, len(names))
	for i, rest := range names {
		addresses[i] = unit
		addresses[i].rest = rest
	}
	return addresses, nil
}

func (l *Ledger) adoptedOf(holder string) []address {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []address
	for id := range l.adopted {
		at, ok := addressOf(id)
		if owner, _ := HolderOf(id); ok && owner == holder {
			out = append(out, at)
		}
	}
	return out
}
