package downstream

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// ErrNotRevocable is of a provider that kills none of its children.
var ErrNotRevocable = errors.New("the provider cannot revoke")

// Reaper is who can call the providers' Revoke: there is no other way to it. It is safe
// for concurrent use.
type Reaper struct{ registry *Registry }

// MustOpen is the registry's.
func (r *Reaper) MustOpen(ctx context.Context, ref string) (*Provider, error) {
	return r.registry.MustOpen(ctx, ref)
}

// Revoke is one paced and measured call that kills the child of the handle, as
// provider.Revoker says. It is ErrNotRevocable where the provider kills none.
func (r *Reaper) Revoke(ctx context.Context, p *Provider, handle secret.Text) error {
	revoker := p.revoker()
	if revoker == nil {
		return ErrNotRevocable
	}
	return r.call(ctx, p, CallRevoke, func(ctx context.Context) error { return p.discreet(revoker.Revoke(ctx, handle), handle) })
}

// Find is one paced and measured call that looks for what a mint has left, as
// provider.Finder says. It is ErrNotRevocable where the provider's children have no names.
func (r *Reaper) Find(ctx context.Context, p *Provider, t provider.Trace) (found []provider.Found, err error) {
	finder := p.finder()
	if finder == nil {
		return nil, errors.Join(ErrNotRevocable, provider.ErrCannotRevoke)
	}
	err = r.call(ctx, p, CallFind, func(ctx context.Context) error {
		found, err = finder.Find(ctx, t)
		if err == nil && slices.ContainsFunc(found, func(f provider.Found) bool { return !provider.CanBeLever(f.Lever) || p.Secrets().In(f.Lever) }) {
			found, err = nil, fault.New(fault.ProviderViolation, "the provider found a child that hangs on something whose name cannot be recorded")
		}
		return p.discreet(err)
	})
	return found, err
}

func (r *Reaper) call(ctx context.Context, p *Provider, what string, f func(context.Context) error) error {
	deps := r.registry.deps
	done, err := p.site.gate.waitRevoke(ctx, deps.Now())
	if err != nil {
		return err
	}
	defer done()
	started := time.Now()
	err = f(p.site.gate.withPace(toKill(ctx)))
	deps.Measure(p.Ref, what, started, err)
	p.site.gate.heedRevoke(deps.Now(), err)
	return err
}

type killing struct{}

func toKill(ctx context.Context) context.Context { return context.WithValue(ctx, killing{}, true) }

// IsToKill reports whether a call is to kill something.
func IsToKill(ctx context.Context) bool { return ctx.Value(killing{}) != nil }
