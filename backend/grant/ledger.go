package grant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"
)

// StoragePrefix is where the records live: <prefix><holder>/<random>.
const StoragePrefix = "grant/"

// ErrGone means that there is no such grant: it was never made, or is dead.
var ErrGone = errors.New("no such grant")

// ErrUnreadable means that a record is there and cannot be decoded.
var ErrUnreadable = errors.New("a grant's record cannot be read")

// Summary is what the ledger keeps in memory of each grant: enough to list,
// count and choose, without a token or a handle.
type Summary struct {
	ID, Holder, Role, Provider string
	Revocable, SelfContained   bool
	Withheld                   bool
	IssuedAt                   time.Time
	ExpiresAt, LeaseEnds       time.Time
	// Doomed is set while a revocation that failed is due: since when, and when
	// its next attempt is.
	Doomed      bool
	Since, Next time.Time
}

// CertainlyExpired reports whether the token is dead of itself at now.
func (s *Summary) CertainlyExpired(now time.Time) bool {
	return !s.ExpiresAt.IsZero() && now.After(s.ExpiresAt.Add(ExpiryGrace))
}

// Ledger keeps the records in storage and an index of them in memory. Only
// Vault's active node writes, so the index is the truth once it is loaded. It is
// safe for concurrent use. Its locks cover storage, never a provider.
type Ledger struct {
	storage logical.Storage
	locks   []*locksutil.LockEntry

	load sync.Mutex // one loader at a time

	mu     sync.RWMutex
	loaded bool
	// invalidated counts the calls of Invalidate: a load that overlaps one is void.
	invalidated uint64
	// unreadable are records that cannot be decoded.
	unreadable []string
	// index is by holder, then by id.
	index map[string]map[string]Summary
	// adopted are grants whose record could not be written.
	adopted map[string]*Grant
}

// NewLedger makes a Ledger on storage; nothing is read yet.
func NewLedger(storage logical.Storage) *Ledger {
	return &Ledger{
		storage: storage,
		locks:   locksutil.CreateLocks(),
		index:   map[string]map[string]Summary{},
		adopted: map[string]*Grant{},
	}
}

// Load reads every record into the index, once; it is cheap afterwards. Records
// made while it runs are not lost: both ways of adding are idempotent.
func (l *Ledger) Load(ctx context.Context) error {
	if l.Loaded() {
		return nil
	}
	l.load.Lock()
	defer l.load.Unlock()
	if l.Loaded() {
		return nil
	}
	for range maxPasses {
		before := l.generation()
		if err := l.readAll(ctx); err != nil {
			return err
		}
		if l.complete(before) {
			return nil
		}
	}
	return errors.New("the records of grants keep changing while they are read")
}

// maxPasses is how often Load begins again because of an Invalidate.
const maxPasses = 10

func (l *Ledger) generation() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.invalidated
}

// complete makes the index the truth, unless it was invalidated since before.
func (l *Ledger) complete(before uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loaded = l.invalidated == before
	return l.loaded
}

func (l *Ledger) readAll(ctx context.Context) error {
	holders, err := l.storage.List(ctx, StoragePrefix)
	if err != nil {
		return fmt.Errorf("cannot list the holders: %w", err)
	}
	for _, holder := range holders {
		randoms, err := l.storage.List(ctx, StoragePrefix+holder)
		if err != nil {
			return fmt.Errorf("cannot list a holder's grants: %w", err)
		}
		for _, random := range randoms {
			if err := l.loadOne(ctx, strings.TrimSuffix(holder, "/")+"."+random); err != nil {
				return err
			}
		}
	}
	return nil
}

// Loaded reports whether the index is complete, without waiting for it.
func (l *Ledger) Loaded() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.loaded
}

func (l *Ledger) loadOne(ctx context.Context, id string) error {
	lock := locksutil.LockForKey(l.locks, id)
	lock.Lock()
	defer lock.Unlock()
	g, err := l.Get(ctx, id) // an adopted one is newer than its record
	switch {
	case errors.Is(err, ErrGone):
		return nil
	case errors.Is(err, ErrUnreadable):
		l.mu.Lock()
		l.unreadable = append(l.unreadable, id)
		l.mu.Unlock()
		return nil
	case err != nil:
		return err
	}
	l.remember(g)
	return nil
}

// Unreadable are the ids of records that Load had to pass over. Each is a token
// that nothing kills; one of them must not keep the others alive.
func (l *Ledger) Unreadable() []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Clone(l.unreadable)
}

// Invalidate makes the next use of the index read storage again: another node
// has written it.
func (l *Ledger) Invalidate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.invalidated++
	l.loaded, l.index, l.unreadable = false, map[string]map[string]Summary{}, nil
	for _, g := range l.adopted {
		l.enter(g.Summary())
	}
}

// Record writes a new grant. When it returns nil, the grant outlives a crash.
func (l *Ledger) Record(ctx context.Context, g *Grant) error {
	lock := locksutil.LockForKey(l.locks, g.ID)
	lock.Lock()
	defer lock.Unlock()
	return l.write(ctx, g)
}

// Adopt keeps a grant in memory whose record could not be written and whose
// token could not be killed either. Flush writes it when storage works again.
func (l *Ledger) Adopt(g *Grant) {
	l.mu.Lock()
	l.adopted[g.ID] = g
	l.mu.Unlock()
	l.remember(g)
}

// Flush writes the adopted grants, as many as it can.
func (l *Ledger) Flush(ctx context.Context) error {
	l.mu.RLock()
	waiting := make([]*Grant, 0, len(l.adopted))
	for _, g := range l.adopted {
		waiting = append(waiting, g)
	}
	l.mu.RUnlock()
	var problems error
	for _, g := range waiting {
		problems = errors.Join(problems, l.flushOne(ctx, g.ID))
	}
	return problems
}

// flushOne writes an adopted grant if it is one still: it may have been killed
// meanwhile, and must not come back.
func (l *Ledger) flushOne(ctx context.Context, id string) error {
	lock := locksutil.LockForKey(l.locks, id)
	lock.Lock()
	defer lock.Unlock()
	g := l.adoptedGrant(id)
	if g == nil {
		return nil
	}
	return l.write(ctx, g)
}

func (l *Ledger) adoptedGrant(id string) *Grant {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.adopted[id].clone()
}

// Get reads one grant; ErrGone if there is none.
func (l *Ledger) Get(ctx context.Context, id string) (*Grant, error) {
	if g := l.adoptedGrant(id); g != nil {
		return g, nil
	}
	return l.read(ctx, id)
}

// Update reads the grant, lets change alter it and writes it back, as one step
// towards other changes of the same grant. ErrGone if it is dead meanwhile: a
// renewal must not bring back the record of a token that was killed. An error of
// change is returned and nothing written.
func (l *Ledger) Update(ctx context.Context, id string, change func(*Grant) error) (*Grant, error) {
	lock := locksutil.LockForKey(l.locks, id)
	lock.Lock()
	defer lock.Unlock()
	g, err := l.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := change(g); err != nil {
		return nil, err
	}
	return g, l.write(ctx, g)
}

// Doom puts a grant whose kill failed into the outbox: mark changes its doom,
// which is new if this was the first attempt. ErrGone if it is dead meanwhile. If
// the record cannot be written, the grant is adopted, and the error says why.
func (l *Ledger) Doom(ctx context.Context, g *Grant, mark func(*Doom)) error {
	lock := locksutil.LockForKey(l.locks, g.ID)
	lock.Lock()
	defer lock.Unlock()
	doomed, err := l.Get(ctx, g.ID)
	if errors.Is(err, ErrGone) || (err != nil && !l.mayKnow(g.ID)) {
		return ErrGone
	}
	if err != nil {
		doomed = g.clone()
	}
	if doomed.Doom == nil {
		doomed.Doom = &Doom{}
	}
	mark(doomed.Doom)
	if err := l.write(ctx, doomed); err != nil {
		l.Adopt(doomed)
		return err
	}
	return nil
}

// mayKnow is false for a grant that is certainly gone.
func (l *Ledger) mayKnow(id string) bool {
	holder, _ := HolderOf(id)
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, known := l.index[holder][id]
	return known || !l.loaded
}

// Suspect makes a grant due whose record cannot be read at the moment, so that
// it can neither be killed nor be put into the outbox.
func (l *Ledger) Suspect(id string, at time.Time) {
	holder, _ := HolderOf(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, known := l.index[holder][id]; known && !s.Doomed {
		s.Doomed, s.Since, s.Next = true, at, at
		l.index[holder][id] = s
	}
}

// Remove forgets a grant whose token is dead. Forgetting one that is already
// gone is no error.
func (l *Ledger) Remove(ctx context.Context, id string) error {
	lock := locksutil.LockForKey(l.locks, id)
	lock.Lock()
	defer lock.Unlock()
	key, err := keyOf(id)
	if err != nil {
		return nil
	}
	if err := l.storage.Delete(ctx, key); err != nil {
		return fmt.Errorf("cannot delete a grant's record: %w", err)
	}
	l.forget(id)
	return nil
}

// Select lists the grants that match, ordered by id. A nil match takes all.
func (l *Ledger) Select(ctx context.Context, match func(*Summary) bool) ([]Summary, error) {
	if err := l.Load(ctx); err != nil {
		return nil, err
	}
	l.mu.RLock()
	var out []Summary
	for _, grants := range l.index {
		for _, s := range grants {
			if match == nil || match(&s) {
				out = append(out, s)
			}
		}
	}
	l.mu.RUnlock()
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

// OfHolder lists the holder's grants, ordered by id.
func (l *Ledger) OfHolder(ctx context.Context, holder string) ([]Summary, error) {
	if err := l.Load(ctx); err != nil {
		return nil, err
	}
	l.mu.RLock()
	out := make([]Summary, 0, len(l.index[holder]))
	for _, s := range l.index[holder] {
		out = append(out, s)
	}
	l.mu.RUnlock()
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

// LiveIDs are the ids of the holder's grants of a role whose tokens may still
// work at now. The index must have been loaded.
func (l *Ledger) LiveIDs(holder, role string, now time.Time) map[string]bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	ids := map[string]bool{}
	for id, s := range l.index[holder] {
		if s.Role == role && !s.Withheld && !s.CertainlyExpired(now) {
			ids[id] = true
		}
	}
	return ids
}

// Lookup finds one grant in the index; false if there is none.
func (l *Ledger) Lookup(ctx context.Context, id string) (Summary, bool, error) {
	if err := l.Load(ctx); err != nil {
		return Summary{}, false, err
	}
	holder, _ := HolderOf(id)
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, known := l.index[holder][id]
	return s, known, nil
}

// Holders lists who holds grants, ordered.
func (l *Ledger) Holders(ctx context.Context) ([]string, error) {
	if err := l.Load(ctx); err != nil {
		return nil, err
	}
	l.mu.RLock()
	out := make([]string, 0, len(l.index))
	for holder := range l.index {
		out = append(out, holder)
	}
	l.mu.RUnlock()
	sort.Strings(out)
	return out, nil
}

func (l *Ledger) read(ctx context.Context, id string) (*Grant, error) {
	key, err := keyOf(id)
	if err != nil {
		return nil, err
	}
	entry, err := l.storage.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("cannot read a grant's record: %w", err)
	}
	if entry == nil {
		return nil, ErrGone
	}
	g, err := decode(entry.Value)
	if err != nil {
		return nil, err
	}
	if holder, _ := HolderOf(id); g.ID != id || g.Holder != holder {
		return nil, fmt.Errorf("%w: it is of another grant", ErrUnreadable)
	}
	return g, nil
}

func (l *Ledger) write(ctx context.Context, g *Grant) error {
	key, err := keyOf(g.ID)
	if err != nil {
		return err
	}
	raw, err := g.encode()
	if err != nil {
		return fmt.Errorf("cannot encode a grant's record: %w", err)
	}
	if err := l.storage.Put(ctx, &logical.StorageEntry{Key: key, Value: raw}); err != nil {
		return fmt.Errorf("cannot write a grant's record: %w", err)
	}
	l.mu.Lock()
	delete(l.adopted, g.ID)
	l.mu.Unlock()
	l.remember(g)
	return nil
}

// Summary is what the ledger's index holds of the grant.
func (g *Grant) Summary() Summary {
	s := Summary{
		ID: g.ID, Holder: g.Holder, Role: g.Role, Provider: g.Provider,
		Revocable: !g.Handle.Empty(), SelfContained: g.SelfContained, Withheld: g.Withheld,
		IssuedAt: g.IssuedAt, ExpiresAt: g.ExpiresAt, LeaseEnds: g.LeaseEnds,
	}
	if g.Doom != nil {
		s.Doomed, s.Since, s.Next = true, g.Doom.Since, g.Doom.Next
	}
	return s
}

func (l *Ledger) remember(g *Grant) {
	s := g.Summary()
	// The same few names in every grant need not be held by each.
	s.Holder = s.ID[:len(s.Holder)]
	s.Role, s.Provider = unique.Make(s.Role).Value(), unique.Make(s.Provider).Value()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enter(s)
}

// enter puts s into the index. The caller holds mu.
func (l *Ledger) enter(s Summary) {
	if l.index[s.Holder] == nil {
		l.index[s.Holder] = map[string]Summary{}
	}
	l.index[s.Holder][s.ID] = s
}

func (l *Ledger) forget(id string) {
	holder, _ := HolderOf(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.adopted, id)
	delete(l.index[holder], id)
	if len(l.index[holder]) == 0 {
		delete(l.index, holder)
	}
}

func keyOf(id string) (string, error) {
	holder, ok := HolderOf(id)
	if !ok {
		return "", ErrGone
	}
	return StoragePrefix + holder + "/" + strings.TrimPrefix(id, holder+"."), nil
}
