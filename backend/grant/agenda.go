package grant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// pagePrefix is where the agenda's pages lie: <prefix><run>/<number>.
const pagePrefix = "due/"

// Bounds of the agenda. With them a page is written for every few thousand
// issues, and stays well below what storage takes as one entry (512 KiB in the
// smallest).
const (
	agendaRoom = 50_000 // ids in memory
	pageSize   = 3_000  // ids in a page
)

// agenda is when which grant is the sweep's business: the next ones in memory, the
// others in pages in storage. An appointment may be too early, and then the record
// says the right time; it is never too late. A grant that has died is crossed out
// if it is in memory, and else found gone when its time comes.
type agenda struct {
	// room is how many entries there may be before some have to go into pages.
	room    int
	entries map[string]entry
	// suspects are due at once: records that could not be read when they were to be
	// killed, by why they were.
	suspects map[string]string
	pages    []page
	written  uint64
}

// entry is one appointment, in milliseconds, and as what the grant has been counted.
type entry struct {
	due int64
	countedAs
	// sure is false after a return from a page: the grant may be dead, and of its
	// countedAs no more than since is known.
	sure bool
}

// page is what is known of a page without reading it.
type page struct {
	key    string
	first  int64 // the earliest appointment on it
	outbox bool  // one of them is in the outbox
}

// leaf is a page's form in storage.
type leaf struct {
	IDs   []string `json:"ids"`
	Due   []int64  `json:"due"`
	Since []int64  `json:"since"`
}

func newAgenda(room int) agenda {
	return agenda{room: room, entries: map[string]entry{}, suspects: map[string]string{}}
}

// named is an entry with its id.
type named struct {
	id string
	entry
}

// far is what goes into pages now: all but the half of the room that is due next. What is
// in the outbox goes last.
func (x *index) far() [][]named {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.entries) <= x.room {
		return nil
	}
	all := make([]named, 0, len(x.entries))
	for id, e := range x.entries {
		all = append(all, named{id, e})
	}
	sort.Slice(all, func(i, j int) bool {
		if a, b := all[i].since != 0, all[j].since != 0; a != b {
			return a
		}
		return all[i].due < all[j].due
	})
	var pages [][]named
	for rest := all[x.room/2:]; len(rest) > 0; {
		n := min(len(rest), pageSize)
		pages, rest = append(pages, rest[:n]), rest[n:]
	}
	return pages
}

// moved takes out of memory what has been written to a page, unless it changed meanwhile:
// then it stays, and is looked at once in vain when the page's time has come.
func (x *index) moved(key string, entries []named) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := page{key: key, first: math.MaxInt64}
	for _, n := range entries {
		p.first = min(p.first, n.due)
		p.outbox = p.outbox || n.since != 0
		if x.entries[n.id] == n.entry {
			delete(x.entries, n.id)
		}
	}
	x.pages = append(x.pages, p)
}

// returned takes back what was on a page. The earlier of two appointments stands.
func (x *index) returned(key string, l leaf) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, id := range l.IDs {
		back := entry{due: l.Due[i], countedAs: countedAs{since: l.Since[i]}}
		if e, known := x.entries[id]; known {
			back = entry{due: min(e.due, back.due), countedAs: e.countedAs, sure: e.sure}
		}
		x.entries[id] = back
	}
	x.pages = slices.DeleteFunc(x.pages, func(p page) bool { return p.key == key })
}

func (x *index) has(key string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(x.pages, func(p page) bool { return p.key == key })
}

// nextPage is a page with something due until then, or with something that is in
// the outbox; false if there is none.
func (x *index) nextPage(until int64, outbox bool) (string, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.pages {
		if p.first <= until || (outbox && p.outbox) {
			return p.key, true
		}
	}
	return "", false
}

// appointments are at most limit ids that are due until then, and with outbox
// whatever is in the outbox, but not those to skip.
func (x *index) appointments(until int64, outbox bool, skip func(string) bool, limit int) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id := range x.suspects {
		if len(ids) < limit && !skip(id) {
			ids = append(ids, id)
		}
	}
	for id, e := range x.entries {
		if len(ids) == limit {
			break
		}
		if _, suspect := x.suspects[id]; suspect || (e.due > until && (!outbox || e.since == 0)) || skip(id) {
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

// makeRoom writes the farther appointments into pages.
func (l *Ledger) makeRoom(ctx context.Context) error {
	l.spilling.Lock()
	defer l.spilling.Unlock()
	x := l.current()
	for _, entries := range x.far() {
		x.mu.Lock()
		x.written++
		key := fmt.Sprintf("%s%s/%d", pagePrefix, x.run, x.written)
		x.mu.Unlock()
		if err := l.writePage(ctx, key, entries); err != nil {
			x.setRoom(l.room/4, true) // not again with the very next grant
			return err
		}
		x.moved(key, entries)
	}
	x.setRoom(l.room, false)
	return nil
}

// setRoom sets how many entries there may be, or how many more.
func (x *index) setRoom(n int, more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if more {
		n += len(x.entries)
	}
	x.room = n
}

func (l *Ledger) writePage(ctx context.Context, key string, entries []named) error {
	var content leaf
	for _, n := range entries {
		content.IDs, content.Due, content.Since = append(content.IDs, n.id), append(content.Due, n.due), append(content.Since, n.since)
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("cannot encode a page of the agenda: %w", err)
	}
	if err := l.storage.Put(ctx, &logical.StorageEntry{Key: key, Value: raw}); err != nil {
		return fmt.Errorf("cannot write a page of the agenda: %w", err)
	}
	return nil
}

// makeRoomSoon is makeRoom in the background, once at a time: an issue does not
// wait for it.
func (l *Ledger) makeRoomSoon() {
	if !l.making.CompareAndSwap(false, true) {
		return
	}
	l.background(func() {
		defer l.making.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), pageTimeout)
		defer cancel()
		_ = l.makeRoom(ctx) // tried again with the next thousands
	})
}

const pageTimeout = time.Minute

// fetch reads a page back and deletes it.
func (l *Ledger) fetch(ctx context.Context, x *index, key string) error {
	l.spilling.Lock()
	defer l.spilling.Unlock()
	if !x.has(key) {
		return nil // somebody else was faster
	}
	raw, err := l.storage.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("cannot read a page of the agenda: %w", err)
	}
	var content leaf
	if raw == nil || json.Unmarshal(raw.Value, &content) != nil || len(content.Due) != len(content.IDs) || len(content.Since) != len(content.IDs) {
		x.returned(key, leaf{})
		if !l.invalidate(x) {
			return nil // nobody needs it any more
		}
		// What was on it is found in the records.
		return errors.New("a page of the agenda is lost: the records are read again")
	}
	x.returned(key, content)
	if err := l.storage.Delete(ctx, key); err != nil {
		return fmt.Errorf("cannot delete a page of the agenda: %w", err)
	}
	return nil
}

// deletePages deletes the pages of earlier runs.
func (l *Ledger) deletePages(ctx context.Context) error {
	runs, err := l.storage.List(ctx, pagePrefix)
	if err != nil {
		return fmt.Errorf("cannot list the agenda's pages: %w", err)
	}
	for _, folder := range runs {
		if folder == l.current().run+"/" {
			continue
		}
		names, err := l.storage.List(ctx, pagePrefix+folder)
		if err != nil {
			return fmt.Errorf("cannot list the agenda's pages: %w", err)
		}
		for _, name := range names {
			if err := l.storage.Delete(ctx, pagePrefix+folder+name); err != nil {
				return fmt.Errorf("cannot delete a page of the agenda: %w", err)
			}
		}
	}
	return nil
}
