package downstream

import (
	"context"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// The calls that are paced and measured.
const (
	CallMint   = "mint"
	CallRevoke = "revoke"
	CallCheck  = "check"
	CallRotate = "rotate"
	CallFind   = "find"
)

func (p *Provider) typeName() string {
	name, _, _ := strings.Cut(p.Ref, "/")
	return name
}

// keyless reports whether providers of the type hold no parent credential.
func (p *Provider) keyless() bool {
	return len(SecretNames(p.registry.deps.Types.Lookup(p.typeName()))) == 0
}

// MayMint refuses a mint while the provider is to be left alone with its kind, because
// it said so or because it does not answer. It costs no place.
func (p *Provider) MayMint(k Kind) error { return p.site.gate.mayMint(k, p.registry.deps.Now()) }

// WaitMint waits for the place of a mint of the kind, no longer than the provider's
// settings say, and refuses at once whom that would not suffice.
func (p *Provider) WaitMint(ctx context.Context, k Kind) (*Place, error) {
	return p.site.gate.waitMint(ctx, p.registry.deps.Now, p.Settings.patience(), k)
}

// Mint asks the provider for a child in that mode, as provider.Provider's Mint has it, at
// the place that was got for it and given back with the answer. A caller who hangs up
// does not cut the call short: the answer may hold a token that somebody has to kill.
func (p *Provider) Mint(ctx context.Context, at *Place, mode provider.Mode, r provider.Request) (*provider.Child, error) {
	k := at.attempt.kind
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), MintBudget)
	defer cancel()
	ctx, exchanges := httpclient.Watch(withKind(ctx, k))
	started := time.Now()
	child, err := p.call(httpclient.Once(p.site.gate.withPace(ctx)), mode, r)
	if err != nil {
		err = p.discreet(err, secretsOf(r, child)...)
	}
	p.registry.deps.Measure(p.Ref, CallMint, started, err)
	p.site.gate.heedMint(k, p.registry.deps.Now(), err)
	if err == nil && mode != provider.ModeForward { // which asks with nothing of the parent's
		p.proven(ctx)
	}
	if until := at.end(outcomeOf(exchanges, err), p.registry.deps.Now()); !until.IsZero() {
		p.registry.deps.Logger().Warn("the provider does not answer, or fails at requests of this kind: it is not asked again until then", "provider", p.Ref, "kind", just(k), "until", until, "error", err)
	}
	return child, err
}
