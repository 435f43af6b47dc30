package grant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Find visits the grants that have a clue, whosesoever they are, as they are on record now
// and in no order, until visit returns false; one visit at a time. It needs nothing in memory:
// storage lists the ids of all grants, a list or two for each holder, and the records are read
// of those that may have the clue. So it costs more than to ask memory who has any, and is
// for the time after a start in which the scan has yet to read a million records; the scan
// gives way to it. What is wrong with one record, or one list, does not hide the others: Find
// returns it. A record that cannot be decoded is passed over, unless a newer version can.
func (l *Ledger) Find(ctx context.Context, of Clue, visit func(*Summary) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &finding{ledger: l, of: of, found: make(chan Summary)}
	go func() {
		defer close(f.found)
		group := errgroup.Group{}
		group.SetLimit(l.parallel)
		for bucket := range buckets {
			group.Go(func() error { f.bucket(ctx, bucket); return nil })
		}
		_ = group.Wait()
	}()
	more := true
	for s := range f.found {
		if more && !visit(&s) {
			more = false
			cancel()
		}
	}
	if !more {
		return nil
	}
	return errors.Join(f.problem, ctx.Err())
}

// finding is a Find under way.
type finding struct {
	ledger *Ledger
	of     Clue
	found  chan Summary

	mu      sync.Mutex
	problem error // the first one; the others say the same
}

func (f *finding) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.problem == nil {
		f.problem = err
	}
}

// inStorage does something there, to which the scan gives way.
func (f *finding) inStorage(do func()) {
	f.ledger.finding.Add(1)
	defer f.ledger.finding.Add(-1)
	do()
}

// list is a list of storage; of nothing if that fails.
func (f *finding) list(ctx context.Context, prefix string) (names []string) {
	f.inStorage(func() {
		var err error
		if names, err = f.ledger.storage.List(ctx, prefix); err != nil {
			f.fail(fmt.Errorf("cannot list the grants: %w", err))
		}
	})
	return names
}

// bucket goes through one. What is in memory only is noted before what is in storage is
// listed: between the two it may have got there.
func (f *finding) bucket(ctx context.Context, bucket int) {
	adopted := f.ledger.adoptedIn(bucket)
	all := folders(f.list(ctx, bucketFolder(bucket)))
	for _, at := range adopted {
		all = append(all, at.folder)
	}
	sort.Strings(all)
	for _, folder := range slices.Compact(all) {
		unit := address{bucket: bucket, folder: folder}
		shards := folders(f.list(ctx, inBucket(folder)))
		for _, at := range adopted {
			if at.folder == folder {
				shards = append(shards, at.shard)
			}
		}
		sort.Strings(shards)
		for _, unit.shard = range slices.Compact(shards) {
			if !f.shard(ctx, unit, adopted) {
				return
			}
		}
	}
}

// shard goes through one, and reports whether anybody wants to know more.
func (f *finding) shard(ctx context.Context, unit address, adopted []address) bool {
	var addresses []address
	f.inStorage(func() {
		var err error
		if addresses, err = f.ledger.shard(ctx, unit, adopted); err != nil {
			f.fail(err)
		}
	})
	for _, at := range addresses {
		id := at.id()
		if !f.of.mayBeOf(id) {
			continue
		}
		var s *Summary
		f.inStorage(func() { s = f.read(ctx, id) })
		if s == nil || !f.of.IsOf(s) {
			continue
		}
		select {
		case f.found <- *s:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// read is one grant; nil if there is none that this version reads. One that cannot be
// decoded is noted, as by the scan: it may be what is looked for.
func (f *finding) read(ctx context.Context, id string) *Summary {
	x := f.ledger.current()
	g, err := f.ledger.Get(ctx, id)
	if errors.Is(err, ErrUnreadable) {
		x.pass(id, err)
	}
	switch {
	case passedOver(err):
		return nil
	case err != nil:
		f.fail(err)
		return nil
	}
	s := g.Summary()
	return &s
}

// adoptedIn are what is in memory only of a bucket.
func (l *Ledger) adoptedIn(bucket int) []address {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []address
	for id := range l.adopted {
		if at, ok := addressOf(id); ok && at.bucket == bucket {
			out = append(out, at)
		}
	}
	return out
}
