// Package catalog is the list of provider types: a new one is a line here.
package catalog

import (
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab"
	httpapi "github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/http"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/jwt"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/oauth2"
)

// Types are all provider types, in the order in which help shows them.
func Types() Catalog {
	return Catalog{
		oauth2.Type{},
		jwt.Type{},
		github.Type{},
		gitlab.Type{},
		httpapi.Type{},
	}
}

// Catalog is a list of provider types with different names. An engine is made with
// one, so that a test can add a type of its own.
type Catalog []provider.Type

// Lookup returns the type called name, or nil.
func (c Catalog) Lookup(name string) provider.Type {
	for _, t := range c {
		if t.Name() == name {
			return t
		}
	}
	return nil
}

// Names are the types' names, in order.
func (c Catalog) Names() []string {
	names := make([]string, 0, len(c))
	for _, t := range c {
		names = append(names, t.Name())
	}
	return names
}
