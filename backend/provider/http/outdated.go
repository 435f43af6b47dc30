package httpapi

import (
	"context"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// outdated is a Provider whose stored definition an earlier version took, and this one does
// not: it ends what was made, and nothing else. outdatedFinding is one with a find.
type (
	outdated struct {
		revoking
		why error
	}
	outdatedFinding struct{ outdated }
)

var (
	_ provider.Revoker = (*outdated)(nil)
	_ provider.Finder  = (*outdatedFinding)(nil)
)

func outdatedOf(p *Provider, why error, finds bool) provider.Provider {
	o := outdated{revoking{p}, why}
	if finds {
		return &outdatedFinding{o}
	}
	return &o
}

func (p *outdated) refused() error {
	return fault.New(fault.TemporarilyUnavailable, "this version of the plugin does not take the provider's definition any more: an operator must write it anew: %s", fault.Public(p.why)).Because(p.why)
}

// Mint implements provider.Provider.
func (p *outdated) Mint(context.Context, provider.Request) (*provider.Child, error) {
	return nil, p.refused()
}

// Check implements provider.Checker.
func (p *outdated) Check(context.Context) (provider.Health, error) {
	return provider.Health{}, p.refused()
}

// Find implements provider.Finder: what is to be found stays on record until a definition
// tells again where.
func (p *outdatedFinding) Find(context.Context, provider.Trace) ([]provider.Found, error) {
	return nil, p.refused()
}
