package downstream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Whether a provider takes the parent credential is on record, and written only where it
// has changed. One answer that refuses the parent is not believed of it, since it may be
// about what was asked for, or an accident: the parent is checked then, and the check's
// word counts. While a parent is refused no mint asks, but one in every refusedFor, so
// that a server that has been mended is noticed.

// The healths of a provider, as far as they are on record.
const (
	HealthOK       = "ok"
	HealthUnknown  = "unknown" // since it was written, nothing has shown that the parent works
	HealthRefused  = "refused"
	HealthDisabled = "disabled"
	HealthDeleting = "deleting"
)

const (
	// refusedFor is how long a refusal is believed without being looked at again.
	refusedFor = time.Minute
	// lookBudget bounds a check that a mint's caller waits for.
	lookBudget = 15 * time.Second
)

// The values of Provider.standing.
const (
	standsUnknown int32 = iota
	standsProven
	standsRefused
)

// Refusal is that a provider refuses the parent.
type Refusal struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// String is for operators.
func (r *Refusal) String() string { return "since " + stamp(r.Since) + ": " + r.Why }

func (e *Entry) standing() int32 {
	switch {
	case e.Refused != "", e.Refusal != nil:
		return standsRefused
	case e.Unproven:
		return standsUnknown
	}
	return standsProven
}

// forget is for another parent, or another place to which it is sent.
func (e *Entry) forget() { e.Refused, e.Refusal, e.Unproven, e.moved = "", nil, true, true }

// isCurrent reports whether a secret is a part of the parent of now. What ends in _next is
// of the one to come.
func isCurrent(name string) bool { return !strings.HasSuffix(name, "_next") }

// proven notes that the parent works.
func (p *Provider) proven(ctx context.Context) {
	p.site.gate.trusts() // a mint with the parent of before may have closed it since
	if p.standing.Load() == standsProven {
		return
	}
	p.record(ctx, standsProven, func(e *Entry) { e.Unproven, e.Refusal = false, nil })
}

// ends notes when the parent itself ends, as its provider says.
func (p *Provider) ends(ctx context.Context, at time.Time) {
	r := p.registry
	err := r.entries.ChangeQuietly(ctx, p.Ref, func(e *Entry) (*Entry, error) {
		if e == nil || e.Serial != p.serial || e.ParentEnds.Equal(at) {
			return nil, stored.ErrUnchanged
		}
		e.ParentEnds = at
		return e, nil
	})
	if err != nil {
		r.deps.Logger().Warn("when a parent credential ends could not be stored", "provider", p.Ref, "error", err)
	}
}

// refused notes that the provider refuses the parent, of which that is certain. Where the
// type has put it on record itself, there is nothing more to note.
func (p *Provider) refused(ctx context.Context, why error) {
	if errors.Is(why, provider.ErrRefusalKnown) {
		return
	}
	now := p.registry.deps.Now()
	p.site.gate.distrusts(why, now)
	if p.standing.Load() == standsRefused {
		return
	}
	p.registry.deps.Logger().Error("the provider refuses the parent credential: an operator must act", "event", "parent_refused", "provider", p.Ref, "error", why)
	p.record(ctx, standsRefused, func(e *Entry) { e.Refusal = &Refusal{Since: now, Why: fault.Public(why)} })
}

// record stores what is known of the parent now, unless that is another one. What fails is
// done again when it is next learnt.
func (p *Provider) record(ctx context.Context, standing int32, change func(*Entry)) {
	r := p.registry
	err := r.entries.ChangeQuietly(ctx, p.Ref, func(e *Entry) (*Entry, error) {
		if e == nil || e.Serial != p.serial || e.standing() == standing {
			return nil, stored.ErrUnchanged
		}
		change(e)
		return e, nil
	})
	if err != nil {
		p.standing.Store(standsUnknown)
		r.deps.Logger().Warn("what is known of a parent credential could not be stored", "provider", p.Ref, "error", err)
		return
	}
	p.standing.Store(standing)
}

// isCurrent reports whether the parent is still the one that p was opened with.
func (p *Provider) isCurrent(ctx context.Context) bool {
	now, err := p.registry.Open(ctx, p.Ref)
	return err == nil && now.serial == p.serial
}

// onlyThis is for a caller whose request was refused as the parent's, which works.
func onlyThis(failed error) error {
	return fault.New(fault.TemporarilyUnavailable, "the provider refused this request as it refuses an unknown client, and took the parent credential when it was checked a moment later: try again in a minute, or ask for something else").Because(failed)
}

// LookAgain checks the parent where a mint of the kind has failed so that it is in doubt:
// the provider refused it, and is not known to; or it is known to, and this mint, which
// was to find that out, did not. It returns what the mint's caller is to be answered, and
// the check's children, as a Checker's.
func (p *Provider) LookAgain(ctx context.Context, k Kind, failed error) (provider.Health, error) {
	blamed, known := fault.CodeOf(failed) == fault.ParentRefused, p.standing.Load() == standsRefused
	switch {
	case !p.isCurrent(ctx):
		return provider.Health{}, failed
	case blamed && errors.Is(failed, provider.ErrRefusalKnown), !blamed && !(known && needsParent(k)):
		return provider.Health{}, failed
	case blamed && known:
		p.site.gate.distrusts(failed, p.registry.deps.Now())
		return provider.Health{}, failed
	}
	health, looked, err := p.look(ctx)
	if !p.isCurrent(ctx) {
		return health, failed
	}
	switch {
	case !looked:
	case err == nil && !health.Untold:
		p.proven(ctx)
		p.site.looks.settled(p.registry.deps.Now())
		if blamed {
			failed = onlyThis(failed)
		}
	case fault.CodeOf(err) == fault.ParentRefused:
		p.refused(ctx, err)
		return health, failed
	case known && (health.Untold || errors.Is(err, provider.ErrUntold)):
		p.site.gate.trusts() // not refused, this time: let the others try
	}
	if blamed {
		now := p.registry.deps.Now()
		p.site.gate.spare(k, failed, now, now.Add(refusedFor))
	}
	return health, failed
}

// look checks the parent, if nobody else does and it was not found to work a little while
// ago. It has a bound of its own, and does not end with the caller.
func (p *Provider) look(ctx context.Context) (health provider.Health, looked bool, err error) {
	check := p.checker()
	if check == nil || !p.site.looks.begin(p.registry.deps.Now()) {
		return provider.Health{}, false, nil
	}
	defer p.site.looks.end()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookBudget)
	defer cancel()
	if err := p.site.gate.waitFurther(ctx); err != nil {
		return provider.Health{}, false, nil
	}
	health, err = p.checked(ctx, CallCheck, check)
	return health, true, err
}

// checked is one measured call of a Checker or Rotator.
func (p *Provider) checked(ctx context.Context, what string, do func(context.Context) (provider.Health, error)) (provider.Health, error) {
	started := time.Now()
	health, err := do(httpclient.Once(p.site.gate.withPace(ctx)))
	health, err = p.show(health), p.discreet(err)
	p.registry.deps.Measure(p.Ref, what, started, err)
	return health, err
}

// looks are the checks of a parent that was in doubt: one at a time, and for refusedFor
// none after one that found it to work, so that a server that refuses some requests in
// that way is not asked twice for each.
type looks struct {
	mu      sync.Mutex
	running bool
	until   time.Time
}

func (l *looks) begin(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running || now.Before(l.until) {
		return false
	}
	l.running = true
	return true
}

func (l *looks) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
}

func (l *looks) settled(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = now.Add(refusedFor)
}

// refusal is that the parent is refused, so that no mint need ask. The zero refusal is
// none.
type refusal struct {
	until time.Time
	why   error
}

// tryAgain lets nobody else try while somebody does.
func (r *refusal) tryAgain(k Kind, now time.Time) {
	if r.why != nil && needsParent(k) {
		r.until = now.Add(refusedFor)
	}
}

// needsParent reports whether such a request is made with the parent: what is forwarded is
// the caller's own.
func needsParent(k Kind) bool { return k.Mode != provider.ModeForward }

// distrusts notes that the parent is refused.
func (g *gate) distrusts(why error, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusal = refusal{until: now.Add(refusedFor), why: why}
	g.places.dismiss(func(k Kind) error { return g.mayMintLocked(k, now) })
}

// trusts notes that the parent works.
func (g *gate) trusts() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusal = refusal{}
}

// spare has requests of the kind answered with why until then.
func (g *gate) spare(k Kind, why error, now, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.spared.learn(k, fewMoot, why, now, until)
}
