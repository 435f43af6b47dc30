package ending

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const (
	// FrozenPrefix is where what is frozen is stored, one entry each: a single one for
	// all would reach the storage's limit, and then nothing could be frozen.
	FrozenPrefix = "freeze/"
	// longestPlainName keeps the encoded name within 240 characters, so that every
	// kind of storage takes the key; a longer name is stored in the entry alone.
	longestPlainName = 180
	// mostUnsure is how many unsure keys are asked for one by one: for more, one list of
	// storage is cheaper.
	mostUnsure = 1000
)

// Frozen says since when something is frozen and by whom.
type Frozen struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"`
	// Name is what is frozen, "<kind>/<name>". The old entry has it as its key.
	Name string `json:"name,omitempty"`
	// Person is whom a freeze of KindPerson means.
	Person *FrozenPerson `json:"person,omitempty"`
}

func (f *Frozen) form() int {
	kind, _, _ := strings.Cut(f.Name, "/")
	return formOf(kind)
}

var (
	// frozenForm is the second one for what builds before do not heed: there a list of what
	// is frozen says so.
	frozenForm    = form.Kind{Name: "freeze", Since: []string{firstWithSubjects}}
	oldFrozenForm = form.Kind{Name: "list of what is frozen"}
)

// frozenNames are what is frozen. In memory are the names alone, which one list of
// storage brings: whoever asks for a grant asks for five names, of which nearly always
// none is frozen. A cache of what each entry says would have to read an absent one for
// every name that anybody comes with. Else it is the keeper's discipline: what another
// node, or a write of ours that failed, may have changed is read again.
type frozenNames struct {
	stored    *stored.Keeper[Frozen]
	oldStored *stored.Keeper[map[string]Frozen]

	using  sync.Mutex // storage: one after the other, so that a list misses no write
	mu     sync.RWMutex
	loaded bool
	// names has what is frozen by its key below FrozenPrefix. The value is its
	// name, or "" where the key does not tell it and nobody has asked yet.
	names map[string]string
	// persons are those of names that are persons', as they are stored; nil where that has
	// to be read.
	persons map[string]*Frozen
	// old is what of the old entry is still to be moved, by name.
	old map[string]Frozen
	// unsure are keys that have perhaps been written since they were read.
	unsure map[string]bool
	// generation counts these: what was read before is not kept.
	generation uint64
}

func newFrozenNames(storage logical.Storage) *frozenNames {
	f := &frozenNames{
		stored:    stored.NewKeeper(storage, FrozenPrefix, stored.KindIn(frozenForm, (*Frozen).form)),
		oldStored: stored.NewKeeper(storage, OldFrozenKey, stored.KindOf[map[string]Frozen](oldFrozenForm)),
		unsure:    map[string]bool{},
	}
	f.stored.OnChange(f.forget)
	f.oldStored.OnChange(func(string) { f.forgetAll() })
	return f
}

// keyOf is where below FrozenPrefix a name is stored. Any name is safe there.
func keyOf(name string) string {
	if len(name) > longestPlainName {
		sum := sha256.Sum256([]byte(name))
		return "~" + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return base64.RawURLEncoding.EncodeToString([]byte(name))
}

// nameAt is what a key tells of the name: "" if it is a long one.
func nameAt(key string) string {
	name, err := base64.RawURLEncoding.DecodeString(key)
	if err != nil {
		return ""
	}
	return string(name)
}

// nothing reports whether surely nothing is frozen.
func (f *frozenNames) nothing() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.loaded && len(f.names)+len(f.old)+len(f.unsure) == 0
}

// anyOf returns those of the things that are frozen.
func (f *frozenNames) anyOf(ctx context.Context, things []Thing) ([]Thing, error) {
	found, known := f.look(things)
	if known {
		return found, nil
	}
	f.using.Lock()
	defer f.using.Unlock()
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	found = nil
	for _, what := range things {
		frozen, err := f.ask(ctx, what.String())
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
func (f *frozenNames) look(things []Thing) (found []Thing, known bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if !f.loaded {
		return nil, false
	}
	for _, what := range things {
		name := what.String()
		key := keyOf(name)
		if f.unsure[key] {
			return nil, false
		}
		_, frozen := f.names[key]
		_, old := f.old[name]
		if frozen || old {
			found = append(found, what)
		}
	}
	return found, true
}

// load reads what is frozen unless that is known. The caller is the one using storage.
// The old entry comes first: it goes when all of it has been moved, so that what is not
// found in it any more is found in an entry of its own.
func (f *frozenNames) load(ctx context.Context) error {
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
	keys, err := f.stored.List(ctx, "")
	if err != nil {
		return err
	}
	names, persons := make(map[string]string, len(keys)), map[string]*Frozen{}
	for _, key := range keys {
		names[key] = nameAt(key)
		if isPerson(names[key]) {
			persons[key] = nil
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names, f.persons, f.old = names, persons, old
	if f.loaded = f.generation == generation; f.loaded {
		clear(f.unsure)
	}
	return nil
}

// ask is look for one name, and reads again what is unsure. The caller is the one using
// storage, and has loaded.
func (f *frozenNames) ask(ctx context.Context, name string) (bool, error) {
	key := keyOf(name)
	f.mu.RLock()
	_, frozen := f.names[key]
	_, old := f.old[name]
	unsure, generation := f.unsure[key], f.generation
	f.mu.RUnlock()
	if !unsure {
		return frozen || old, nil
	}
	frozen, err := f.stored.Exists(ctx, key)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generation == generation {
		f.knowLocked(key, name, frozen)
	}
	return frozen || old, nil
}

// know keeps in memory what has been read or written.
func (f *frozenNames) know(key, name string, frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.knowLocked(key, name, frozen)
}

func (f *frozenNames) knowLocked(key, name string, frozen bool) {
	delete(f.unsure, key)
	if frozen {
		f.names[key] = name
	} else {
		delete(f.names, key)
		delete(f.persons, key)
	}
}

// forget makes the next look at the key read storage again.
func (f *frozenNames) forget(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
	f.unsure[key] = true
	if isPerson(nameAt(key)) && f.loaded {
		f.persons[key] = nil
	}
	if len(f.unsure) > mostUnsure {
		f.loaded = false
	}
}

// forgetAll makes the next look read everything again. Who is looking goes on with
// what was found.
func (f *frozenNames) forgetAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
	f.loaded = false
}

func (f *frozenNames) add(ctx context.Context, name string, item Frozen) error {
	f.using.Lock()
	defer f.using.Unlock()
	if err := f.load(ctx); err != nil {
		return err
	}
	return f.write(ctx, name, item)
}

// write gives what is frozen an entry of its own unless it has one. The caller is the
// one using storage, and has loaded.
func (f *frozenNames) write(ctx context.Context, name string, item Frozen) error {
	key := keyOf(name)
	f.mu.RLock()
	if old, ok := f.old[name]; ok {
		item = old
	}
	f.mu.RUnlock()
	item.Name = name
	err := f.stored.Change(ctx, key, func(before *Frozen) (*Frozen, error) {
		if before != nil {
			return nil, stored.ErrUnchanged
		}
		return &item, nil
	})
	if err != nil && !stored.Unreadable(err) { // one that is there is frozen, whatever is said in it
		return err
	}
	f.know(key, name, true)
	return nil
}

func (f *frozenNames) remove(ctx context.Context, name string) error {
	f.using.Lock()
	defer f.using.Unlock()
	if err := f.load(ctx); err != nil {
		return err
	}
	if err := f.removeOld(ctx, name); err != nil {
		return err
	}
	key := keyOf(name)
	if err := f.stored.Delete(ctx, key); err != nil {
		return err
	}
	f.know(key, name, false)
	return nil
}
