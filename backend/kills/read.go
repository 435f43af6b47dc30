package kills

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Read is a record with those of its entries that come after the grant of an id, so many
// at the most; more says that others follow. ErrAbsent of package stored if there is none.
// What could not be written yet is in it as well.
func (b *Book) Read(ctx context.Context, id, after string, limit int) (h *Head, entries []Entry, more bool, err error) {
	if !IsID(id) {
		return nil, nil, false, stored.ErrAbsent
	}
	if err := b.acquire(ctx); err != nil {
		return nil, nil, false, err
	}
	defer b.release()
	o, err := b.latest(ctx, id)
	if err != nil {
		return nil, nil, false, err
	}
	ids := slices.Sorted(maps.Keys(o.entries))
	from := sort.Search(len(ids), func(i int) bool { return ids[i] > after })
	page := ids[from:min(len(ids), from+limit)]
	for _, id := range page {
		entries = append(entries, o.entries[id])
	}
	head := o.head
	head.Rest = nil
	return &head, entries, from+limit < len(ids), nil
}

// latest is a record as it is now. Who calls is the writer.
func (b *Book) latest(ctx context.Context, id string) (*open, error) {
	b.mu.Lock()
	r := b.told[id]
	b.mu.Unlock()
	if r == nil {
		return b.read(ctx, id)
	}
	if err := b.flush(ctx, r); err != nil && r.open == nil {
		return nil, err
	}
	if r.open == nil || r.open.head.ID == "" || !r.open.stored && b.unwanted(r) {
		return nil, stored.ErrAbsent
	}
	return r.open, nil
}

// List are records by the time at which they were ordered: those that come after a name,
// so many at the most.
func (b *Book) List(ctx context.Context, after string, limit int) ([]Head, error) {
	if err := b.acquire(ctx); err != nil {
		return nil, err
	}
	defer b.release()
	names, err := b.heads.List(ctx, "")
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	names = append(names, slices.Collect(maps.Keys(b.told))...)
	b.mu.Unlock()
	slices.Sort(names)
	names = slices.Compact(names)
	var heads []Head
	for _, name := range names[sort.Search(len(names), func(i int) bool { return names[i] > after }):] {
		if len(heads) == limit {
			break
		}
		h, err := b.headOf(ctx, name)
		switch {
		case errors.Is(err, stored.ErrAbsent):
		case stored.Unreadable(err):
			heads = append(heads, Head{ID: name}) // it is there, and says nothing
		case err != nil:
			return nil, err
		default:
			heads = append(heads, *h)
		}
	}
	return heads, nil
}

func (b *Book) headOf(ctx context.Context, id string) (*Head, error) {
	b.mu.Lock()
	_, told := b.told[id]
	b.mu.Unlock()
	if !told {
		return b.heads.Get(ctx, id)
	}
	o, err := b.latest(ctx, id)
	if err != nil {
		return nil, err
	}
	head := o.head
	return &head, nil
}

// read reads all of a record.
func (b *Book) read(ctx context.Context, id string) (*open, error) {
	h, err := b.heads.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	o := newOpen()
	o.head, o.stored = *h, true
	names, err := b.pages.List(ctx, id+"/")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(names, func(x, y string) int { return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)) })
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			continue
		}
		p, err := b.pages.Get(ctx, id+"/"+name)
		if errors.Is(err, stored.ErrAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range p.Entries {
			o.recall(e)
		}
	}
	o.head.Pages = max(o.head.Pages, len(names))
	for at, e := range o.head.Rest {
		o.rest[e.ID] = at
		o.recall(e)
	}
	o.count()
	return o, nil
}

// recall takes an entry from storage.
func (o *open) recall(e Entry) {
	if known, ok := o.entries[e.ID]; ok {
		known.add(e)
		e = known
	}
	o.entries[e.ID] = e
}
