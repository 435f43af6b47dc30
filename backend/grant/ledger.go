package grant

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// ErrGone means that there is no such grant: it was never made, or is dead.
var ErrGone = errors.New("no such grant")

// ErrUnreadable means that a record is there and cannot be decoded.
var ErrUnreadable = errors.New("a grant's record cannot be read")

// Ledger keeps the records in storage, and in memory how many there are and which
// are due next. Only Vault's active node writes, so what is in memory is the truth
// once it is loaded. It is safe for concurrent use. Its locks of single grants
// cover storage, never a provider.
type Ledger struct {
	storage logical.Storage
	locks   []*locksutil.LockEntry
	// room is how many appointments are kept in memory, parallel how many buckets the
	// scan reads at once.
	room, parallel int
	background     func(func()) // runs something that nobody waits for
	// told is called with each grant that was read by the scan, or written.
	told func(*Grant)

	scanning sync.Mutex
	scan     *scanRun
	// busy counts the writes under way, waiters those who wait for the scan, finding what
	// a Find has under way in storage.
	busy, waiters, finding atomic.Int64
	spilling               sync.Mutex // one writer of pages at a time
	making                 atomic.Bool

	mu    sync.RWMutex
	index *index
	// adopted are grants whose record could not be written.
	adopted map[string]*Grant
	// doubtful are counted grants, as they are counted, of which storage did not say
	// whether their record was written, or deleted.
	doubtful map[string]*Grant
	// holds are those that are not over, by the grant's id.
	holds map[string]*Hold
	// watched are the levers of which somebody wants to know what comes to hang on them.
	watched map[Lever]map[*Newcomers]struct{}
}

// NewLedger makes a Ledger on storage; nothing is read yet.
func NewLedger(storage logical.Storage) *Ledger { return newLedger(storage, agendaRoom, scanParallel) }

func newLedger(storage logical.Storage, room, parallel int) *Ledger {
	return &Ledger{
		storage: storage, locks: locksutil.CreateLocks(), room: room, parallel: parallel, background: func(f func()) { go f() }, told: func(*Grant) {}, index: newIndex(newRun(), room),
		adopted: map[string]*Grant{}, doubtful: map[string]*Grant{}, holds: map[string]*Hold{}, watched: map[Lever]map[*Newcomers]struct{}{},
	}
}

// newRun names an index's pages. That it differs from the last one's is enough.
func newRun() string {
	return fmt.Sprintf("%x-%x", time.Now().UnixNano(), rand.Uint64()) //nolint:gosec // a name, no secret
}

// OnGrant has told called with each grant, when the scan has read it and whenever it was
// written. It must be called before the ledger is used, and told must not block.
func (l *Ledger) OnGrant(told func(*Grant)) { l.told = told }

func (l *Ledger) current() *index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.index
}

// lock keeps others off one grant.
func (l *Ledger) lock(id string) *locksutil.LockEntry {
	lock := locksutil.LockForKey(l.locks, id)
	lock.Lock()
	return lock
}

// Invalidate makes the ledger read storage again: another node has written it.
func (l *Ledger) Invalidate() {
	l.endHolds()
	l.invalidate(l.current())
}

// invalidate replaces the index, if it still is that one.
func (l *Ledger) invalidate(old *index) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.index != old {
		return false
	}
	l.index = newIndex(newRun(), l.room)
	l.doubtful = map[string]*Grant{}
	for _, g := range l.adopted {
		l.index.enter(g, nil)
	}
	return true
}

// Unreadable are the ids of records that cannot be decoded, as many as are kept.
// Each is a token that nothing kills; one of them must not keep the others alive.
func (l *Ledger) Unreadable() []string {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.unreadable))
}

// Newer is an error if some records that were read so far are of a newer version of
// the plugin: nobody knows whose they are, and whoever needs all of them fails by it.
func (l *Ledger) Newer() error {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.newer
}

// Record writes a new grant. When it returns nil, the grant outlives a crash. After
// an error the grant may or may not be on record: Remove it, or Keep it.
func (l *Ledger) Record(ctx context.Context, g *Grant) error {
	defer l.working()()
	lock := l.lock(g.ID)
	defer lock.Unlock()
	err := l.write(ctx, g, nil)
	if _, ok := addressOf(g.ID); err != nil && ok {
		l.enter(g, nil)
		l.doubt(g)
	}
	return err
}

// Keep writes a grant that may be on record already; a kill that was decided of it before
// stands. If it cannot be written it is
// kept in memory, Flush writes it when storage works again, and the error says why.
func (l *Ledger) Keep(ctx context.Context, g *Grant) error {
	defer l.working()()
	defer l.changing(g.ID)()
	before, err := l.counted(ctx, g.ID)
	switch {
	case err == nil:
		g.inherit(before)
	case errors.Is(err, ErrGone), errors.Is(err, ErrUnreadable):
		before = nil // counted once more than it is, if at all
	default:
		l.comes(g, nil) // as in write
		l.adopt(g, nil)
		return err
	}
	if err := l.write(ctx, g, before); err != nil {
		l.adopt(g, before)
		return err
	}
	return nil
}

func (l *Ledger) working() (done func()) {
	l.busy.Add(1)
	return func() { l.busy.Add(-1) }
}

func (l *Ledger) adopt(g, before *Grant) {
	l.mu.Lock()
	l.adopted[g.ID] = g
	delete(l.doubtful, g.ID)
	l.mu.Unlock()
	l.enter(g, before)
}

func (l *Ledger) enter(g, before *Grant) {
	if l.current().enter(g, before) {
		l.makeRoomSoon()
	}
	l.told(g)
}

// Get reads one grant; ErrGone if there is none.
func (l *Ledger) Get(ctx context.Context, id string) (*Grant, error) {
	if g := l.adoptedGrant(id); g != nil {
		return g, nil
	}
	return l.read(ctx, id)
}

// Lookup is what is known of one grant; false if there is none.
func (l *Ledger) Lookup(ctx context.Context, id string) (Summary, bool, error) {
	g, err := l.Get(ctx, id)
	switch {
	case errors.Is(err, ErrGone):
		return Summary{}, false, nil
	case err != nil:
		return Summary{}, false, err
	}
	return g.Summary(), true, nil
}

func (l *Ledger) adoptedGrant(id string) *Grant {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.adopted[id].Clone()
}

// Update reads the grant, lets change alter it and writes it back, as one step
// towards other changes of the same grant. ErrGone if it is dead meanwhile: a
// renewal must not bring back the record of a token that was killed. An error of
// change is returned and nothing written.
func (l *Ledger) Update(ctx context.Context, id string, change func(*Grant) error) (*Grant, error) {
	defer l.working()()
	defer l.changing(id)()
	g, err := l.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	before := g.Clone()
	if err := change(g); err != nil {
		return nil, err
	}
	return g, l.write(ctx, g, before)
}

// Doom puts a grant whose kill failed into the outbox: mark changes its doom,
// which is new if this was the first attempt. ErrGone if it is dead meanwhile. If
// the record cannot be written, the grant is kept in memory, and the error says why.
func (l *Ledger) Doom(ctx context.Context, g *Grant, mark func(*Doom)) error {
	defer l.working()()
	defer l.changing(g.ID)()
	doomed, err := l.Get(ctx, g.ID)
	if errors.Is(err, form.ErrNewer) {
		return err // nothing takes its place
	}
	if errors.Is(err, ErrGone) || (err != nil && !l.mayLive(g.ID)) {
		return ErrGone
	}
	before := doomed.Clone()
	if err != nil {
		doomed = g.Clone()
	}
	if doomed.Doom == nil {
		doomed.Doom = &Doom{}
	}
	mark(doomed.Doom)
	if err := l.write(ctx, doomed, before); err != nil {
		l.adopt(doomed, before)
		return err
	}
	return nil
}

// mayLive is false for a grant that is certainly gone, as far as memory tells.
func (l *Ledger) mayLive(id string) bool {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	_, known := x.entries[id]
	return known || !x.scanned || len(x.pages) > 0
}

// Suspect makes a grant due whose record cannot be read at the moment, so that
// it can neither be killed nor be put into the outbox, and keeps why it was to die: the
// first cause, or one that is stronger. Beyond a bound it is forgotten: it stays due at its
// lease's end.
func (l *Ledger) Suspect(id, cause string, stronger bool) {
	x := l.current()
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.suspects[id]; known && !stronger {
		return
	}
	if _, ok := HolderOf(id); ok && len(x.suspects) < l.room {
		x.suspects[id] = cause
	}
}

// Suspected is why a suspect was to die; false if the grant is none.
func (l *Ledger) Suspected(id string) (cause string, suspect bool) { return l.current().suspected(id) }

func (l *Ledger) read(ctx context.Context, id string) (*Grant, error) {
	at, ok := addressOf(id)
	if !ok {
		return nil, ErrGone
	}
	record := l.current().lately.get(id)
	if record == nil {
		entry, err := l.storage.Get(ctx, at.key())
		if err != nil {
			return nil, fmt.Errorf("cannot read a grant's record: %w", err)
		}
		if entry == nil {
			return nil, ErrGone
		}
		record = entry.Value
	}
	g, err := decode(record)
	if err != nil {
		return nil, err
	}
	holder, _ := HolderOf(id)
	if g.ID != id || (g.Holder != holder && (!at.early || g.Holder != at.folder)) {
		return nil, fmt.Errorf("%w: it is of another grant", ErrUnreadable)
	}
	g.Holder = holder
	return g, nil
}

// write is the only place where a record is written. before is as it was.
func (l *Ledger) write(ctx context.Context, g, before *Grant) error {
	at, ok := addressOf(g.ID)
	if !ok {
		return ErrGone
	}
	raw, err := g.encode()
	if err != nil {
		return fmt.Errorf("cannot encode a grant's record: %w", err)
	}
	l.comes(g, before)
	lately := l.current().lately // which is nobody's any more if another node writes meanwhile
	lately.drop(g.ID)
	if err := l.storage.Put(ctx, &logical.StorageEntry{Key: at.key(), Value: raw}); err != nil {
		if before != nil {
			l.doubt(before)
		}
		return fmt.Errorf("cannot write a grant's record: %w", err)
	}
	lately.put(g.ID, raw)
	l.enter(g, before)
	l.settle(g.ID)
	return nil
}
