package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// providerPrefix is where providers are stored, parent credentials included:
// one entry each, so that a credential and where it is sent change together.
const providerPrefix = "provider/"

// settings are the fields that every type of provider has.
type settings struct {
	CAPEM        string        `json:"ca_pem,omitempty"`
	Timeout      time.Duration `json:"timeout,omitempty"`
	RateLimit    float64       `json:"rate_limit,omitempty"`
	AllowHTTP    bool          `json:"allow_http,omitempty"`
	MaxTTL       time.Duration `json:"max_ttl,omitempty"`
	AllowedRoles []string      `json:"allowed_roles,omitempty"`
	Disabled     bool          `json:"disabled,omitempty"`
	// Deleting marks a provider that goes once nothing of it is left to kill.
	Deleting bool `json:"deleting,omitempty"`
}

// providerEntry is a provider as it is stored.
type providerEntry struct {
	Settings settings        `json:"settings"`
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

func (e *providerEntry) parent() provider.Parent {
	p := provider.Parent{Secrets: map[string]secret.Text{}, Refused: e.Refused, Serial: e.Serial}
	for name, value := range e.Secrets {
		p.Secrets[name] = secret.New(value)
	}
	return p
}

func (e *providerEntry) setSecrets(p provider.Parent) {
	e.Secrets = map[string]string{}
	for name, value := range p.Secrets {
		if !value.Empty() {
			e.Secrets[name] = value.Reveal()
		}
	}
	e.Refused = p.Refused
}

// openProvider is a provider ready to mint, with what the broker knows of it.
type openProvider struct {
	provider.Provider
	ref          string
	version      uint64
	settings     settings
	pinned       provider.Pinned
	traits       provider.Traits
	allowedRoles access.Globs
	parent       provider.Parent
	gate         *gate
	// opening tells this provider from the same one before or after a change.
	opening uint64
}

// registry opens providers and keeps them open.
type registry struct {
	b      *broker
	opened *cache[*openProvider]
	// reserves is what each provider reserves, reserved all of that together, by the
	// broker's own issuer.
	reserves *cache[provider.Reserved]
	reserved *cache[*reserved]
	locks    []*locksutil.LockEntry // of storage entries; never over a provider's call
	// openings numbers the providers that were opened, in this process.
	openings atomic.Uint64

	mu    sync.Mutex
	gates map[string]*gate // by ref; they outlive a provider's reopening
}

func newRegistry(b *broker) *registry {
	return &registry{
		b: b, opened: newCache[*openProvider](), reserves: newCache[provider.Reserved](), reserved: newCache[*reserved](),
		locks: locksutil.CreateLocks(), gates: map[string]*gate{},
	}
}

// drop forgets what was made of the stored provider.
func (r *registry) drop(ref string) {
	r.opened.drop(ref)
	r.reserves.drop(ref)
	r.reserved.clear()
}

// open returns the provider ref ("<type>/<name>"), or nil if there is none.
func (r *registry) open(ctx context.Context, ref string) (*openProvider, error) {
	return r.opened.get(ref, func() (*openProvider, error) {
		entry, err := r.read(ctx, ref)
		if err != nil || entry == nil {
			return nil, err
		}
		return r.assemble(ref, entry)
	})
}

// mustOpen is open for where a missing provider is somebody's mistake.
func (r *registry) mustOpen(ctx context.Context, ref string) (*openProvider, error) {
	p, err := r.open(ctx, ref)
	if err == nil && p == nil {
		err = fault.New(fault.TemporarilyUnavailable, "the provider %q does not exist: an operator must write providers/%s", ref, ref)
	}
	return p, err
}

func (r *registry) assemble(ref string, entry *providerEntry) (*openProvider, error) {
	typeName, name, _ := strings.Cut(ref, "/")
	t := r.b.types.Lookup(typeName)
	if t == nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "this version of the plugin has no provider type %q", typeName)
	}
	client, err := entry.Settings.client()
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "%s", err)
	}
	globs, err := access.ParseGlobs(entry.Settings.allowedRoles())
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "allowed_roles: %s", err)
	}
	g := r.gate(ref)
	g.setLimit(entry.Settings.RateLimit)
	p, err := t.Open(
		provider.Config{Name: name, Fields: entry.Fields, Pinned: entry.Pinned},
		entry.parent(),
		provider.Deps{
			Client:     client,
			Logger:     r.b.Logger().Named(ref),
			Now:        r.b.now,
			LoadParent: func(ctx context.Context) (provider.Parent, error) { return r.loadParent(ctx, ref) },
			SaveParent: func(ctx context.Context, p provider.Parent) error { return r.saveParent(ctx, ref, p) },
			Turn:       func(ctx context.Context) (func(), error) { return g.turn(ctx, entry.Settings.patience()) },
			Signer:     signer{r.b},
		})
	if err != nil {
		return nil, err
	}
	return &openProvider{
		Provider: p, ref: ref, version: entry.Version, settings: entry.Settings, pinned: entry.Pinned, traits: p.Traits(),
		allowedRoles: globs, parent: entry.parent(), gate: g,
		opening: r.openings.Add(1),
	}, nil
}

func (r *registry) gate(ref string) *gate {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.gates[ref]
	if g == nil {
		g = newGate()
		r.gates[ref] = g
	}
	return g
}

// gateStates are the gates by ref, those of providers that are gone included.
func (r *registry) gateStates() map[string]gateState {
	r.mu.Lock()
	defer r.mu.Unlock()
	states := make(map[string]gateState, len(r.gates))
	for ref, g := range r.gates {
		states[ref] = g.state(r.b.now())
	}
	return states
}

func (r *registry) read(ctx context.Context, ref string) (*providerEntry, error) {
	raw, err := r.b.storage.Get(ctx, providerPrefix+ref)
	if err != nil {
		return nil, storageFault(err)
	}
	if raw == nil {
		return nil, nil
	}
	entry := &providerEntry{}
	if err := providerForm.Decode(raw.Value, entry); err != nil {
		return nil, storageFault(fmt.Errorf("the provider %s: %w: %w", ref, errUndecodable, err))
	}
	return entry, nil
}

var errChangedMeanwhile = fault.New(fault.InvalidRequest, "the provider was changed by somebody else meanwhile: read it and write again")

// write stores entry if the stored version is still the one that it was made from.
func (r *registry) write(ctx context.Context, ref string, entry *providerEntry) error {
	lock := locksutil.LockForKey(r.locks, ref)
	lock.Lock()
	defer lock.Unlock()
	current, err := r.read(ctx, ref)
	if err != nil {
		return err
	}
	if (current == nil && entry.Version != 0) || (current != nil && current.Version != entry.Version) {
		return errChangedMeanwhile
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
	defer r.drop(ref) // after a failure too: it may have been written
	return r.put(ctx, ref, entry)
}

// followRotation takes the secrets that this write does not bring from what is
// stored now: the server may have replaced them since the entry was read.
func (e *providerEntry) followRotation(current *providerEntry) {
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

func (r *registry) put(ctx context.Context, ref string, entry *providerEntry) error {
	raw, err := entryOf(providerForm, providerPrefix+ref, entry)
	if err != nil {
		return storageFault(err)
	}
	if err := r.b.storage.Put(ctx, raw); err != nil {
		return storageFault(err)
	}
	return nil
}

func (r *registry) loadParent(ctx context.Context, ref string) (provider.Parent, error) {
	entry, err := r.read(ctx, ref)
	if err != nil {
		return provider.Parent{}, err
	}
	if entry == nil {
		return provider.Parent{}, provider.ErrParentChanged
	}
	return entry.parent(), nil
}

// saveParent stores a parent that the provider itself rotated or was told is
// refused. The opened provider stays: it made the change and knows it.
func (r *registry) saveParent(ctx context.Context, ref string, p provider.Parent) error {
	lock := locksutil.LockForKey(r.locks, ref)
	lock.Lock()
	defer lock.Unlock()
	entry, err := r.read(ctx, ref)
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
		r.b.Logger().Info("parent credential rotated", "provider", ref)
	}
	return nil
}

// delete forgets the provider if the stored version is still the one that was judged.
func (r *registry) delete(ctx context.Context, ref string, version uint64) error {
	lock := locksutil.LockForKey(r.locks, ref)
	lock.Lock()
	defer lock.Unlock()
	current, err := r.read(ctx, ref)
	if err != nil || current == nil {
		return err
	}
	if current.Version != version {
		return errChangedMeanwhile
	}
	defer r.drop(ref)
	if err := r.b.storage.Delete(ctx, providerPrefix+ref); err != nil {
		return storageFault(err)
	}
	r.gate(ref).mend() // the next one of this name may be another server
	return nil
}

func (s settings) allowedRoles() []string {
	if s.AllowedRoles == nil {
		return []string{"*"}
	}
	return s.AllowedRoles
}

func (s settings) client() (*httpclient.Client, error) {
	if s.Timeout < 0 || s.Timeout > maxTimeout {
		return nil, fmt.Errorf("timeout must be between 0 and %s", maxTimeout)
	}
	return httpclient.New(httpclient.Options{CAPEM: s.CAPEM, Timeout: s.Timeout, AllowHTTP: s.AllowHTTP})
}

// timeout is how long one call may take.
func (s settings) timeout() time.Duration {
	if s.Timeout == 0 {
		return httpclient.DefaultTimeout
	}
	return s.Timeout
}

// patience is how long a mint may wait for its place.
func (s settings) patience() time.Duration { return min(s.timeout(), maxPatience) }

// maxPatience leaves a mint time for its call within the 90 s that Vault gives a
// request: a token that comes after that is killed, and was minted for nothing.
const maxPatience = 30 * time.Second

// maxTimeout keeps one call well within the 90 s that Vault gives a revocation.
const maxTimeout = 60 * time.Second

// isParentSecret reports whether token is one of the parent's own secrets.
func isParentSecret(p provider.Parent, token secret.Text) bool {
	for _, s := range p.Secrets {
		if s.Equal(token) {
			return true
		}
	}
	return false
}

// errUndecodable marks an entry that is there and says nothing.
var errUndecodable = errors.New("the stored entry cannot be decoded")
