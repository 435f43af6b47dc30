package grant

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// The scan makes the index from the records: bucket by bucket, holder by holder,
// shard by shard. What requests write while it runs is counted by them, once (see
// index.note). It gives way to requests unless somebody waits for it.
const (
	scanParallel = 4
	scanYield    = 300 * time.Microsecond // per record while requests are under way
	findYield    = 20 * time.Millisecond  // the same while a Find is
	// maxFindYields is how often: a minute in all, or kills without an end would keep the
	// scan from its own, which they wait for in the end.
	maxFindYields = scanParallel * int64(time.Minute/findYield)
	// maxPasses is how often Load begins again because of an Invalidate.
	maxPasses = 10
)

var errStale = errors.New("the records of grants keep changing while they are read")

// scanRun is one attempt.
type scanRun struct {
	of   *index
	done chan struct{}
	err  error // to be read when done
}

// Load waits until every record has been read; it is cheap afterwards. An attempt
// that failed is taken up by the next call where it ended.
func (l *Ledger) Load(ctx context.Context) error {
	l.waiters.Add(1)
	defer l.waiters.Add(-1)
	return l.LoadAtEase(ctx)
}

// LoadAtEase is Load for those who are in no hurry: it gives way to requests.
func (l *Ledger) LoadAtEase(ctx context.Context) error {
	for range maxPasses {
		if l.Loaded() {
			return nil
		}
		run := l.joinScan()
		select {
		case <-run.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if run.err != nil && !errors.Is(run.err, errStale) {
			return run.err
		}
	}
	if l.Loaded() {
		return nil
	}
	return errStale
}

// Loaded reports whether every record has been read, without waiting for it.
func (l *Ledger) Loaded() bool {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.scanned
}

// joinScan is the attempt under way, or a new one.
func (l *Ledger) joinScan() *scanRun {
	x := l.current()
	l.scanning.Lock()
	defer l.scanning.Unlock()
	if run := l.scan; run != nil && run.of == x && !closed(run.done) {
		return run
	}
	run := &scanRun{of: x, done: make(chan struct{})}
	l.scan = run
	go func() {
		defer close(run.done)
		run.err = l.readAll(context.Background(), x)
	}()
	return run
}

func (l *Ledger) readAll(ctx context.Context, x *index) error {
	if err := l.deletePages(ctx); err != nil && !errors.Is(err, logical.ErrReadOnly) {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(l.parallel)
	for bucket := range buckets {
		group.Go(func() error { return l.readBucket(ctx, x, bucket) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.scanned = true
	return nil
}

func (l *Ledger) readBucket(ctx context.Context, x *index, bucket int) error {
	done, last := x.reached(bucket)
	if done {
		return nil
	}
	names, err := l.storage.List(ctx, bucketFolder(bucket))
	if err != nil {
		return fmt.Errorf("cannot list the holders: %w", err)
	}
	all := folders(names)
	sort.Strings(all)
	for _, folder := range all {
		if folder < last.folder {
			continue
		}
		if err := l.readFolder(ctx, x, address{bucket: bucket, folder: folder}, last); err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.scan[bucket] = progress{done: true}
	return nil
}

// readFolder reads a holder's shards from where an earlier attempt ended.
func (l *Ledger) readFolder(ctx context.Context, x *index, unit, last address) error {
	names, err := l.storage.List(ctx, inBucket(unit.folder))
	if err != nil {
		return fmt.Errorf("cannot list a holder's grants: %w", err)
	}
	shards := folders(names)
	sort.Strings(shards)
	for _, unit.shard = range shards {
		if unit.folder == last.folder && unit.shard < last.shard {
			continue
		}
		x.come(unit) // before the list: what is written after it counts itself
		addresses, err := l.shard(ctx, unit, nil)
		if err != nil {
			return err
		}
		for _, at := range addresses {
			if err := l.readOne(ctx, x, at.id()); err != nil {
				return err
			}
		}
	}
	return nil
}

// reached is the unit that the scan is at.
func (x *index) reached(bucket int) (done bool, unit address) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := &x.scan[bucket]
	return p.done, address{folder: p.folder, shard: p.shard}
}

// come makes unit the one that the scan is at.
func (x *index) come(unit address) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := &x.scan[unit.bucket]
	if p.folder != unit.folder || p.shard != unit.shard {
		p.folder, p.shard, p.seen = unit.folder, unit.shard, map[string]struct{}{}
	}
}

func (l *Ledger) readOne(ctx context.Context, x *index, id string) error {
	switch {
	case l.finding.Load() > 0 && x.yields.Add(1) <= maxFindYields: // a kill; what else waits for the scan waits for that
		time.Sleep(findYield)
	case l.busy.Load() > 0 && l.waiters.Load() == 0:
		time.Sleep(scanYield)
	}
	full, err := l.countOne(ctx, x, id)
	if err != nil || !full {
		return err
	}
	if err := l.makeRoom(ctx); !errors.Is(err, logical.ErrReadOnly) {
		return err
	}
	return nil // not the active node: it sweeps nothing, and keeps them in memory
}

func (l *Ledger) countOne(ctx context.Context, x *index, id string) (full bool, err error) {
	lock := l.lock(id)
	defer lock.Unlock()
	if l.current() != x || ctx.Err() != nil {
		return false, errStale
	}
	x.mu.Lock()
	counted := x.counted(id)
	x.mu.Unlock()
	if counted {
		return false, nil
	}
	g, err := l.Get(ctx, id) // an adopted one is newer than its record
	switch {
	case errors.Is(err, ErrGone):
		return false, nil
	case errors.Is(err, ErrUnreadable):
		x.pass(id, err)
		return false, nil
	case err != nil:
		return false, err
	}
	full = x.enter(g, nil)
	l.told(g)
	return full, nil
}

// maxUnreadable bounds how many ids of unreadable records are kept.
const maxUnreadable = 1000

// pass notes a record that cannot be decoded, and why.
func (x *index) pass(id string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if errors.Is(err, form.ErrNewer) {
		x.newer = err
	}
	if len(x.unreadable) < maxUnreadable {
		x.unreadable[id] = struct{}{}
	}
}
