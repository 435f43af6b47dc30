// Package catalog is the list of provider types: a new one is a line here.
package catalog

import (
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/jwt"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/oauth2"
)

// Types are all provider types, in the order in which help shows them.
func Types() []provider.Type {
	return []provider.Type{
		oauth2.Type{},
		jwt.Type{},
	}
}

// Lookup returns the type called name, or nil.
func Lookup(name string) provider.Type {
	for _, t := range Types() {
		if t.Name() == name {
			return t
		}
	}
	return nil
}
