package downstream

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// StoragePrefix is where providers are stored, parent credentials included: one entry
// each, so that a credential and where it is sent change together.
const StoragePrefix = "provider/"

var entryForm = form.Kind{Name: "provider"}

// Entry is a provider as it is stored.
type Entry struct {
	Settings Settings        `json:"settings"`
	Fields   json.RawMessage `json:"fields"`
	Pinned   provider.Pinned `json:"pinned"`
	// Secrets is the parent credential: the only place where it is written out.
	Secrets map[string]string `json:"secrets"`
	Refused string            `json:"refused,omitempty"`
	// Serial counts writes of the credential, Version every write.
	Serial  uint64 `json:"serial"`
	Version uint64 `json:"version"`

	// brought are the secrets that the write under way brings itself.
	brought []string
}

// Parent is the stored credential.
func (e *Entry) Parent() provider.Parent {
	p := provider.Parent{Secrets: map[string]secret.Text{}, Refused: e.Refused, Serial: e.Serial}
	for name, value := range e.Secrets {
		p.Secrets[name] = secret.New(value)
	}
	return p
}

func (e *Entry) setSecrets(p provider.Parent) {
	e.Secrets = map[string]string{}
	for name, value := range p.Secrets {
		if !value.Empty() {
			e.Secrets[name] = value.Reveal()
		}
	}
	e.Refused = p.Refused
}

// Health is what is on record.
func (e *Entry) Health() string {
	switch {
	case e.Settings.Deleting:
		return "deleting"
	case e.Settings.Disabled:
		return "disabled"
	case e.Refused != "":
		return "refused"
	default:
		return "ok"
	}
}

// SecretNames are the fields of a type that are secret, sorted.
func SecretNames(t provider.Type) []string {
	var names []string
	for name, f := range t.Fields() {
		if f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Merge makes the next entry of the one before, nil for none, and what a request to a
// provider of type t has written, which is in d.
func Merge(before *Entry, t provider.Type, written map[string]bool, d *framework.FieldData, now time.Time) (*Entry, error) {
	after := &Entry{Secrets: map[string]string{}}
	own := map[string]any{}
	if before != nil {
		*after = *before
		after.Secrets = maps.Clone(before.Secrets)
		if err := json.Unmarshal(before.Fields, &own); err != nil {
			return nil, stored.Fault(err)
		}
	}
	if err := after.Settings.merge(d); err != nil {
		return nil, err
	}
	secrets := SecretNames(t)
	for name := range t.Fields() {
		if !written[name] {
			continue
		}
		value := d.Get(name)
		switch {
		case slices.Contains(secrets, name):
			after.brought = append(after.brought, name)
			text := value.(string)
			if text == "" {
				delete(after.Secrets, name)
			} else {
				after.Secrets[name] = text
			}
		case isEmpty(value):
			delete(own, name)
		default:
			own[name] = value
		}
	}
	if before == nil {
		// Not a small number: a refresh that began before a provider of this name
		// was deleted must not save its token into the new one.
		after.Serial = uint64(now.UnixNano())
	}
	if before == nil || len(after.brought) > 0 {
		after.Serial++
		after.Refused = ""
	}
	raw, err := json.Marshal(own)
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "the fields cannot be encoded").Because(err)
	}
	after.Fields = raw
	return after, nil
}

func isEmpty(value any) bool {
	switch v := value.(type) {
	case string:
		return v == ""
	case []string:
		return len(v) == 0
	}
	return false
}

// Configure lets type t judge the entry, which is not stored yet, make the secrets that
// are the broker's to make, and pin its endpoints: all that changes the entry. written
// are the names of the fields that the request brought, and of those made here.
func (e *Entry) Configure(ctx context.Context, t provider.Type, name string, written map[string]bool) error {
	client, err := e.Settings.Client()
	if err != nil {
		return fault.New(fault.InvalidRequest, "%s", err)
	}
	change := provider.Change{
		Config: provider.Config{Name: name, Fields: e.Fields, Pinned: e.Pinned},
		Parent: e.Parent(), Written: written, AllowHTTP: e.Settings.AllowHTTP, Client: client,
	}
	if err := e.generate(t, &change); err != nil {
		return err
	}
	pinned, err := t.Configure(ctx, change)
	if err != nil {
		return err
	}
	e.Pinned = *pinned
	return nil
}

// generate adds the secrets that the broker makes itself, such as a key pair. One
// that is new was sent nowhere before, as if this request had brought it.
func (e *Entry) generate(t provider.Type, change *provider.Change) error {
	made, err := generate(t, *change)
	if err != nil {
		return err
	}
	if len(made) > 0 {
		e.Serial++
		e.Refused = ""
	}
	for name, value := range made {
		e.Secrets[name] = value.Reveal()
		e.brought = append(e.brought, name)
		change.Written[name] = true
	}
	change.Parent = e.Parent()
	return nil
}

// MayFollow refuses what would send a stored secret to a new place without
// whoever writes it knowing it.
func (e *Entry) MayFollow(before *Entry, written map[string]bool) error {
	if slices.Equal(before.Pinned.Destinations, e.Pinned.Destinations) && before.Settings.CAPEM == e.Settings.CAPEM {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(e.Secrets)) {
		if !written[name] {
			return fault.New(fault.InvalidRequest, "this changes where the parent credential is sent: write %s again with it", name)
		}
	}
	return nil
}

// Read returns the stored provider, or nil if there is none.
func (r *Registry) Read(ctx context.Context, ref string) (*Entry, error) {
	raw, err := r.deps.Storage.Get(ctx, StoragePrefix+ref)
	if err != nil {
		return nil, stored.Fault(err)
	}
	if raw == nil {
		return nil, nil
	}
	entry := &Entry{}
	if err := entryForm.Decode(raw.Value, entry); err != nil {
		return nil, stored.Fault(fmt.Errorf("the provider %s: %w: %w", ref, stored.ErrUndecodable, err))
	}
	return entry, nil
}

// Refs are all stored providers of the types that this version has, as <type>/<name>.
func (r *Registry) Refs(ctx context.Context) ([]string, error) {
	var refs []string
	for _, t := range r.deps.Types {
		names, err := r.Names(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			refs = append(refs, t.Name()+"/"+name)
		}
	}
	return refs, nil
}

// Names are the stored providers of one type.
func (r *Registry) Names(ctx context.Context, t provider.Type) ([]string, error) {
	names, err := r.deps.Storage.List(ctx, StoragePrefix+t.Name()+"/")
	if err != nil {
		return nil, stored.Fault(err)
	}
	return names, nil
}

// allRefs are all stored providers, also those of a type that this version lacks.
func (r *Registry) allRefs(ctx context.Context) ([]string, error) {
	types, err := r.deps.Storage.List(ctx, StoragePrefix)
	if err != nil {
		return nil, stored.Fault(err)
	}
	var refs []string
	for _, t := range types {
		names, err := r.deps.Storage.List(ctx, StoragePrefix+t)
		if err != nil {
			return nil, stored.Fault(err)
		}
		for _, name := range names {
			refs = append(refs, t+name)
		}
	}
	return refs, nil
}

// ErrChangedMeanwhile refuses a write to what it was not made from.
var ErrChangedMeanwhile = fault.New(fault.InvalidRequest, "the provider was changed by somebody else meanwhile: read it and write again")

// Write stores entry if the stored version is still the one that it was made from.
func (r *Registry) Write(ctx context.Context, ref string, entry *Entry) error {
	lock := locksutil.LockForKey(r.locks, ref)
	lock.Lock()
	defer lock.Unlock()
	current, err := r.Read(ctx, ref)
	if err != nil {
		return err
	}
	if (current == nil && entry.Version != 0) || (current != nil && current.Version != entry.Version) {
		return ErrChangedMeanwhile
	}
	if current != nil {
		entry.followRotation(current)
	}
	if current == nil {
		// Not 0: a write that began before a provider of this name was deleted must
		// not take the new one for what it was made from.
		entry.Version = rand.Uint64N(1 << 62) //nolint:gosec // tells versions apart, hides nothing
	}
	entry.Version++
	defer r.Drop(ref) // after a failure too: it may have been written
	return r.put(ctx, ref, entry)
}

// followRotation takes the secrets that this write does not bring from what is
// stored now: the server may have replaced them since the entry was read.
func (e *Entry) followRotation(current *Entry) {
	secrets := maps.Clone(current.Secrets)
	if secrets == nil {
		secrets = map[string]string{}
	}
	for _, name := range e.brought {
		delete(secrets, name)
		if value, ok := e.Secrets[name]; ok {
			secrets[name] = value
		}
	}
	e.Secrets = secrets
	if len(e.brought) == 0 {
		e.Refused = current.Refused
	}
}

func (r *Registry) put(ctx context.Context, ref string, entry *Entry) error {
	raw, err := stored.Entry(entryForm, StoragePrefix+ref, entry)
	if err != nil {
		return stored.Fault(err)
	}
	if err := r.deps.Storage.Put(ctx, raw); err != nil {
		return stored.Fault(err)
	}
	return nil
}

func (r *Registry) loadParent(ctx context.Context, ref string) (provider.Parent, error) {
	entry, err := r.Read(ctx, ref)
	if err != nil {
		return provider.Parent{}, err
	}
	if entry == nil {
		return provider.Parent{}, provider.ErrParentChanged
	}
	return entry.Parent(), nil
}

// saveParent stores a parent that the provider itself rotated or was told is
// refused. The opened provider stays: it made the change and knows it.
func (r *Registry) saveParent(ctx context.Context, ref string, p provider.Parent) error {
	lock := locksutil.LockForKey(r.locks, ref)
	lock.Lock()
	defer lock.Unlock()
	entry, err := r.Read(ctx, ref)
	if err != nil {
		return err
	}
	if entry == nil || entry.Serial != p.Serial {
		return provider.ErrParentChanged
	}
	before := maps.Clone(entry.Secrets)
	entry.setSecrets(p)
	if err := r.put(ctx, ref, entry); err != nil {
		return err
	}
	if !maps.Equal(before, entry.Secrets) {
		r.deps.Logger().Info("parent credential rotated", "provider", ref)
	}
	return nil
}

// Delete forgets the provider if the stored version is still the one that was judged.
func (r *Registry) Delete(ctx context.Context, ref string, version uint64) error {
	lock := locksutil.LockForKey(r.locks, ref)
	lock.Lock()
	defer lock.Unlock()
	current, err := r.Read(ctx, ref)
	if err != nil || current == nil {
		return err
	}
	if current.Version != version {
		return ErrChangedMeanwhile
	}
	defer r.Drop(ref)
	if err := r.deps.Storage.Delete(ctx, StoragePrefix+ref); err != nil {
		return stored.Fault(err)
	}
	r.Mend(ref) // the next one of this name may be another server
	return nil
}
