package downstream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// A parent is proven before it replaces another one, or is the first one. To prove it may
// be to spend it: a server may take a refresh token once, and answer with the next one.
// That one is durable before the check goes on, whatever becomes of the write, and whoever
// writes the spent one again means it.

// SuccessorPrefix is where that is stored, one entry for a provider, by its ref.
const SuccessorPrefix = "successor/"

var successorForm = form.Kind{Name: "successor of a parent credential"}

// successor is what follows secrets that were written and then spent.
type successor struct {
	// Of are fingerprints of what was written, by field.
	Of map[string]string `json:"of"`
	// Secrets are what follows; empty once the provider itself has that.
	Secrets map[string]string `json:"secrets,omitempty"`
	// At is where it was spent: what follows is sent nowhere else.
	At []string `json:"at,omitempty"`
}

// reached is where an entry sends its secrets, and whom it trusts on the way.
func (e *Entry) reached() []string {
	return append(slices.Clone(e.Pinned.Destinations), "ca "+secret.New(e.Settings.CAPEM).Fingerprint(), "proxy "+e.Settings.ProxyURL)
}

// Proof is what came of proving a parent. Where nothing was asked, its Provider is nil.
type Proof struct {
	Provider *Provider
	Health   provider.Health
	// Unproven is why the parent is stored without proof, for operators; "" if it is
	// proven, or was not to be.
	Unproven string
}

// Prove proves live that the parent of an entry works, which is not stored yet and is to
// replace before (nil for none), if the entry wants that. It is an Upkeep's check: one at a
// time, and within the rate limit. It changes the entry as the provider has it, and the
// Proof's children are the caller's to kill, also beside an error.
func (r *Registry) Prove(ctx context.Context, ref string, before, entry *Entry) (Proof, error) {
	if entry.moved {
		entry.ParentEnds = time.Time{}
	}
	if entry.Settings.WriteAhead || !entry.moved {
		return Proof{}, nil
	}
	c := &candidate{registry: r, ref: ref, entry: entry}
	at := newSite()
	if before != nil {
		at = r.site(ref)
	}
	p, err := r.assemble(ref, entry, at, parentKeeper{load: c.load, save: c.save})
	if err != nil {
		return Proof{}, err
	}
	switch why := p.unprovable(); {
	case len(entry.made) > 0:
		return Proof{Unproven: strings.Join(entry.made, " and ") + " was made by this write: register what a read of the provider shows at the provider" + shownBy(p)}, nil
	case why != "":
		return Proof{Unproven: why}, nil
	}
	return p.prove(ctx, entry, before != nil)
}

// shownBy names the fields of a read that are to be registered.
func shownBy(p *Provider) string {
	names := slices.Sorted(maps.Keys(p.Public()))
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

func (p *Provider) prove(ctx context.Context, entry *Entry, known bool) (Proof, error) {
	r := p.registry
	done, err := p.site.upkeep(ctx, p.Settings.patience())
	if err != nil {
		return Proof{}, err
	}
	defer done()
	if err := r.door.comeIn(p.Ref); err != nil {
		return Proof{}, err
	}
	defer r.door.leave(p.Ref)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), MintBudget)
	defer cancel()
	started := time.Now()
	health, err := p.checker()(httpclient.Once(p.site.gate.withPace(ctx)))
	health, err = p.show(health), p.discreet(err)
	if known || err == nil { // else it may be a name that there never is
		r.deps.Measure(p.Ref, CallCheck, started, err)
	}
	proof := Proof{Provider: p, Health: health}
	switch {
	case errors.Is(err, provider.ErrUntold):
		proof.Unproven, err = fault.Public(err), nil
	case err == nil && health.Untold:
		proof.Unproven = health.Detail
	case err == nil:
		entry.Unproven, entry.ParentEnds = false, health.Ends
	}
	return proof, err
}

// candidate is a parent that is being proven.
type candidate struct {
	registry *Registry
	ref      string
	entry    *Entry
}

func (c *candidate) load(ctx context.Context) (provider.Parent, error) {
	switch current, err := c.registry.Read(ctx, c.ref); {
	case err == nil:
		c.entry.followRotation(current)
		if c.entry.takesAlong(current) {
			return provider.Parent{}, fault.New(fault.InvalidRequest, "the provider was changed by somebody else meanwhile: read it and write again")
		}
	case !errors.Is(err, stored.ErrAbsent):
		return provider.Parent{}, err
	}
	return c.entry.Parent(), nil
}

// save makes durable what follows the parent that was written: in the stored provider, if
// it is the same parent, which must go on with the next one whatever becomes of the write;
// else as its successor.
func (c *candidate) save(ctx context.Context, parent provider.Parent) error {
	var next Entry
	next.setSecrets(parent)
	used := map[string]string{}
	for name, value := range next.Secrets {
		if was := c.entry.Secrets[name]; was != value {
			used[name] = was
		}
	}
	passed, err := c.registry.passOn(ctx, c.ref, used, next.Secrets)
	if err != nil {
		return err
	}
	if err := c.keep(ctx, used, next.Secrets, passed); err != nil {
		return err
	}
	c.entry.Secrets, c.entry.Refused = next.Secrets, next.Refused
	return nil
}

// passOn gives what has followed a secret to the stored provider, if it has that, and
// reports which.
func (r *Registry) passOn(ctx context.Context, ref string, used, next map[string]string) (passed map[string]bool, err error) {
	if len(used) == 0 {
		return nil, nil
	}
	defer r.Drop(ref)
	return passed, r.entries.ChangeQuietly(ctx, ref, func(e *Entry) (*Entry, error) {
		passed = map[string]bool{}
		for name, was := range used {
			if e != nil && e.Secrets[name] == was {
				e.Secrets[name], e.RotatedAt, passed[name] = next[name], r.deps.Now(), true
			}
		}
		if len(passed) == 0 {
			return nil, stored.ErrUnchanged
		}
		return e, nil
	})
}

// keep stores what has followed a secret that this write brought.
func (c *candidate) keep(ctx context.Context, used, next map[string]string, passed map[string]bool) error {
	after := &successor{Of: map[string]string{}, Secrets: map[string]string{}, At: c.entry.reached()}
	for name, was := range used {
		if !slices.Contains(c.entry.brought, name) {
			continue
		}
		c.entry.spends(name, secret.New(was).Fingerprint())
		after.Of[name] = c.entry.Spent[name]
		if !passed[name] {
			after.Secrets[name] = next[name]
		}
	}
	if len(after.Of) == 0 {
		return nil
	}
	return c.registry.successors.Change(ctx, c.ref, func(*successor) (*successor, error) { return after, nil })
}

// spends notes what was written to the field and is spent now. What followed it and was
// spent as well is not what was written.
func (e *Entry) spends(name, fingerprint string) {
	if e.Spent == nil {
		e.Spent = map[string]string{}
	}
	if e.Spent[name] == "" {
		e.Spent[name] = fingerprint
	}
}

// Resume puts in the place of a secret that was written, and that a proof has spent
// before, what has followed it. before is what is stored, nil for nothing.
func (r *Registry) Resume(ctx context.Context, ref string, before, entry *Entry) error {
	if len(entry.brought) == 0 {
		return nil
	}
	known, err := r.successors.Get(ctx, ref)
	switch {
	case errors.Is(err, stored.ErrAbsent):
		known = &successor{}
	case err != nil:
		return err
	}
	for _, name := range entry.brought {
		of := secret.New(entry.Secrets[name]).Fingerprint()
		next, at := known.Secrets[name], known.At
		switch {
		case entry.Secrets[name] == "":
			continue
		case before != nil && (before.Spent[name] == of || known.Of[name] == of && next == ""):
			next, at = before.Secrets[name], before.reached() // the provider itself goes on with it
		case known.Of[name] != of:
			continue
		}
		if next == "" {
			continue
		}
		if !slices.Equal(at, entry.reached()) {
			return fault.New(fault.InvalidRequest, "this %s was spent where the provider was before, and what has followed it is sent nowhere else: write one that was not used", name)
		}
		entry.Secrets[name] = next
		entry.spends(name, of)
	}
	return nil
}

// settle is after a write: what followed a spent secret is the provider's own now, and
// what was kept of one that another has replaced is forgotten.
func (r *Registry) settle(ctx context.Context, ref string, entry *Entry) {
	if len(entry.brought) == 0 {
		return
	}
	err := r.successors.Change(ctx, ref, func(known *successor) (*successor, error) {
		if known == nil {
			return nil, stored.ErrUnchanged
		}
		for name := range known.Of {
			if slices.Contains(entry.brought, name) && entry.Spent[name] == "" {
				return nil, nil
			}
		}
		for name := range known.Of {
			if slices.Contains(entry.brought, name) {
				delete(known.Secrets, name)
			}
		}
		return known, nil
	})
	if err != nil {
		r.deps.Logger().Warn("what was kept of a parent credential could not be forgotten", "provider", ref, "error", err)
	}
}
