// Package downstream holds the providers as the broker uses them: opened from what is
// stored, asked behind a gate that paces and spares them, and measured. Who may have
// what of them is decided above, and so is when a child dies: only who got the Reaper
// can call a provider's Revoke.
package downstream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Deps is what the package needs of the broker.
type Deps struct {
	Types   catalog.Catalog
	Storage logical.Storage
	Now     func() time.Time
	Logger  func() hclog.Logger
	// Tainted asks Vault whether the mount is being disabled or moved.
	Tainted func() bool
	// Measure notes one call to a provider: what it was for, when it began, how it ended.
	Measure func(ref, call string, started time.Time, err error)
	Signer  provider.Signer
	// Discard kills what a type has minted for itself, as provider.Deps says.
	Discard func(ctx context.Context, p *Provider, c *provider.Child)
	// Issuer is the broker's own issuer, "" if it is none; Endpoints are the URLs at
	// which a token could be used against an issuer of that name.
	Issuer    func(ctx context.Context) (string, error)
	Endpoints func(issuer string) []string
	// Lend gets a token of the loan for a borrower, as provider.Deps.Borrowed has it, and
	// MayLend refuses a loan that its lender would not give, or lacks.
	Lend    func(ctx context.Context, borrower string, loan provider.Loan, refused secret.Text) (secret.Text, error)
	MayLend func(ctx context.Context, loan provider.Loan) error
	// OtherLoans are what others than providers borrow, by their paths; nil for none.
	OtherLoans func(ctx context.Context) (map[string]Borrowing, error)
}

// Provider is a provider ready to mint, with what the broker knows of it. Its fields
// are not to be changed.
type Provider struct {
	Ref          string // "<type>/<name>"
	Version      uint64
	Settings     Settings
	Pinned       provider.Pinned
	Traits       provider.Traits
	AllowedRoles access.Globs
	// Answer is what a child of the provider consists of.
	Answer provider.Answer
	// Opening tells this provider from the same one before or after a change.
	Opening uint64
	// RotatedAt is when the parent was last written or replaced, as of the opening.
	RotatedAt time.Time

	opened   provider.Provider
	site     *site
	registry *Registry
	// serial is the parent's, as of the opening; standing what is on record of it.
	serial   uint64
	standing atomic.Int32
	// loan is what it has for a credential; nil if it has one of its own.
	loan *provider.Loan
	// secrets finds in a text the parent's secrets, as the provider last read or saved
	// them, and what it has borrowed.
	secrets atomic.Pointer[secret.Search]
	looking sync.Mutex
	parent  []secret.Text
	lent    []secret.Text
}

// Registry opens providers and keeps them open. It is safe for concurrent use.
type Registry struct {
	deps    *Deps
	door    *Door
	entries *stored.Keeper[Entry]
	opened  *stored.Cache[*Provider]
	// reserves is what each provider reserves, reserved all of that together, by the
	// broker's own issuer.
	reserves *stored.Cache[provider.Reserved]
	reserved *stored.Cache[*Reserved]
	// schedules are when each parent is to be rotated.
	schedules *stored.Cache[schedule]
	// successors are what proving a written parent has left of it.
	successors *stored.Keeper[successor]
	// openings numbers the providers that were opened, in this process.
	openings atomic.Uint64

	lending sync.Mutex // who may lend to whom changes by one write at a time

	mu    sync.Mutex
	sites map[string]*site // by ref; they outlive a provider's reopening
}

// New makes the registry of one mount, and the Reaper, which alone can kill children of its
// providers: package ending gets that, and nobody else.
func New(deps Deps) (*Registry, *Reaper) {
	r := &Registry{
		deps: &deps, door: newDoor(deps.Now, deps.Tainted), sites: map[string]*site{},
		entries: stored.NewKeeper(deps.Storage, StoragePrefix, stored.KindOf[Entry](entryForm)),
		opened:  stored.NewCacheOfAbsent[*Provider](), reserves: stored.NewCache[provider.Reserved](), reserved: stored.NewCache[*Reserved](),
		schedules:  stored.NewCache[schedule](),
		successors: stored.NewKeeper(deps.Storage, SuccessorPrefix, stored.KindOf[successor](successorForm)),
	}
	r.entries.OnChange(r.Drop)
	return r, &Reaper{registry: r}
}

// Door is that of the mount.
func (r *Registry) Door() *Door { return r.door }

// Drop forgets what was made of the stored provider.
func (r *Registry) Drop(ref string) {
	r.opened.Drop(ref)
	r.reserves.Drop(ref)
	r.schedules.Drop(ref)
	r.reserved.Clear()
}

// OnChange has drop called after the provider ref was written or deleted, here or on
// another node. It must be called before the registry is used, and must not block.
func (r *Registry) OnChange(drop func(ref string)) { r.entries.OnChange(drop) }

// Invalidate forgets what was made of the provider that another node has written at a
// key of storage. It reports whether the key is a provider's.
func (r *Registry) Invalidate(key string) bool { return r.entries.Invalidate(key) }

// Open returns the provider ref ("<type>/<name>"). The error is stored.ErrAbsent if there
// is none.
func (r *Registry) Open(ctx context.Context, ref string) (*Provider, error) {
	p, err := r.opened.Get(ref, func() (*Provider, error) {
		entry, err := r.Read(ctx, ref)
		if err != nil {
			return nil, err
		}
		return r.assemble(ref, entry, r.site(ref), r.stored(ref))
	})
	if err == nil {
		p.site.take(p)
	}
	return p, err
}

// Peek opens an entry that may never be stored, to see whether it can be and what it
// would be. Nothing of that stays: the provider must be asked for no child.
func (r *Registry) Peek(ref string, entry *Entry) (*Provider, error) {
	return r.assemble(ref, entry, newSite(), r.stored(ref))
}

// MustOpen is Open for where a missing provider is somebody's mistake.
func (r *Registry) MustOpen(ctx context.Context, ref string) (*Provider, error) {
	p, err := r.Open(ctx, ref)
	if errors.Is(err, stored.ErrAbsent) {
		return nil, Missing(ref)
	}
	return p, err
}

// Missing is the answer to a caller whose role names a provider that does not exist.
func Missing(ref string) error {
	return fault.New(fault.TemporarilyUnavailable, "the role's provider %q does not exist, or no more: an operator must write providers/%s, or delete the role", ref, ref)
}

// parentKeeper loads and saves a provider's parent, as provider.Deps says.
type parentKeeper struct {
	load func(context.Context) (provider.Parent, error)
	save func(context.Context, provider.Parent) error
}

// stored keeps the parent of a provider that is stored.
func (r *Registry) stored(ref string) parentKeeper {
	return parentKeeper{
		load: func(ctx context.Context) (provider.Parent, error) { return r.loadParent(ctx, ref) },
		save: func(ctx context.Context, parent provider.Parent) error { return r.saveParent(ctx, ref, parent) },
	}
}

// assemble makes a provider of an entry, and changes nothing of the site.
func (r *Registry) assemble(ref string, entry *Entry, at *site, keep parentKeeper) (*Provider, error) {
	typeName, name, _ := strings.Cut(ref, "/")
	t := r.deps.Types.Lookup(typeName)
	if t == nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "this version of the plugin has no provider type %q: register one that has it, or give the role another provider", typeName)
	}
	client, err := entry.Settings.Client()
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "%s", err)
	}
	globs, err := access.ParseGlobs(entry.Settings.allowedRoles())
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "allowed_roles: %s", err)
	}
	p := &Provider{
		Ref: ref, Version: entry.Version, Settings: entry.Settings, Pinned: entry.Pinned,
		RotatedAt: entry.RotatedAt, AllowedRoles: globs, Opening: r.openings.Add(1), site: at, registry: r, serial: entry.Serial,
	}
	p.loan = r.loanOf(ref, entry)
	p.standing.Store(entry.standing())
	p.lookFor(entry.Parent())
	p.opened, err = t.Open(
		provider.Config{Name: name, Fields: entry.Fields, Pinned: entry.Pinned},
		entry.Parent(),
		provider.Deps{
			Client:     client.To(entry.Pinned.Destinations),
			Logger:     r.deps.Logger().Named(ref),
			Now:        r.deps.Now,
			LoadParent: func(ctx context.Context) (provider.Parent, error) { return p.lookedFor(keep.load(ctx)) },
			SaveParent: func(ctx context.Context, parent provider.Parent) error {
				_, err := p.lookedFor(parent, keep.save(ctx, parent))
				return err
			},
			Turn:     func(ctx context.Context) (func(), error) { return at.turn(ctx, entry.Settings.patience()) },
			Signer:   r.deps.Signer,
			Borrowed: r.borrowed(p),
			Discard: func(ctx context.Context, c *provider.Child) {
				r.deps.Discard(context.WithoutCancel(ctx), p, c)
			},
		})
	if err != nil {
		return nil, err
	}
	p.Traits = p.opened.Traits()
	p.Answer = provider.AnswerOf(t, p.Traits)
	return p, nil
}

// Secrets finds in a text the parent's secrets, as the provider last read or saved them, and
// what it has borrowed.
func (p *Provider) Secrets() *secret.Search { return p.secrets.Load() }

func (p *Provider) lookFor(parent provider.Parent) {
	p.looking.Lock()
	defer p.looking.Unlock()
	p.parent = slices.Concat(slices.Collect(maps.Values(parent.Secrets)), p.parts(parent))
	p.lookAnewLocked()
}

func (p *Provider) lookAnewLocked() {
	search := secret.NewSearch(slices.Concat(p.parent, p.lent)...)
	p.secrets.Store(&search)
}

// lookedFor passes on what was loaded or saved; Secrets finds that parent's from now on.
func (p *Provider) lookedFor(parent provider.Parent, err error) (provider.Parent, error) {
	if err == nil {
		p.lookFor(parent)
	}
	return parent, err
}

func (r *Registry) site(ref string) *site {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sites[ref]
	if s == nil {
		s = newSite()
		r.sites[ref] = s
	}
	return s
}

// State is what goes on in front of one provider.
func (r *Registry) State(ref string) State { return r.site(ref).state(r.deps.Now()) }

// States are what goes on in front of the providers, by ref, those that are gone
// included.
func (r *Registry) States() map[string]State {
	r.mu.Lock()
	defer r.mu.Unlock()
	states := make(map[string]State, len(r.sites))
	for ref, s := range r.sites {
		states[ref] = s.state(r.deps.Now())
	}
	return states
}

// Mend lets mints through again: an operator has seen to the provider.
func (r *Registry) Mend(ref string) { r.site(ref).gate.mend() }

// KeepMintsOut lets no mint begin until done; ok is false if one is under way. It is for
// changes after which a child could not be killed any more, and never waits.
func (r *Registry) KeepMintsOut(ref string) (done func(), ok bool) { return r.site(ref).keepMintsOut() }

// Admit lets a mint begin. Until leave the provider can neither be deleted nor
// become another account, and the mount is not given up: whatever the mint brings can
// then also be killed.
func (r *Registry) Admit(ctx context.Context, p *Provider) (leave func(), err error) {
	return r.admit(ctx, p, r.door.comeIn)
}

// AdmitToKill is Admit of a mint whose child is to kill others, also at the end of the mount.
func (r *Registry) AdmitToKill(ctx context.Context, p *Provider) (leave func(), err error) {
	return r.admit(ctx, p, r.door.comeInToKill)
}

func (r *Registry) admit(ctx context.Context, p *Provider, comeIn func(ref string) error) (leave func(), err error) {
	if err := comeIn(p.Ref); err != nil {
		return nil, err
	}
	depart, ok := p.site.enter()
	if !ok {
		r.door.leave(p.Ref)
		return nil, fault.New(fault.TemporarilyUnavailable, "the provider is being changed: try again")
	}
	leave = func() { depart(); r.door.leave(p.Ref) }
	now, err := r.MustOpen(ctx, p.Ref)
	if err == nil && (now.Pinned.Account != p.Pinned.Account || now.Settings.Disabled && !p.Settings.Disabled) {
		err = fault.New(fault.TemporarilyUnavailable, "the provider has been changed: try again")
	}
	if err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}
