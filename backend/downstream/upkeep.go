package downstream

import (
	"context"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Upkeep is the right to one check or rotation of a provider's parent credential, as an
// operator asks for it: within the rate limit, one at a time at each provider, and also
// while mints are spared the provider, because it is how an operator ends that. What it
// meets is believed of no mint. It is one goroutine's.
type Upkeep struct {
	// Provider is as it was opened when the right to it came.
	Provider *Provider

	leave func()
}

// errUpkeep refuses a second check or rotation.
var errUpkeep = fault.New(fault.TemporarilyUnavailable, "another check or rotation of this provider is under way: try again when it has ended")

// Upkeep waits until no other one is under way at the provider, and for the rate limit, no
// longer than a mint would. The error is stored.ErrAbsent if there is no such provider.
// Until Done the provider stays what it is, as during a mint.
func (r *Registry) Upkeep(ctx context.Context, ref string) (*Upkeep, error) {
	p, err := r.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	done, err := p.site.upkeep(ctx, p.Settings.patience())
	if err != nil {
		return nil, err
	}
	// The one before may have changed the parent.
	if p, err = r.MustOpen(ctx, ref); err != nil {
		done()
		return nil, err
	}
	depart, err := r.Admit(ctx, p)
	if err != nil {
		done()
		return nil, err
	}
	return &Upkeep{Provider: p, leave: func() { depart(); done() }}, nil
}

// upkeep waits for its place, of which there is one, and then for the rate limit, among the
// mints that wait for that.
func (s *site) upkeep(ctx context.Context, patience time.Duration) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	k := Kind{} // nobody's
	s.mu.Lock()
	w := s.upkeeps.join(k)
	s.mu.Unlock()
	if err := s.upkeeps.stand(ctx, &s.mu, w); err != nil {
		return nil, errUpkeep
	}
	done = func() { s.upkeeps.step(&s.mu, k) }
	if err := s.gate.pace(ctx, k); err != nil {
		done()
		return nil, noRoom(err)
	}
	return done, nil
}

// Done ends the right. What the call could not help minting is dead by then, or recorded.
func (u *Upkeep) Done() { u.leave() }

// Check proves live that the parent credential works, as provider.Checker says. A success
// ends what the broker believes of the provider.
func (u *Upkeep) Check(ctx context.Context) (provider.Health, error) {
	check := u.Provider.checker()
	if check == nil {
		return provider.Health{}, fault.New(fault.InvalidRequest, "providers of type %s cannot be checked: read creds of one of its roles to see whether it works", u.Provider.typeName())
	}
	return u.call(ctx, CallCheck, check)
}

// Rotate changes the parent credential, as provider.Rotator says. A success ends what the
// broker believes of the provider, which is opened anew.
func (u *Upkeep) Rotate(ctx context.Context) (provider.Health, error) {
	rotate := u.Provider.rotator()
	if rotate == nil && u.Provider.keyless() {
		return provider.Health{}, fault.New(fault.InvalidRequest, "providers of type %s cannot rotate a parent credential, because they have none: issuer/rotate makes new signing keys", u.Provider.typeName())
	}
	if rotate == nil {
		return provider.Health{}, fault.New(fault.InvalidRequest, "providers of type %s cannot rotate their parent credential: write a new one, as it was written first", u.Provider.typeName())
	}
	health, err := u.call(ctx, CallRotate, rotate)
	if err == nil {
		u.Provider.registry.Drop(u.Provider.Ref)
	}
	return health, err
}

// call goes on when the caller hangs up, because the answer may hold a token that
// somebody has to kill.
func (u *Upkeep) call(ctx context.Context, what string, do func(context.Context) (provider.Health, error)) (provider.Health, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), MintBudget)
	defer cancel()
	health, err := u.Provider.checked(ctx, what, do)
	if err == nil {
		u.Provider.registry.Mend(u.Provider.Ref)
	}
	switch {
	case err == nil && !health.Untold:
		u.Provider.proven(ctx)
		u.Provider.ends(ctx, health.Ends)
	case what == CallCheck && fault.CodeOf(err) == fault.ParentRefused: // a rotation's is about the next parent
		u.Provider.refused(ctx, err)
	}
	return health, err
}
