package downstream

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// What a type or a provider can do beyond what each must is asked for here and nowhere
// else.

// call asks the provider for a child in that mode.
func (p *Provider) call(ctx context.Context, mode provider.Mode, r provider.Request) (*provider.Child, error) {
	switch mode {
	case provider.ModeExchange:
		if exchanger, ok := p.opened.(provider.Exchanger); ok {
			return exchanger.Exchange(ctx, r)
		}
	case provider.ModeForward:
		if forwarder, ok := p.opened.(provider.Forwarder); ok {
			return forwarder.Forward(ctx, r)
		}
	default:
		return p.opened.Mint(ctx, r)
	}
	return nil, fault.New(fault.TemporarilyUnavailable, "the provider cannot %s any more: an operator must write the role again", mode)
}

// checker proves the parent credential; nil if that cannot be done.
func (p *Provider) checker() func(context.Context) (provider.Health, error) {
	if checker, ok := p.opened.(provider.Checker); ok {
		return checker.Check
	}
	return nil
}

// unprovable is why no check proves the parent, with what is to be done instead; "" where
// one does.
func (p *Provider) unprovable() string {
	if p.checker() == nil {
		return "providers of type " + p.typeName() + " cannot be checked"
	}
	if trusted, ok := p.opened.(provider.Trusted); ok {
		return trusted.Unprovable()
	}
	return ""
}

// rotator changes the parent credential; nil if that cannot be done.
func (p *Provider) rotator() func(context.Context) (provider.Health, error) {
	if rotator, ok := p.opened.(provider.Rotator); ok {
		return rotator.Rotate
	}
	return nil
}

// Ingredients is what a child for r would say, as provider.Composer has it; ok is false
// if the provider's children say no more than the request does.
func (p *Provider) Ingredients(ctx context.Context, r provider.Request) (said string, ok bool, err error) {
	composer, ok := p.opened.(provider.Composer)
	if !ok {
		return "", false, nil
	}
	said, err = composer.Ingredients(ctx, r)
	return said, true, err
}

// CheckParameters judges the parameters of a role, as provider.ParameterChecker says.
func (p *Provider) CheckParameters(mode provider.Mode, parameters map[string]string) error {
	if checker, ok := p.opened.(provider.ParameterChecker); ok {
		return checker.CheckParameters(mode, parameters)
	}
	return nil
}

// CheckCeiling judges the ceiling of a role, as provider.CeilingChecker says.
func (p *Provider) CheckCeiling(mode provider.Mode, parameters map[string]string, ceiling access.Access) error {
	if checker, ok := p.opened.(provider.CeilingChecker); ok {
		return checker.CheckCeiling(mode, parameters, ceiling)
	}
	return nil
}

// TraitsFor are the traits for the children of a role, as provider.Varying says.
func (p *Provider) TraitsFor(mode provider.Mode, parameters map[string]string) provider.Traits {
	if varying, ok := p.opened.(provider.Varying); ok {
		return varying.TraitsFor(mode, parameters)
	}
	return p.Traits
}

// Public are the fields that a read of the provider adds.
func (p *Provider) Public() map[string]any {
	if publisher, ok := p.opened.(provider.Publisher); ok {
		return publisher.Public()
	}
	return nil
}

// revoker kills the provider's children; nil if it cannot.
func (p *Provider) revoker() provider.Revoker {
	revoker, _ := p.opened.(provider.Revoker)
	return revoker
}

// Finds reports whether the provider's children can be found again by what they were
// named after.
func (p *Provider) Finds() bool { return p.finder() != nil }

// Unlearns reports whether the provider could end less than it could before it was changed:
// kill its children, or find those whose mint was cut short.
func (p *Provider) Unlearns(before *Provider) bool {
	return before.revoker() != nil && p.revoker() == nil || before.Finds() && !p.Finds()
}

// finder finds the provider's children; nil if it cannot.
func (p *Provider) finder() provider.Finder {
	finder, _ := p.opened.(provider.Finder)
	return finder
}

// Where is where the provider looks for what comes of r; "" where it needs no telling.
func (p *Provider) Where(r provider.Request) (string, error) {
	if locating, ok := p.opened.(provider.Locating); ok {
		return locating.Where(r)
	}
	return "", nil
}

// parts are the secrets of a parent that stand in one field with others.
func (p *Provider) parts(parent provider.Parent) []secret.Text {
	if compound, ok := p.registry.deps.Types.Lookup(p.typeName()).(provider.Compound); ok {
		return compound.Parts(parent.Secrets)
	}
	return nil
}

// PresetsOf are the systems that providers of type t take by name.
func PresetsOf(t provider.Type) []provider.Preset {
	if presetting, ok := t.(provider.Presetting); ok {
		return presetting.Presets()
	}
	return nil
}

// PublicFields describe what Provider.Public shows.
func PublicFields(t provider.Type) map[string]*framework.FieldSchema {
	if shows, ok := t.(provider.Shows); ok {
		return shows.PublicFields()
	}
	return nil
}

// generate makes the secrets that the broker makes rather than the operator.
func generate(t provider.Type, change provider.Change) (map[string]secret.Text, error) {
	if generator, ok := t.(provider.Generator); ok {
		return generator.Generate(change)
	}
	return nil, nil
}

// reservedAudiences are what a provider of type t reserves by its configuration.
func reservedAudiences(t provider.Type, cfg provider.Config) provider.Reserved {
	if reserving, ok := t.(provider.Reserving); ok {
		return reserving.ReservedAudiences(cfg)
	}
	return provider.Reserved{}
}

// CanBorrow reports whether providers of type t may have another's token for their
// credential.
func CanBorrow(t provider.Type) bool {
	_, ok := t.(provider.Borrower)
	return ok
}

// loanIn is what a provider of type t and that configuration borrows; nil for nothing.
func loanIn(t provider.Type, cfg provider.Config) *provider.Loan {
	if borrower, ok := t.(provider.Borrower); ok {
		return borrower.Loan(cfg)
	}
	return nil
}

// GuideOf is what a type tells a stranger; empty if it says nothing.
func GuideOf(t provider.Type) provider.Guide {
	if guided, ok := t.(provider.Guided); ok {
		return guided.Guide()
	}
	return provider.Guide{}
}
