package decision_test

import (
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// kind is a provider type of which nothing but name and parameters are asked.
type kind struct {
	provider.Type
	parameters map[string]string
}

func (kind) Name() string                    { return "test" }
func (k kind) Parameters() map[string]string { return k.parameters }

// able are the traits of a provider that can do everything.
func able() provider.Traits {
	askable, checkable := access.Dimensions{}, access.Dimensions{}
	for _, d := range access.AllDimensions() {
		askable[d], checkable[d] = true, true
	}
	return provider.Traits{
		Class: provider.ClassToken, Askable: askable, Checkable: checkable, Ceiling: access.Everything(),
		Modes: []provider.Mode{provider.ModeMint, provider.ModeExchange, provider.ModeForward}, Actors: true,
	}
}
