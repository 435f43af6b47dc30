package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

const (
	// freezePrefix is where freezes are stored, one entry each: a single one for
	// all would reach the storage's limit, and then nothing could be frozen.
	freezePrefix = "freeze/"
	// oldFrozenKey was that single one. What is in it stays frozen, and periodic
	// moves it below freezePrefix.
	oldFrozenKey = "frozen"
	// longestPlainName keeps the encoded name within 240 characters, so that every
	// kind of storage takes the key; a longer name is stored in the entry alone.
	longestPlainName = 180
	// mostUnsure is from where one list is cheaper than asking for each.
	mostUnsure = 1000
	// rememberedFor is longer than any mint can be in flight.
	rememberedFor = time.Hour
)

// The kinds of things that can be frozen, and killed by.
const (
	kindEntity   = "entity"
	kindRole     = "role"
	kindProvider = "provider"
	kindIssuer   = "issuer"
)

// freeze says since when something is frozen and by whom.
type freeze struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"`
	// Name is what is frozen, "<kind>/<name>". The old entry has it as its key.
	Name string `json:"name,omitempty"`
}

// freezer remembers what may get no new grants. A freeze is in memory before it
// returns, and an issue looks again after it has recorded its grant: so either
// the kill that follows a freeze finds the grant, or the issue finds the freeze.
//
// In memory are the names alone, which one list of storage brings.
type freezer struct {
	storage logical.Storage
	now     func() time.Time

	writing sync.Mutex // over storage; never over a provider's call
	mu      sync.RWMutex
	loaded  bool
	// frozen has what is frozen by its place below freezePrefix. The value is its
	// name, or "" where the place does not tell it and nobody has asked yet.
	frozen map[string]string
	// old is what of the old entry is still to be moved, by name.
	old map[string]freeze
	// unsure are places that another node has written since they were read.
	unsure map[string]bool
	// generation counts what other nodes wrote: what was read before is not kept.
	generation uint64
	// count numbers this process's freezes, and last is each thing's latest one: a
	// mint that was in flight then is not handed out, thawed meanwhile or not.
	count uint64
	last  map[string]frozenAt
}

// frozenAt is when this process froze something: by number, and by the clock so
// that it is forgotten one day.
type frozenAt struct {
	count uint64
	at    time.Time
}

func newFreezer(storage logical.Storage, now func() time.Time) *freezer {
	return &freezer{storage: storage, now: now, unsure: map[string]bool{}, last: map[string]frozenAt{}}
}

// placeOf is where below freezePrefix a name is stored. Any name is safe there.
func placeOf(name string) string {
	if len(name) > longestPlainName {
		sum := sha256.Sum256([]byte(name))
		return "~" + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return base64.RawURLEncoding.EncodeToString([]byte(name))
}

// nameAt is what a place tells of the name: "" if it is a long one.
func nameAt(place string) string {
	name, err := base64.RawURLEncoding.DecodeString(place)
	if err != nil {
		return ""
	}
	return string(name)
}

// anyOf returns those of the things that are frozen.
func (f *freezer) anyOf(ctx context.Context, things []thing) ([]thing, error) {
	found, known := f.look(things)
	if known {
		return found, nil
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	found = nil
	for _, what := range things {
		frozen, err := f.ask(ctx, what.key())
		if err != nil {
			return nil, err
		}
		if frozen {
			found = append(found, what)
		}
	}
	return found, nil
}

// look answers from memory, if that is up to date.
func (f *freezer) look(things []thing) (found []thing, known bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if !f.loaded {
		return nil, false
	}
	if len(f.frozen)+len(f.old)+len(f.unsure) == 0 {
		return nil, true
	}
	for _, what := range things {
		name := what.key()
		place := placeOf(name)
		if f.unsure[place] {
			return nil, false
		}
		_, frozen := f.frozen[place]
		_, old := f.old[name]
		if frozen || old {
			found = append(found, what)
		}
	}
	return found, true
}

// load reads what is frozen unless that is known. The caller holds writing. The old
// entry comes first: it goes when all of it has been moved, so that what is not
// found in it any more is found in its new place.
func (f *freezer) load(ctx context.Context) error {
	f.mu.RLock()
	loaded, generation := f.loaded, f.generation
	f.mu.RUnlock()
	if loaded {
		return nil
	}
	old, err := f.readOld(ctx)
	if err != nil {
		return err
	}
	places, err := f.storage.List(ctx, freezePrefix)
	if err != nil {
		return storageFault(err)
	}
	frozen := make(map[string]string, len(places))
	for _, place := range places {
		frozen[place] = nameAt(place)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen, f.old = frozen, old
	if f.loaded = f.generation == generation; f.loaded {
		clear(f.unsure)
	}
	return nil
}

func (f *freezer) readOld(ctx context.Context) (map[string]freeze, error) {
	raw, err := f.storage.Get(ctx, oldFrozenKey)
	if err != nil {
		return nil, storageFault(err)
	}
	if raw == nil {
		return nil, nil
	}
	var old map[string]freeze
	if err := oldFrozenForm.Decode(raw.Value, &old); err != nil {
		return nil, storageFault(err)
	}
	return old, nil
}

// ask is look for one name, and reads again what is unsure. The caller holds
// writing and has loaded.
func (f *freezer) ask(ctx context.Context, name string) (bool, error) {
	place := placeOf(name)
	f.mu.RLock()
	_, frozen := f.frozen[place]
	_, old := f.old[name]
	unsure, generation := f.unsure[place], f.generation
	f.mu.RUnlock()
	if !unsure {
		return frozen || old, nil
	}
	item, err := f.readAt(ctx, place)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generation == generation {
		delete(f.unsure, place)
		f.set(place, name, item != nil)
	}
	return item != nil || old, nil
}

// set is for whoever holds mu.
func (f *freezer) set(place, name string, frozen bool) {
	if frozen {
		f.frozen[place] = name
	} else {
		delete(f.frozen, place)
	}
}

func (f *freezer) readAt(ctx context.Context, place string) (*freeze, error) {
	raw, err := f.storage.Get(ctx, freezePrefix+place)
	if err != nil {
		return nil, storageFault(err)
	}
	if raw == nil {
		return nil, nil
	}
	item := &freeze{}
	if err := freezeForm.Decode(raw.Value, item); err != nil {
		return nil, storageFault(fmt.Errorf("the freeze at %s cannot be decoded: %w", freezePrefix+place, err))
	}
	return item, nil
}

// forget makes the next look at the place read storage again.
func (f *freezer) forget(place string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
	f.unsure[place] = true
	if len(f.unsure) > mostUnsure {
		f.loaded = false
	}
}

// forgetAll makes the next look read everything again. Who is looking goes on with
// what was found.
func (f *freezer) forgetAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
	f.loaded = false
}

// change freezes one thing, or thaws it if to is nil, durably. What is frozen already
// stays as it was.
func (f *freezer) change(ctx context.Context, name string, to *freeze) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	if err := f.load(ctx); err != nil {
		return err
	}
	if to == nil {
		return f.thaw(ctx, name)
	}
	if err := f.store(ctx, name, *to); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	f.last[name] = frozenAt{f.count, to.Since}
	return nil
}

// store writes what is frozen in a place of its own unless it is there. The caller
// holds writing and has loaded.
func (f *freezer) store(ctx context.Context, name string, item freeze) error {
	place := placeOf(name)
	stored, err := f.readAt(ctx, place)
	newer := errors.Is(err, form.ErrNewer) // then it is frozen, whatever else is said there
	if err != nil && !newer {
		return err
	}
	if stored == nil && !newer {
		f.mu.RLock()
		if old, ok := f.old[name]; ok {
			item = old
		}
		f.mu.RUnlock()
		item.Name = name
		entry, err := entryOf(freezeForm, freezePrefix+place, item)
		if err != nil {
			return storageFault(err)
		}
		if err := f.storage.Put(ctx, entry); err != nil {
			f.forget(place) // it may have been written all the same
			return storageFault(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.unsure, place)
	f.set(place, name, true)
	return nil
}

// thaw is for whoever holds writing and has loaded.
func (f *freezer) thaw(ctx context.Context, name string) error {
	if err := f.removeOld(ctx, name); err != nil {
		return err
	}
	place := placeOf(name)
	if err := f.storage.Delete(ctx, freezePrefix+place); err != nil {
		f.forget(place)
		return storageFault(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.unsure, place)
	f.set(place, name, false)
	// No mint is in flight any more that began before these.
	maps.DeleteFunc(f.last, func(_ string, frozen frozenAt) bool { return f.now().Sub(frozen.at) > rememberedFor })
	return nil
}

// removeOld takes a name out of the old entry, if there still is one.
func (f *freezer) removeOld(ctx context.Context, name string) error {
	f.mu.RLock()
	_, there := f.old[name]
	f.mu.RUnlock()
	if !there {
		return nil
	}
	old, err := f.readOld(ctx)
	if err != nil {
		return err
	}
	delete(old, name)
	if err := f.writeOld(ctx, old); err != nil {
		f.forgetAll()
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.old = old
	return nil
}

func (f *freezer) writeOld(ctx context.Context, old map[string]freeze) error {
	if len(old) == 0 {
		if err := f.storage.Delete(ctx, oldFrozenKey); err != nil {
			return storageFault(err)
		}
		return nil
	}
	entry, err := entryOf(oldFrozenForm, oldFrozenKey, old)
	if err != nil {
		return storageFault(err)
	}
	if err := f.storage.Put(ctx, entry); err != nil {
		return storageFault(err)
	}
	return nil
}

// move gives what the old entry holds places of its own, as much as fits into the
// slice; the next call goes on. The entry goes last: until then both hold it, and
// whatever ends this in between leaves everything frozen.
func (f *freezer) move(ctx context.Context, slice time.Duration) error {
	deadline := time.Now().Add(slice)
	for {
		more, err := f.moveOne(ctx)
		if err != nil || !more || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// moveOne holds the lock for one thing only, so that whoever freezes does not wait.
func (f *freezer) moveOne(ctx context.Context) (more bool, err error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	if err := f.load(ctx); err != nil {
		return false, err
	}
	f.mu.RLock()
	left, name := len(f.old), ""
	for each := range f.old {
		if _, moved := f.frozen[placeOf(each)]; !moved {
			name = each
			break
		}
	}
	f.mu.RUnlock()
	switch {
	case left == 0:
		return false, nil
	case name != "":
		return true, f.store(ctx, name, freeze{})
	}
	if err := f.writeOld(ctx, nil); err != nil {
		f.forgetAll()
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.old = nil
	return false, nil
}

// moment is now, for checkSince.
func (f *freezer) moment() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.count
}

// checkSince is check, and also returns what was frozen since the moment and has
// been thawed again.
func (f *freezer) checkSince(ctx context.Context, moment uint64, holder, role, provider string, issuers ...string) ([]*fault.Error, error) {
	reasons, err := f.check(ctx, holder, role, provider, issuers...)
	if err != nil || len(reasons) > 0 {
		return reasons, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, what := range freezable(holder, role, provider, issuers) {
		if f.last[what.key()].count > moment {
			reasons = append(reasons, fault.New(fault.AccessDenied, "the %s was frozen meanwhile: try again", what.kind))
		}
	}
	return reasons, nil
}

// check returns what of a grant's is frozen. The issuers are those of the tokens that it
// rests on, by their names; "" is none.
func (f *freezer) check(ctx context.Context, holder, role, provider string, issuers ...string) ([]*fault.Error, error) {
	frozen, err := f.anyOf(ctx, freezable(holder, role, provider, issuers))
	if err != nil {
		return nil, err
	}
	var reasons []*fault.Error
	for _, what := range frozen {
		reasons = append(reasons, fault.New(fault.AccessDenied, "the %s is frozen: an operator has stopped its grants", what.kind))
	}
	return reasons, nil
}

// thing is one that can be frozen.
type thing struct{ kind, name string }

func (t thing) key() string { return t.kind + "/" + t.name }

// freezable is all that a freeze of which stops a grant.
func freezable(holder, role, provider string, issuers []string) []thing {
	things := []thing{{kindEntity, holder}, {kindRole, role}, {kindProvider, provider}}
	// Builds of before took a holder's id to end at its first dot, showed that to
	// operators and refused what was frozen by it.
	if early, _, dotted := strings.Cut(holder, "."); dotted {
		things = append(things, thing{kindEntity, early})
	}
	for i, issuer := range issuers {
		if issuer != "" && !slices.Contains(issuers[:i], issuer) {
			things = append(things, thing{kindIssuer, issuer})
		}
	}
	return things
}

// list returns at most limit names in order, those that come after one, and when
// and by whom each was frozen.
func (f *freezer) list(ctx context.Context, after string, limit int) ([]string, map[string]any, error) {
	names, err := f.names(ctx)
	if err != nil {
		return nil, nil, err
	}
	from, found := slices.BinarySearch(names, after)
	if found {
		from++
	}
	page, info := []string{}, map[string]any{}
	for _, name := range names[from:] {
		if len(page) == limit {
			break
		}
		item, err := f.about(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if item != nil { // else it was thawed meanwhile
			page, info[name] = append(page, name), map[string]any{"since": stamp(item.Since), "by": item.By}
		}
	}
	return page, info, nil
}

// names are all that is frozen, in order.
func (f *freezer) names(ctx context.Context) ([]string, error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	f.mu.RLock()
	names := maps.Clone(f.frozen)
	for place := range f.unsure {
		names[place] = ""
	}
	all := slices.Collect(maps.Keys(f.old))
	f.mu.RUnlock()
	for place, name := range names {
		if name == "" {
			item, err := f.readAt(ctx, place)
			if err != nil {
				return nil, err
			}
			if item == nil {
				continue
			}
			name = item.Name
			f.learn(place, name)
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// learn keeps a name that its place does not tell.
func (f *freezer) learn(place, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.frozen[place]; ok {
		f.frozen[place] = name
	}
}

// about reads since when something is frozen, and by whom.
func (f *freezer) about(ctx context.Context, name string) (*freeze, error) {
	f.mu.RLock()
	old, ok := f.old[name]
	f.mu.RUnlock()
	if ok {
		return &old, nil
	}
	return f.readAt(ctx, placeOf(name))
}
