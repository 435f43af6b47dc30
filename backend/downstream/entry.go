package downstream

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
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
	// Refused is the type's own word that the parent is no good any more; Refusal is for
	// other refusals, which the broker has made sure of. Unproven is that nothing has shown
	// that the parent works; earlier versions did not store that.
	Refused  string   `json:"refused,omitempty"`
	Refusal  *Refusal `json:"refusal,omitempty"`
	Unproven bool     `json:"unproven,omitempty"`
	// RotatedAt is when the parent was last written or replaced; zero if an earlier
	// version stored it.
	RotatedAt time.Time `json:"rotated_at,omitzero"`
	// ParentEnds is when the parent itself ends, as the provider has said of it last; zero if
	// it did not, or earlier versions were told it, who did not store that.
	ParentEnds time.Time `json:"parent_ends,omitzero"`
	// Spent are fingerprints of what was written and a proof has spent, by field: whoever
	// writes that again means what has followed it.
	Spent map[string]string `json:"spent,omitempty"`
	// Serial counts writes of the credential, Version every write.
	Serial  uint64 `json:"serial"`
	Version uint64 `json:"version"`

	// brought are the secrets that the write under way brings itself, made those of the
	// current parent that were made for it; moved is that it brings the current parent, or
	// has it sent elsewhere.
	brought, made []string
	moved         bool
	// former are the fields that the write under way replaces; loan and formerLoan what is
	// borrowed after it and before.
	former           json.RawMessage
	loan, formerLoan *provider.Loan
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
		return HealthDeleting
	case e.Settings.Disabled:
		return HealthDisabled
	case e.Refused != "", e.Refusal != nil:
		return HealthRefused
	case e.Unproven:
		return HealthUnknown
	default:
		return HealthOK
	}
}

// RefusedBecause is why the provider refuses the parent, for operators; "" if it is not
// known to.
func (e *Entry) RefusedBecause() string {
	if e.Refused == "" && e.Refusal != nil {
		return e.Refusal.String()
	}
	return e.Refused
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
		after.Secrets, after.Spent = maps.Clone(before.Secrets), maps.Clone(before.Spent)
		after.former = before.Fields
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
			delete(after.Spent, name)
			text, err := secretText(value)
			if err != nil {
				return nil, fault.New(fault.InvalidRequest, "%s: it cannot be stored", name)
			}
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
	}
	if before == nil || slices.ContainsFunc(after.brought, isCurrent) {
		after.forget()
	}
	raw, err := json.Marshal(own)
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "the fields cannot be encoded").Because(err)
	}
	after.Fields = raw
	return after, nil
}

// secretText is how a secret field's value is stored: several secrets by name are a JSON
// object.
func secretText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case map[string]string:
		if len(v) == 0 {
			return "", nil
		}
		raw, err := json.Marshal(v)
		return string(raw), err
	}
	return "", errors.New("a secret is a text, or a map of texts")
}

func isEmpty(value any) bool {
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.String, reflect.Slice, reflect.Map:
		return v.Len() == 0
	default:
		return false
	}
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
		Former: e.former, Parent: e.Parent(),
		Written: written, AllowHTTP: e.Settings.AllowHTTP, Client: client,
	}
	if err := e.generate(t, &change); err != nil {
		return err
	}
	pinned, err := t.Configure(ctx, change)
	if err != nil {
		return err
	}
	to, err := httpclient.ParseDestinations(pinned.Destinations)
	switch {
	case err != nil:
		return fault.New(fault.InvalidRequest, "where the parent credential would be sent cannot be told: %s", err)
	case client.Proxied() && to.Plain():
		return fault.New(fault.InvalidRequest, "with proxy_url every URL must be https: a proxy reads plain http")
	}
	e.Pinned = *pinned
	e.loan = loanIn(t, provider.Config{Name: name, Fields: e.Fields, Pinned: e.Pinned})
	if e.former != nil {
		e.formerLoan = loanIn(t, provider.Config{Name: name, Fields: e.former, Pinned: change.Config.Pinned})
	}
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
	}
	for name, value := range made {
		if isCurrent(name) {
			e.made = append(e.made, name)
			e.forget()
		}
		e.Secrets[name] = value.Reveal()
		e.brought = append(e.brought, name)
		change.Written[name] = true
	}
	change.Parent = e.Parent()
	return nil
}

// Moves notes what has the parent of the entry before sent elsewhere than there, or as
// somebody else's.
func (e *Entry) Moves(before *Entry) {
	if !e.moved && (e.trusts(before) || !e.loan.Same(e.formerLoan) || !slices.Equal(before.Pinned.Destinations, e.Pinned.Destinations) || before.Pinned.Account != e.Pinned.Account) {
		e.Serial++
		e.forget()
	}
}

// trusts reports whether others are trusted on the way than in the entry before.
func (e *Entry) trusts(before *Entry) bool {
	return before.Settings.CAPEM != e.Settings.CAPEM || before.Settings.ProxyURL != e.Settings.ProxyURL
}

// MayAsk refuses what would send the stored password of the proxy to another one, or to
// one that others vouch for. It is for before anything is asked through the proxy.
func (e *Entry) MayAsk(before *Entry, written map[string]bool) error {
	if e.trusts(before) && e.Settings.ProxyPassword != "" && !written["proxy_password"] {
		return fault.New(fault.InvalidRequest, "this changes where the proxy's password is sent: write proxy_password again with it")
	}
	return nil
}

// MayFollow refuses what would send a stored secret to a new place without
// whoever writes it knowing it.
func (e *Entry) MayFollow(before *Entry, written map[string]bool) error {
	trusts := e.trusts(before)
	if slices.Equal(before.Pinned.Destinations, e.Pinned.Destinations) && !trusts {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(e.Secrets)) {
		if !written[name] {
			return fault.New(fault.InvalidRequest, "this changes where the parent credential is sent: write %s again with it", name)
		}
	}
	return e.bringsLoan(written)
}

// Read returns the stored provider. The errors are those of stored.Keeper.
func (r *Registry) Read(ctx context.Context, ref string) (*Entry, error) {
	return r.entries.Get(ctx, ref)
}

// Exists reports whether the provider is stored. One that cannot be read is an error.
func (r *Registry) Exists(ctx context.Context, ref string) (bool, error) {
	return r.entries.Exists(ctx, ref)
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
	return r.entries.List(ctx, t.Name()+"/")
}

// allRefs are all stored providers, also those of a type that this version lacks.
func (r *Registry) allRefs(ctx context.Context) ([]string, error) {
	types, err := r.entries.List(ctx, "")
	if err != nil {
		return nil, err
	}
	var refs []string
	for _, t := range types {
		names, err := r.entries.List(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			refs = append(refs, t+name)
		}
	}
	return refs, nil
}

// Write stores entry if the stored version is still the one that it was made from, but
// for what the server has replaced meanwhile. Else stored.ErrChanged is in the error. What it
// borrows anew is judged as one step with that.
func (r *Registry) Write(ctx context.Context, ref string, entry *Entry) error {
	loan, err := r.loanChanged(ctx, ref, entry)
	switch {
	case err != nil:
		return err
	case loan != nil:
		return r.Borrow(ctx, BorrowerOf(ref), *loan, func() error { return r.write(ctx, ref, entry) })
	}
	return r.write(ctx, ref, entry)
}

func (r *Registry) write(ctx context.Context, ref string, entry *Entry) error {
	err := r.entries.Change(ctx, ref, func(current *Entry) (*Entry, error) {
		switch {
		case current == nil && entry.Version != 0, current != nil && current.Version != entry.Version:
			return nil, stored.ErrChanged
		case current == nil:
			// Not 0: a write that began before a provider of this name was deleted must
			// not take the new one for what it was made from.
			entry.Version = rand.Uint64N(1 << 62) //nolint:gosec // tells versions apart, hides nothing
		default:
			entry.followRotation(current)
			if entry.takesAlong(current) {
				return nil, stored.ErrChanged
			}
		}
		if current == nil || len(entry.brought) > 0 || entry.RotatedAt.IsZero() {
			entry.RotatedAt = r.deps.Now()
		}
		entry.Version++
		return entry, nil
	})
	if err == nil {
		r.site(ref).rotations.forget()
		r.settle(ctx, ref, entry)
	}
	return err
}

// takesAlong reports whether the entry sends a secret to a new place that it has not
// brought: one that a rotation has added since MayFollow looked.
func (e *Entry) takesAlong(before *Entry) bool {
	if slices.Equal(before.Pinned.Destinations, e.Pinned.Destinations) && !e.trusts(before) {
		return false
	}
	for name := range e.Secrets {
		if !slices.Contains(e.brought, name) {
			return true
		}
	}
	return false
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
		e.RotatedAt = current.RotatedAt
	}
	if !e.moved {
		e.Refused, e.Refusal, e.Unproven = current.Refused, current.Refusal, current.Unproven
		e.ParentEnds = current.ParentEnds
	}
}

func (r *Registry) loadParent(ctx context.Context, ref string) (provider.Parent, error) {
	entry, err := r.Read(ctx, ref)
	if errors.Is(err, stored.ErrAbsent) {
		return provider.Parent{}, provider.ErrParentChanged
	}
	if err != nil {
		return provider.Parent{}, err
	}
	return entry.Parent(), nil
}

// present are the secrets without those that will follow (`_next`): what has only been
// prepared is no rotation.
func present(secrets map[string]string) map[string]string {
	now := maps.Clone(secrets)
	maps.DeleteFunc(now, func(name, _ string) bool { return strings.HasSuffix(name, "_next") })
	return now
}

// saveParent stores a parent that the provider itself rotated or was told is
// refused. The opened provider stays: it made the change and knows it.
func (r *Registry) saveParent(ctx context.Context, ref string, p provider.Parent) error {
	var before, after map[string]string
	replaced := false
	err := r.entries.ChangeQuietly(ctx, ref, func(entry *Entry) (*Entry, error) {
		if entry == nil || entry.Serial != p.Serial {
			return nil, provider.ErrParentChanged
		}
		before = entry.Secrets
		entry.setSecrets(p)
		after = entry.Secrets
		if !maps.Equal(present(before), present(after)) {
			entry.RotatedAt, replaced = r.deps.Now(), true
			entry.ParentEnds = time.Time{} // nobody has said it of this one
		}
		return entry, nil
	})
	r.schedules.Drop(ref) // after a failure too: it may have been written
	if err == nil && replaced {
		r.site(ref).rotations.forget()
	}
	if err == nil && !maps.Equal(before, after) {
		r.deps.Logger().Info("parent credential rotated", "provider", ref)
	}
	return err
}

// Delete forgets the provider if the stored version is still the one that was judged.
// Else stored.ErrChanged is in the error. That there is none is no error.
func (r *Registry) Delete(ctx context.Context, ref string, version uint64) error {
	there := false
	err := r.entries.Change(ctx, ref, func(current *Entry) (*Entry, error) {
		switch {
		case current == nil:
			return nil, stored.ErrUnchanged
		case current.Version != version:
			return nil, stored.ErrChanged
		}
		there = true
		return nil, nil
	})
	if err == nil && there {
		r.Mend(ref) // the next one of this name may be another server
	}
	if err == nil {
		if err := r.successors.Delete(ctx, ref); err != nil {
			r.deps.Logger().Warn("what was kept of a parent credential could not be forgotten", "provider", ref, "error", err)
		}
	}
	return err
}
