package kills

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Where records are kept: heads by id, pages by id and number.
const (
	StoragePrefix = "killed/"
	PagePrefix    = "killed-page/"
)

// Bounds.
const (
	// maxListed is how many grants a record lists; the rest it counts.
	maxListed = 10_000
	// pageSize is how many entries one page holds, which keeps it well below what a
	// storage takes as one entry.
	pageSize = 250
	// maxWaiting is how much was told and has not been written that memory holds.
	maxWaiting = 50_000
	// eager is how much of that does not wait for the pause.
	eager = 1000
	// maxTold is how many records memory holds that are added to, or could not be written.
	maxTold = 10_000
	// maxWhat is how many things one record names.
	maxWhat = 100
)

// Book is all records. It is safe for concurrent use. Telling it something never waits for
// storage.
type Book struct {
	heads  *stored.Keeper[Head]
	pages  *stored.Keeper[page]
	now    func() time.Time
	logger func() hclog.Logger
	pause  time.Duration // what was told waits so long for more
	// background runs what nobody waits for.
	background func(func())

	mu      sync.Mutex // over what was told; never over storage
	told    map[string]*Record
	waiting int
	running bool
	wake    chan struct{}

	writing chan struct{} // one writer or reader at a time; over storage
	shelf   shelf
}

// NewBook keeps records in storage; nothing is read yet.
func NewBook(storage logical.Storage, now func() time.Time, logger func() hclog.Logger) *Book {
	return &Book{
		heads: stored.NewKeeper(storage, StoragePrefix, stored.KindOf[Head](headForm)),
		pages: stored.NewKeeper(storage, PagePrefix, stored.KindOf[page](pageForm)),
		now:   now, logger: logger, pause: 2 * time.Second, background: func(f func()) { go f() }, told: map[string]*Record{}, wake: make(chan struct{}, 1), writing: make(chan struct{}, 1),
	}
}

// Record is a record that somebody adds to. A nil one takes everything and keeps nothing.
type Record struct {
	book *Book
	id   string

	// What follows is the book's mu's.
	began *Head // as its kill said, if it was begun in this process
	runs  int
	// changed says that something is to be written.
	changed bool
	anew    bool // the grants of a kill that had begun before are counted anew
	always  bool
	listed  int
	events  []event
	// apart is of grants that are only counted.
	apart    map[State]int
	exposure Exposure
	tried    time.Time

	open *open // as it was read; the writer's
}

// event is something that was told and has not been written.
type event struct {
	found bool
	entry Entry
}

// Begin begins a part of a kill, which ends with End. Again is for one that has begun
// before, cut says that a crash or a change of leader came between. Where memory holds no
// more records it is nil.
func (b *Book) Begin(asked Asked, what []string, ordered time.Time, again, cut bool) *Record {
	asked = asked.bounded()
	if asked.Event.IsZero() || asked.Event.After(ordered) {
		asked.Event = ordered
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.told[asked.ID] == nil && len(b.told) >= maxTold {
		b.logger().Error("a kill leaves no record: too many could not be written yet", "what", what, "cause", asked.Cause, "by", asked.By)
		return nil
	}
	r := b.record(asked.ID)
	r.runs++
	r.anew, r.always, r.tried = r.anew || again, r.always || asked.Always, time.Time{}
	if r.began == nil {
		r.began = &Head{
			ID: asked.ID, Cause: asked.Cause, By: asked.By, Note: asked.Note, Froze: asked.Froze, Event: asked.Event, Ordered: ordered,
		}
	}
	r.began.Interrupted = r.began.Interrupted || cut
	r.began.add(what)
	r.change()
	return r
}

// Join begins another part of the same kill, which ends with End too.
func (r *Record) Join() {
	if r == nil {
		return
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	r.runs++
}

// record is the one of that id to which something is told.
func (b *Book) record(id string) *Record {
	r := b.told[id]
	if r == nil {
		r = &Record{book: b, id: id, apart: map[State]int{}}
		b.told[id] = r
	}
	return r
}

// Found says that a grant was found, which is to die now. It reports whether the record
// lists it, for Ended.
func (r *Record) Found(s *grant.Summary) (listed bool) {
	if r == nil {
		return false
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	e := Describe(s)
	if r.listed >= maxListed || r.book.waiting >= maxWaiting {
		r.apart[Pending]++
		r.exposure.find(&e)
		r.change()
		return false
	}
	r.listed++
	r.tell(event{true, e})
	return true
}

// Ended says what has become of a grant that was found.
func (r *Record) Ended(e Entry, listed bool) {
	if r == nil {
		return
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	if listed {
		r.tell(event{false, e})
		return
	}
	r.apart[Pending]--
	r.apart[e.State]++
	r.exposure.end(&e)
	r.change()
}

// Hit says that another's grant has died with what was killed.
func (r *Record) Hit(e Entry) {
	if r == nil {
		return
	}
	e.State = Bystander
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	if r.listed >= maxListed || r.book.waiting >= maxWaiting {
		r.apart[Bystander]++
		r.change()
		return
	}
	r.listed++
	r.tell(event{true, e})
}

// Later says what has become of a grant that a kill had left pending.
func (b *Book) Later(id string, e Entry) {
	if !IsID(id) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting >= maxWaiting || b.told[id] == nil && len(b.told) >= maxTold {
		return // whoever looks after the record later finds the grant dead
	}
	b.record(id).tell(event{false, e})
}

// tell is for who holds mu.
func (r *Record) tell(e event) {
	r.events = append(r.events, e)
	r.book.waiting++
	r.change()
	if r.book.waiting >= eager {
		r.book.hurry()
	}
}

// End ends what Begin has begun. Done says that each grant was tried; else it is begun
// again.
func (r *Record) End(done bool) {
	if r == nil {
		return
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	if r.runs--; r.runs == 0 && done {
		r.tried = r.book.now()
	}
	r.change()
	r.book.hurry()
}

// change has the record written soon. Who calls holds mu.
func (r *Record) change() {
	r.changed = true
	r.book.soon()
}

// Ref is by which a grant's record names the kill.
func (r *Record) Ref() (ref grant.KillRef, ok bool) {
	if r == nil {
		return grant.KillRef{}, false
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	if r.began == nil {
		return grant.KillRef{}, false
	}
	return grant.KillRef{ID: r.id, Event: r.began.Event}, true
}

// ID is the record's name, "" of a nil one.
func (r *Record) ID() string {
	if r == nil {
		return ""
	}
	return r.id
}

// soon has what was told written, by one goroutine at a time. Who calls holds mu.
func (b *Book) soon() {
	if b.running {
		return
	}
	b.running = true
	b.background(b.write)
}

// hurry ends the pause.
func (b *Book) hurry() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// write writes what is told until nothing is left, or storage fails: then it is tried again
// with what is told next, and by Flush.
func (b *Book) write() {
	for {
		timer := time.NewTimer(b.pause)
		select {
		case <-timer.C:
		case <-b.wake:
			timer.Stop()
		}
		err := b.Flush(context.Background())
		b.mu.Lock()
		if err != nil || !b.dirty() {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
	}
}

// dirty reports whether something is to be written. Who calls holds mu.
func (b *Book) dirty() bool {
	for _, r := range b.told {
		if r.changed {
			return true
		}
	}
	return false
}
