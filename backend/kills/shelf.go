package kills

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Bounds on what is kept, however young it is. The oldest go first.
const (
	maxRecords = 10_000
	maxBytes   = 64 << 20
	// maxAged is how many one run of Keep drops because of their age: a clock that is wrong
	// for a minute does not cost them all.
	maxAged = 200
	// lookAgain is how long a record that is not complete is left alone, cutAfter after how
	// long one is taken for cut short that nobody adds to.
	lookAgain = 10 * time.Minute
	cutAfter  = 5 * time.Minute
	// maxLooks is how many grants one run looks for.
	maxLooks = 1000
)

// shelf is what is kept, as far as it has been read since the start. It is safe for
// concurrent use.
type shelf struct {
	mu    sync.Mutex
	whole bool
	items map[string]item
}

type item struct {
	bytes int
	open  bool
	// until is the head's.
	until  time.Time
	looked time.Time
	// after is the grant that was looked for last, where not all were.
	after string
}

func (s *shelf) put(h *Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items == nil {
		s.items = map[string]item{}
	}
	s.items[h.ID] = item{bytes: h.Bytes + size(h.Rest) + maxLine, open: h.open(), until: h.accepted(), looked: s.items[h.ID].looked, after: s.items[h.ID].after}
}

func (s *shelf) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.items[id]
	return ok
}

func (s *shelf) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.items, id)
}

func (s *shelf) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole, s.items = false, nil
}

func (s *shelf) isWhole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole
}

func (s *shelf) complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = true
}

// latest is the latest until of all.
func (s *shelf) latest() (until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.items {
		if of.until.After(until) {
			until = of.until
		}
	}
	return until
}

func (s *shelf) snapshot() map[string]item {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.items)
}

// looked notes how far a record was looked after; "" is to its end.
func (s *shelf) looked(id, after string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of, ok := s.items[id]
	if !ok {
		return
	}
	if of.after = after; after == "" {
		of.looked = now
	}
	s.items[id] = of
}

// ExposedUntil is until when a token that was to die may be accepted somewhere all the same,
// as the records say that have been read, or written, since the start.
func (b *Book) ExposedUntil() time.Time { return b.shelf.latest() }

// Invalidate forgets what is in memory of the records: another node has written key. It
// reports whether key is one of theirs.
func (b *Book) Invalidate(key string) bool {
	if !strings.HasPrefix(key, StoragePrefix) && !strings.HasPrefix(key, PagePrefix) {
		return false
	}
	b.shelf.forget()
	return true
}

// Keep writes what could not be written before, drops what is older than the retention or
// too much, and looks after what is not complete: alive says whether a grant is on record.
// It takes no longer than the slice by much, and leaves the rest to the next time.
func (b *Book) Keep(ctx context.Context, retention, slice time.Duration, alive func(ctx context.Context, id string) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, slice)
	defer cancel()
	if err := b.acquire(ctx); err != nil {
		return nil // somebody writes them now
	}
	defer b.release()
	err := b.tidy(ctx, retention, time.Now().Add(slice/2), alive)
	if isOver(ctx) {
		return nil // which was too long for it
	}
	return err
}

func (b *Book) tidy(ctx context.Context, retention time.Duration, until time.Time, alive func(ctx context.Context, id string) (bool, error)) error {
	problems := b.flushAll(ctx)
	whole, err := b.readShelf(ctx)
	if err != nil || !whole {
		return errors.Join(problems, err)
	}
	problems = errors.Join(problems, b.drop(ctx, retention))
	return errors.Join(problems, b.lookAfter(ctx, until, alive))
}

// readShelf reads what is kept, once after a start; false if it did not come to the end.
func (b *Book) readShelf(ctx context.Context) (whole bool, err error) {
	if b.shelf.isWhole() {
		return true, nil
	}
	names, err := b.heads.List(ctx, "")
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if b.shelf.has(name) {
			continue
		}
		if isOver(ctx) {
			return false, nil
		}
		h, err := b.heads.Get(ctx, name)
		switch {
		case errors.Is(err, stored.ErrAbsent):
		case stored.Unreadable(err):
			b.shelf.put(&Head{ID: name, Tried: time.Unix(0, 0)}) // it goes in its time
		case isOver(ctx):
			return false, nil
		case err != nil:
			return false, err
		default:
			b.shelf.put(h)
		}
	}
	b.shelf.complete()
	return true, nil
}

// isOver reports whether the slice is over.
func isOver(ctx context.Context) bool { return ctx.Err() != nil }

// drop deletes what is too old, and what is too much.
func (b *Book) drop(ctx context.Context, retention time.Duration) error {
	items, now := b.shelf.snapshot(), b.now()
	ids := slices.Sorted(maps.Keys(items))
	bytes := 0
	for _, of := range items {
		bytes += of.bytes
	}
	aged, early, left := 0, 0, len(ids)
	for _, id := range ids {
		ordered, ok := timeOf(id)
		old := ok && now.Sub(ordered) > retention && aged < maxAged
		if !old && left <= maxRecords && bytes <= maxBytes {
			break // those that follow are younger
		}
		if b.isRunning(id) {
			continue
		}
		if err := b.remove(ctx, id); err != nil {
			return err
		}
		if left, bytes = left-1, bytes-items[id].bytes; old {
			aged++
		} else {
			early++
		}
	}
	if early > 0 {
		b.logger().Warn("records of kills were dropped before their time: there are too many, or they are too large", "dropped", early, "kept", left, "bytes", bytes)
	}
	return nil
}

func (b *Book) isRunning(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.told[id]
	return r != nil && r.runs > 0
}

// remove deletes a record, its head at last: else its pages would be found by nobody.
func (b *Book) remove(ctx context.Context, id string) error {
	names, err := b.pages.List(ctx, id+"/")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := b.pages.Delete(ctx, id+"/"+name); err != nil {
			return err
		}
	}
	if err := b.heads.Delete(ctx, id); err != nil {
		return err
	}
	b.shelf.remove(id)
	return nil
}

// lookAfter finds what has died without a word to its record: after a crash, or because
// somebody else killed it.
func (b *Book) lookAfter(ctx context.Context, until time.Time, alive func(ctx context.Context, id string) (bool, error)) error {
	looks, now := 0, b.now()
	items := b.shelf.snapshot()
	for _, id := range slices.Sorted(maps.Keys(items)) {
		of := items[id]
		if sooner := now.Sub(of.looked); !of.open || sooner >= 0 && sooner < lookAgain || b.isRunning(id) {
			continue
		}
		if looks >= maxLooks || time.Now().After(until) {
			return nil
		}
		o, err := b.read(ctx, id)
		if errors.Is(err, stored.ErrAbsent) || stored.Unreadable(err) {
			continue
		}
		if err != nil {
			return err
		}
		if o.head.Tried.IsZero() && now.Sub(o.head.Ordered) < cutAfter {
			continue
		}
		n, after, err := o.look(ctx, now, of.after, maxLooks-looks, until, alive)
		looks += n
		if err != nil {
			return err
		}
		if err := b.store(ctx, &Record{id: id, open: o, always: true}); err != nil {
			return err
		}
		b.shelf.looked(id, after, now)
	}
	return nil
}

// look asks for each grant that was pending whether it is on record, of those that follow
// after one, and so many at the most. It returns after which it has stopped, "" at the end.
func (o *open) look(ctx context.Context, now time.Time, after string, most int, until time.Time, alive func(ctx context.Context, id string) (bool, error)) (looks int, stopped string, err error) {
	h := &o.head
	if h.Tried.IsZero() {
		h.Tried, h.Interrupted = now, true
	}
	for _, id := range slices.Sorted(maps.Keys(o.entries)) {
		e := o.entries[id]
		if !e.State.lives() || id <= after {
			continue
		}
		if looks >= most || looks > 0 && time.Now().After(until) {
			stopped = after
			break
		}
		lives, err := alive(ctx, id)
		if looks++; err != nil {
			return looks, "", err
		}
		after = id
		if !lives {
			o.end(Entry{ID: id, State: over(e.Expires, now), At: now})
		}
	}
	if until := h.Exposure.Pending; !until.Endless && now.After(until.At.Add(grant.ExpiryGrace)) && h.Unlisted[Pending] > 0 {
		h.Unlisted[Expired] += h.Unlisted[Pending]
		delete(h.Unlisted, Pending)
	}
	o.count()
	return looks, stopped, nil
}

// over is what a grant that is gone has come to.
func over(expires, now time.Time) State {
	if !expires.IsZero() && now.After(expires.Add(grant.ExpiryGrace)) {
		return Expired
	}
	return Dead
}
