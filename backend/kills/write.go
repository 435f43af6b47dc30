package kills

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// writeBudget bounds the writing of one record, flushBudget that of all: a storage that
// hangs keeps nobody for longer.
const (
	writeBudget = 15 * time.Second
	flushBudget = 30 * time.Second
)

// open is a record as its writer has it.
type open struct {
	head   Head
	stored bool
	// entries are what it says of each grant that it lists, rest where it does so in
	// head.Rest.
	entries map[string]Entry
	rest    map[string]int
}

// taken is what was told since the last time.
type taken struct {
	began    *Head
	running  bool
	anew     bool
	events   []event
	apart    map[State]int
	exposure Exposure
	tried    time.Time
}

// acquire makes the caller the writer until release, or fails when ctx ends.
func (b *Book) acquire(ctx context.Context) error {
	select {
	case b.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return stored.Fault(ctx.Err())
	}
}

func (b *Book) release() { <-b.writing }

// Flush writes what was told.
func (b *Book) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushBudget)
	defer cancel()
	if err := b.acquire(ctx); err != nil {
		return err
	}
	defer b.release()
	return b.flushAll(ctx)
}

// flushAll is Flush for the writer.
func (b *Book) flushAll(ctx context.Context) error {
	var problems error
	for _, r := range b.toWrite() {
		if isOver(ctx) {
			problems = errors.Join(problems, ctx.Err())
			break
		}
		problems = errors.Join(problems, b.flush(ctx, r))
	}
	if problems != nil {
		b.logger().Error("records of kills could not be written yet, and are in memory only; the kills go on", "records", b.Unwritten(), "error", problems)
	}
	return problems
}

// Unwritten is how many records have something that is not in storage.
func (b *Book) Unwritten() int { return len(b.toWrite()) }

func (b *Book) toWrite() []*Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	var records []*Record
	for _, id := range slices.Sorted(maps.Keys(b.told)) {
		if b.told[id].changed {
			records = append(records, b.told[id])
		}
	}
	return records
}

// flush writes one record. Who calls is the writer.
func (b *Book) flush(ctx context.Context, r *Record) error {
	ctx, cancel := context.WithTimeout(ctx, writeBudget)
	defer cancel()
	if err := b.hear(ctx, r); err != nil {
		if errors.Is(err, stored.ErrAbsent) {
			return nil // it is kept no more
		}
		if stored.Unreadable(err) {
			b.logger().Error("the record of a kill cannot be read, and is not added to", "kill", r.id, "error", err)
			b.forget(r)
			return nil
		}
		return err
	}
	if err := b.store(ctx, r); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		r.changed = true
		return err
	}
	b.close(r)
	return nil
}

// hear adds what was told to the record in memory.
func (b *Book) hear(ctx context.Context, r *Record) error {
	if r.open == nil {
		o, err := b.read(ctx, r.id)
		if err != nil && !errors.Is(err, stored.ErrAbsent) {
			return err
		}
		if o == nil {
			if b.isOld(r) {
				b.forget(r)
				return stored.ErrAbsent
			}
			o = newOpen()
		}
		r.open = o
	}
	r.open.apply(b.take(r))
	return nil
}

func newOpen() *open {
	return &open{entries: map[string]Entry{}, rest: map[string]int{}}
}

// isOld reports whether nobody has begun the record in this process.
func (b *Book) isOld(r *Record) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return r.began == nil
}

func (b *Book) take(r *Record) taken {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := taken{running: r.runs > 0, anew: r.anew, events: r.events, apart: r.apart, exposure: r.exposure, tried: r.tried}
	if r.began != nil {
		began := *r.began
		began.What = slices.Clone(began.What)
		t.began = &began
	}
	b.waiting -= len(r.events)
	r.anew, r.events, r.apart, r.exposure, r.tried, r.changed = false, nil, map[State]int{}, Exposure{}, time.Time{}, false
	return t
}

// forget drops a record to which nothing can be added.
func (b *Book) forget(r *Record) {
	b.take(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.runs == 0 && b.told[r.id] == r {
		delete(b.told, r.id)
	}
}

// close drops what is in storage and to which nobody adds at the moment.
func (b *Book) close(r *Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.runs == 0 && !r.changed && b.told[r.id] == r {
		delete(b.told, r.id)
	}
}

// apply takes what was told.
func (o *open) apply(t taken) {
	h := &o.head
	if t.began != nil {
		h.begin(t.began)
	}
	if h.Unlisted == nil {
		h.Unlisted = map[State]int{}
	}
	if t.anew { // what has gone stays counted, what has not is found again
		for _, state := range []State{Pending, Released, ExpiryOnly} {
			delete(h.Unlisted, state)
		}
	}
	for _, e := range t.events {
		if e.found {
			o.find(e.entry)
		} else {
			o.end(e.entry)
		}
	}
	for state, n := range t.apart {
		if h.Unlisted[state] += n; h.Unlisted[state] <= 0 {
			delete(h.Unlisted, state)
		}
	}
	h.Exposure.join(t.exposure)
	switch {
	case !t.tried.IsZero():
		h.Tried = t.tried
	case t.running:
		h.Tried = time.Time{}
	}
	o.count()
}

// count counts anew: a crash may have come between the writes of a page and of the head.
func (o *open) count() {
	listed := map[State]int{}
	for _, e := range o.entries {
		listed[e.State]++
	}
	o.head.Counts = sum(listed, o.head.Unlisted)
}

// begin takes what is said of a kill when it begins, or when another part of it does.
func (h *Head) begin(began *Head) {
	if h.ID == "" {
		*h = *began
		return
	}
	h.add(began.What)
	h.Froze, h.Interrupted = h.Froze || began.Froze, h.Interrupted || began.Interrupted
}

// add names things that are to die.
func (h *Head) add(what []string) {
	for _, name := range what {
		if name = line(name, maxLine); !slices.Contains(h.What, name) && len(h.What) < maxWhat {
			h.What = append(h.What, name)
		}
	}
}

func (o *open) find(e Entry) {
	if _, known := o.entries[e.ID]; known {
		return // two parts of the kill mean it, or it was found before a crash
	}
	if e.State == Pending {
		o.head.Exposure.find(&e)
	}
	if len(o.entries) >= maxListed {
		shift(o.head.Unlisted, "", e.State)
		return
	}
	o.put(e)
}

func (o *open) end(e Entry) {
	known, listed := o.entries[e.ID]
	if !listed {
		if o.head.Unlisted[Pending] > 0 && e.State != Pending {
			shift(o.head.Unlisted, Pending, e.State)
			o.head.Exposure.end(&e)
		}
		return
	}
	if known.State.final() {
		return
	}
	known.add(e)
	o.head.Exposure.end(&known)
	o.put(known)
}

// put makes an entry the last word on its grant.
func (o *open) put(e Entry) {
	o.entries[e.ID] = e
	if at, ok := o.rest[e.ID]; ok {
		o.head.Rest[at] = e
		return
	}
	o.rest[e.ID] = len(o.head.Rest)
	o.head.Rest = append(o.head.Rest, e)
}

// store writes the record: what fills a page, then the head with the rest. A record
// without a grant is kept only if somebody wants it.
func (b *Book) store(ctx context.Context, r *Record) error {
	o := r.open
	if b.unwanted(r) {
		if !o.stored {
			return nil
		}
		return b.remove(ctx, r.id)
	}
	for len(o.head.Rest) >= pageSize {
		if !o.stored { // a page without a head is found by nobody
			if err := b.putHead(ctx, o, nil); err != nil {
				return err
			}
		}
		full := page{Entries: o.head.Rest[:pageSize]}
		if err := b.pages.Change(ctx, pageName(r.id, o.head.Pages+1), func(*page) (*page, error) { return &full, nil }); err != nil {
			return err
		}
		o.head.Pages++
		o.head.Bytes += size(full.Entries)
		o.head.Rest = slices.Clone(o.head.Rest[pageSize:])
		o.rest = map[string]int{}
		for at, e := range o.head.Rest {
			o.rest[e.ID] = at
		}
	}
	return b.putHead(ctx, o, o.head.Rest)
}

func (b *Book) putHead(ctx context.Context, o *open, rest []Entry) error {
	head := o.head
	head.Rest = rest
	err := b.heads.Change(ctx, head.ID, func(*Head) (*Head, error) { return &head, nil })
	if err == nil {
		o.stored = true
		b.shelf.put(&head)
	}
	return err
}

func (b *Book) unwanted(r *Record) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &r.open.head
	return !r.always && !h.Tried.IsZero() && len(h.Counts) == 0
}

func size(entries []Entry) (bytes int) {
	for i := range entries {
		bytes += entries[i].size()
	}
	return bytes
}

func pageName(id string, number int) string { return fmt.Sprintf("%s/%05d", id, number) }
